// Compiles every test kernel's correct form, and the layout probe, for a device: nvcc and hipcc
// take this file as it is.
#include "kernels/atom.cuh"
#include "kernels/attention.cuh"
#include "kernels/faults.cuh"
#include "kernels/several.cuh"
#include "kernels/signals.cuh"
#include "kernels/tickets.cuh"
#include "simt/launch.h"
#include "simt/layout_probe.cuh"

namespace warploom::simt::test {

using M = device_machine;

template <class... Kernels>
outcome launch_all(typename Kernels::params... params) {
  outcome last;
  ((last = launch<Kernels>({1}, Kernels::smem_bytes, nullptr, params)), ...);
  return last;
}

// Taking its address instantiates the launch of each, and with it the kernel; the variables are
// external so that no compiler drops them.
auto* products =
    &launch_all<atom_product<M, bf16, 64, false, false>, atom_product<M, bf16, 64, false, true>,
                atom_product<M, bf16, 80, true, false>, atom_product<M, f16, 128, true, true>>;
auto* attentions =
    &launch_all<attention<M, bf16, attention_bug::none>, attention<M, f16, attention_bug::none>>;
auto* probes = &launch_all<layout_probe<M, bf16>, layout_probe<M, f16>>;
auto* words = &launch_all<
    shared_race<M, false>, shuffle_for_sync_warp<M, false>, half_word_race<M, false>,
    plain_and_atomic<M, false>, misaligned_vector<M, false>, unwritten_lane_of_vector<M, false>,
    fragment_without_sync<M, false>, ticket_pipeline<M, ticket_bug::none>,
    signal_kernel<M, signal_bug::none>, signal_kernel<M, signal_bug::relaxed_wait>,
    signal_kernel<M, signal_bug::block_scope>, shared_flag<M, false>, grid_barrier<M, false>,
    lanes_arrive_one_by_one<M, false>, in_place<M, false>, table_for_all<M, false>>;

}  // namespace warploom::simt::test
