// Codes of a pool's blocks, or of rows, at fewer bits. Bound by the bytes read and written.
#pragma once

#include "kv_cache/gpu_halve.cuh"

namespace warploom::kv_cache::gpu {

template <class M, int bits, int to, bool tiles>
struct shrink_kernel {
  using machine = M;
  struct params {
    int64_t blocks, pool, words;  // words of a block's result
    int64_t stride, out_stride;   // in words
    int64_t pieces;               // blocks of threads to a block of codes; 1 in place
    global<const uint32_t> codes;
    global<uint32_t> out;
    global<const int32_t> index;  // null: 0, 1, 2, ...
    bool vector;
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_shrink";
  static constexpr int threads = 256, min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int ratio = bits / to, turn = threads * kRunWords;

  SIMT_DEVICE static void run(const params& a) {
    const int64_t n = simt::block_x() / a.pieces, piece = simt::block_x() % a.pieces;
    const int64_t block = a.index ? simt::load(a.index, n) : n;
    if (block < 0 || block >= a.pool) {
      if (simt::thread_index() == 0) simt::set_error(a.error, error_word(device_error::index, n));
      return;
    }
    const auto codes = a.codes + block * a.stride;
    const auto out = a.out + block * a.out_stride;
    halve<bits, to, tiles, threads>(codes, out, a.words, piece, a.pieces, a.vector);
  }
};

template <class M, class>
struct shrink_op {
  using params_type = wl_kv_shrink_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    if (w.order == WL_KV_TILES) return run_order<true>(w);
    return run_order<false>(w);
  }
  template <bool tiles>
  static wl_status run_order(const params_type& w) {
    if (w.bits == 4) return run_of<4, 2, tiles>(w);
    return w.to == 4 ? run_of<8, 4, tiles>(w) : run_of<8, 2, tiles>(w);
  }

  template <int bits, int to, bool tiles>
  static wl_status run_of(const params_type& w) {
    using Kernel = shrink_kernel<M, bits, to, tiles>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.blocks = w.blocks;
    a.pool = w.pool;
    a.words = w.count * to / 32;
    a.stride = w.stride / 4;
    a.out_stride = w.out_stride / 4;
    const wl_strided from{w.codes, {0, 0, a.stride}}, into{w.out, {0, 0, a.out_stride}};
    a.out = launcher.updated<uint32_t>(into, 1, 1, w.pool, a.words).data;
    a.codes = launcher.updated<uint32_t>(from, 1, 1, w.pool, a.words * Kernel::ratio).data;
    a.index = launcher.input(w.index, w.blocks);
    const int64_t turns = (a.words + Kernel::turn - 1) / Kernel::turn;
    a.pieces = w.out == w.codes ? 1 : turns;
    a.vector = simt::aligned(from, {1, 1, w.pool}, 4) && simt::aligned(into, {1, 1, w.pool}, 4);
    a.error = launcher.error();
    launcher.launch<Kernel>(a.words ? w.blocks * a.pieces : 0, 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, shrink_op)
