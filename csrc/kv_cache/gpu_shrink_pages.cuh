// Blocks of pages to fewer bits where they lie, of any widths in one launch: each by the kernel
// that shrinks blocks of a pool.
#pragma once

#include "kv_cache/gpu_blocks.cuh"
#include "kv_cache/gpu_halve.cuh"

namespace warploom::kv_cache::gpu {

template <class M>
struct shrink_pages_kernel {
  using machine = M;
  struct params {
    pages_view pages;
    global<const int32_t> blocks, bits;
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_shrink_pages";
  static constexpr int threads = 256, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int n = simt::block_x(), to = simt::load(a.bits, n);
    const int64_t index = simt::load(a.blocks, n);
    const bool known = index >= 0 && index < a.pages.pages * a.pages.hk * 2;
    const block b = known ? a.pages.at(index) : block{};
    if ((b.width != 8 && b.width != 4) || (to != 4 && to != 2) || to >= b.width) {
      if (simt::thread_index() == 0) simt::set_error(a.error, error_word(device_error::blocks, n));
      return;
    }
    const auto codes = a.pages.pool + b.at;
    const int64_t words = int64_t{a.pages.page} * b.dim * to / 32;
    if (b.width == 4) {
      halve<4, 2, true, threads>(codes, codes, words, 0, 1, true);
    } else if (to == 4) {
      halve<8, 4, true, threads>(codes, codes, words, 0, 1, true);
    } else {
      halve<8, 2, true, threads>(codes, codes, words, 0, 1, true);
    }
    simt::sync_block();  // everybody has read the tag
    if (simt::thread_index() == 0) a.pages.set_width(index, to);
  }
};

template <class M, class>
struct shrink_pages_op {
  using params_type = wl_kv_blocks_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = shrink_pages_kernel<M>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.pages = view_of(launcher, w.pages);
    if (!launcher.ok()) return launcher.status();
    a.blocks = launcher.input(w.blocks, w.count);
    a.bits = launcher.input(w.bits, w.count);
    a.error = launcher.error();
    launcher.launch<Kernel>(w.count, 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, shrink_pages_op)
