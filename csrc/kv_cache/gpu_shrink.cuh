// Codes at fewer bits: a thread makes four words of the result at a time. Bound by the bytes read
// and written.
//
// In place, one block of threads takes a block of codes from its start to its end. What it writes
// in a turn lies where it has read before: a result of up to n bytes comes from the first 2 n or
// more.
#pragma once

#include "kv_cache/gpu_codes.cuh"

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
  static constexpr int ratio = bits / to, run_words = 4, turn = threads * run_words;

  SIMT_DEVICE static void run(const params& a) {
    const int64_t n = simt::block_x() / a.pieces, piece = simt::block_x() % a.pieces;
    const int64_t block = a.index ? simt::load(a.index, n) : n;
    if (block < 0 || block >= a.pool) {
      if (simt::thread_index() == 0) simt::set_error(a.error, error_word(device_error::index, n));
      return;
    }
    const auto codes = a.codes + block * a.stride;
    const auto out = a.out + block * a.out_stride;
    for (int64_t start = piece * turn; start < a.words; start += a.pieces * turn) {
      const int64_t word = start + simt::thread_index() * run_words;
      uint64_t from[run_words][ratio];  // by word of the result
      SIMT_UNROLL
      for (int part = 0; part < ratio; ++part) {
        // Tiles: line after line, 16 words apart. Rows: the words of one row follow each other.
        const int64_t at =
            tiles ? (word / 16 * ratio + part) * 16 + word % 16 : word * ratio + part * run_words;
        const int64_t left = word < a.words ? (a.words - word) * ratio - part * run_words : 0;
        const auto words = load_some(codes, at, tiles ? left > 0 ? run_words : 0 : left, a.vector);
        SIMT_UNROLL
        for (int i = 0; i < run_words; ++i) {
          if constexpr (tiles) {
            from[i][part] = words[i];
          } else {
            from[(part * run_words + i) / ratio][(part * run_words + i) % ratio] = words[i];
          }
        }
      }
      simt::vec<uint32_t, run_words> result;
      SIMT_UNROLL
      for (int i = 0; i < run_words; ++i) result[i] = uint32_t(join<bits, to>(from[i]));
      simt::sync_block();  // everybody has read what is now overwritten
      if (word + run_words <= a.words) {
        store_words(out, word, result, a.vector);
      } else {
        SIMT_UNROLL
        for (int i = 0; i < run_words; ++i) {
          if (word + i < a.words) simt::store(out, word + i, result[i]);
        }
      }
    }
  }

  // Four words, of which `count` are there.
  SIMT_DEVICE static simt::vec<uint32_t, run_words> load_some(global<const uint32_t> p, int64_t i,
                                                              int64_t count, bool vector) {
    if (count >= run_words) return load_words<run_words>(p, i, vector);
    simt::vec<uint32_t, run_words> words{};
    SIMT_UNROLL
    for (int n = 0; n < run_words; ++n) {
      if (n < count) words[n] = simt::load(p, i + n);
    }
    return words;
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
