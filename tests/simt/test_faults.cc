// Every check of the emulator: a kernel with the bug, which must be reported at its line for 20
// seeds at 32 and 64 lanes, and the same kernel without it, about which nothing may be said.
#include "harness.h"
#include "kernels/faults.cuh"
#include "kernels/tickets.cuh"

namespace {

using warploom::simt::launch;
using warploom::simt::make_global;
using warploom::simt::memory;
using warploom::simt::emulator::fault;

struct host_buffers {
  std::vector<float> x = std::vector<float>(512, 1.0f), y = std::vector<float>(512);
  std::vector<int32_t> flags = std::vector<int32_t>(16);
  warploom::simt::test::buffers view(int64_t y_count, memory y_state) {
    return {make_global<const float>(x.data(), 512, memory::written),
            make_global(y.data(), y_count, y_state), make_global(flags.data(), 16, memory::written),
            256};
  }
};

template <class Kernel>
warploom::simt::outcome start(int64_t blocks, memory y_state = memory::unwritten) {
  host_buffers h;
  return launch<Kernel>({blocks}, Kernel::smem_bytes, nullptr, h.view(256, y_state));
}

}  // namespace

#define FAULT(kernel, kind, blocks)                                                            \
  SIMT_CASE(kernel##_is_found) {                                                               \
    simt_test::expect_fault(                                                                   \
        kind, []<class M>() { return start<warploom::simt::test::kernel<M, true>>(blocks); }); \
  }                                                                                            \
  SIMT_CASE(kernel##_without_the_bug_is_clean) {                                               \
    simt_test::expect_clean(                                                                   \
        []<class M>() { return start<warploom::simt::test::kernel<M, false>>(blocks); });      \
  }

FAULT(shared_race, fault::race, 1)
FAULT(warp_barrier_for_block, fault::race, 1)
FAULT(shuffle_for_sync_warp, fault::race, 1)
FAULT(write_after_read, fault::race, 1)
FAULT(half_word_race, fault::race, 1)
FAULT(global_race, fault::race, 2)
FAULT(plain_and_atomic, fault::race, 2)
FAULT(global_out_of_bounds, fault::out_of_bounds, 2)
FAULT(shared_out_of_bounds, fault::out_of_bounds, 1)
FAULT(arena_overflow, fault::out_of_bounds, 1)
FAULT(misaligned_vector, fault::out_of_bounds, 1)
FAULT(unwritten_shared, fault::unwritten, 1)
FAULT(unwritten_global, fault::unwritten, 2)
FAULT(unwritten_lane_of_vector, fault::unwritten, 1)
FAULT(divergent_block_barrier, fault::divergence, 1)
FAULT(barrier_in_one_warp, fault::divergence, 1)
FAULT(barrier_against_shuffle, fault::deadlock, 1)
FAULT(divergent_shuffle, fault::divergence, 1)
FAULT(shuffle_from_outside, fault::out_of_bounds, 1)
FAULT(divergent_product, fault::divergence, 1)
FAULT(divergent_fragment_load, fault::divergence, 1)
FAULT(fragment_without_sync, fault::race, 1)

#define TICKET_FAULT(bug, kind, blocks)                                                     \
  SIMT_CASE(ticket_##bug##_is_found) {                                                      \
    simt_test::expect_fault(kind, []<class M>() {                                           \
      return start<                                                                         \
          warploom::simt::test::ticket_pipeline<M, warploom::simt::test::ticket_bug::bug>>( \
          blocks, memory::written);                                                         \
    });                                                                                     \
  }

TICKET_FAULT(read_before_landing, fault::not_landed, 1)
TICKET_FAULT(no_block_barrier, fault::race, 1)
TICKET_FAULT(refill_live_buffer, fault::race, 1)
TICKET_FAULT(write_while_under_way, fault::not_landed, 1)
TICKET_FAULT(never_landed, fault::ticket, 1)
TICKET_FAULT(landed_uncommitted, fault::ticket, 1)
TICKET_FAULT(slot_twice, fault::ticket, 1)
TICKET_FAULT(committed_short, fault::ticket, 1)
TICKET_FAULT(too_many_newer, fault::ticket, 1)
TICKET_FAULT(source_overwritten, fault::race, 2)

SIMT_CASE(ticket_pipeline_is_clean_and_right) {
  simt_test::expect_clean([]<class M>() {
    host_buffers h;
    for (int i = 0; i < 512; ++i) h.x[static_cast<size_t>(i)] = static_cast<float>(i);
    using kernel = warploom::simt::test::ticket_pipeline<M, warploom::simt::test::ticket_bug::none>;
    auto o = launch<kernel>({2}, kernel::smem_bytes, nullptr, h.view(256, memory::unwritten));
    for (int i = 0; i < 256 && o.ok(); ++i) {
      const float want = 4.0f * static_cast<float>(255 - i % 128);
      simt_test::expect(h.y[static_cast<size_t>(i)] == want, "wrong sum");
    }
    return o;
  });
}
