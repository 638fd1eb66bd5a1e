// Blocks of 16 bits to codes where they lie: a block of threads makes the grids, then the codes in
// shared memory, and puts those where the values were. Bound by the bytes of the values.
#pragma once

#include "kv_cache/gpu_encode.cuh"

namespace warploom::kv_cache::gpu {

template <class M>
struct quantize_pages_kernel {
  using machine = M;
  struct params {
    pages_view pages;
    global<const int32_t> blocks, bits;
    int32_t room;  // words of shared memory
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_quantize_pages";
  static constexpr int threads = 256, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int n = simt::block_x(), bits = simt::load(a.bits, n);
    const int64_t index = simt::load(a.blocks, n);
    const bool known = index >= 0 && index < a.pages.pages * a.pages.hk * 2 &&
                       (bits == 8 || bits == 4 || bits == 2);
    const block b = known ? a.pages.at(index) : block{};
    if (b.width != 16) {
      if (simt::thread_index() == 0) simt::set_error(a.error, error_word(device_error::blocks, n));
      return;
    }
    const auto value = [&](int position, int channel) {
      return a.pages.value(b, position, channel);
    };
    if (!make_grids<threads>(a.pages, b, bits, value)) {
      if (simt::thread_index() == 0)
        simt::set_error(a.error, error_word(device_error::block_values, n));
      return;
    }
    simt::arena smem;
    const auto words = smem.take<uint32_t>(a.room);
    make_codes<threads>(a.pages, b, bits, value,
                        [&](int at, uint32_t word) { simt::store(words, at, word); });
    simt::sync_block();
    const int count = a.pages.page * b.dim * bits / 32;
    for (int i = simt::thread_index() * 4; i < count; i += threads * 4) {
      simt::store_vec(a.pages.pool, b.at + i, simt::load_vec<4>(words, i));
    }
    if (simt::thread_index() == 0) a.pages.set_width(index, bits);
  }
};

template <class M, class>
struct quantize_pages_op {
  using params_type = wl_kv_blocks_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = quantize_pages_kernel<M>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    const int64_t words = w.pages.page * std::max(w.pages.d, w.pages.dv) / 4;
    launcher.require_shared(Kernel::name, words * 4);
    a.pages = view_of(launcher, w.pages);
    if (!launcher.ok()) return launcher.status();
    a.blocks = launcher.input(w.blocks, w.count);
    a.bits = launcher.input(w.bits, w.count);
    a.room = int32_t(words);
    a.error = launcher.error();
    launcher.launch<Kernel>(w.count, simt::arena_bytes<uint32_t>(a.room), a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, quantize_pages_op)
