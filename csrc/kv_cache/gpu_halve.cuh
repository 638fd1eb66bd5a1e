// Codes at fewer bits: a thread makes four words of the result at a time.
//
// In place, one block of threads takes a block of codes from its start to its end. What it writes
// in a turn lies where it has read before: a result of up to n bytes comes from the first 2 n or
// more.
#pragma once

#include "kv_cache/gpu_codes.cuh"

namespace warploom::kv_cache::gpu {

inline constexpr int kRunWords = 4;

// Four words, of which `count` are there.
SIMT_DEVICE simt::vec<uint32_t, kRunWords> load_some(global<const uint32_t> p, int64_t i,
                                                     int64_t count, bool vector) {
  if (count >= kRunWords) return load_words<kRunWords>(p, i, vector);
  simt::vec<uint32_t, kRunWords> words{};
  SIMT_UNROLL
  for (int n = 0; n < kRunWords; ++n) {
    if (n < count) words[n] = simt::load(p, i + n);
  }
  return words;
}

// This block of threads' share, `piece` of `pieces`, of `count` words of a result. In place, one
// piece.
template <int bits, int to, bool tiles, int threads>
SIMT_DEVICE void halve(global<const uint32_t> codes, global<uint32_t> out, int64_t count,
                       int64_t piece, int64_t pieces, bool vector) {
  constexpr int ratio = bits / to, turn = threads * kRunWords;
  for (int64_t start = piece * turn; start < count; start += pieces * turn) {
    const int64_t word = start + simt::thread_index() * kRunWords;
    uint64_t from[kRunWords][ratio];  // by word of the result
    SIMT_UNROLL
    for (int part = 0; part < ratio; ++part) {
      // Tiles: line after line, 16 words apart. Rows: the words of one row follow each other.
      const int64_t at =
          tiles ? (word / 16 * ratio + part) * 16 + word % 16 : word * ratio + part * kRunWords;
      const int64_t left = word < count ? (count - word) * ratio - part * kRunWords : 0;
      const auto words = load_some(codes, at, tiles ? left > 0 ? kRunWords : 0 : left, vector);
      SIMT_UNROLL
      for (int i = 0; i < kRunWords; ++i) {
        if constexpr (tiles) {
          from[i][part] = words[i];
        } else {
          from[(part * kRunWords + i) / ratio][(part * kRunWords + i) % ratio] = words[i];
        }
      }
    }
    simt::vec<uint32_t, kRunWords> result;
    SIMT_UNROLL
    for (int i = 0; i < kRunWords; ++i) result[i] = uint32_t(join<bits, to>(from[i]));
    simt::sync_block();  // everybody has read what is now overwritten
    if (word + kRunWords <= count) {
      store_words(out, word, result, vector);
    } else {
      SIMT_UNROLL
      for (int i = 0; i < kRunWords; ++i) {
        if (word + i < count) simt::store(out, word + i, result[i]);
      }
    }
  }
}

}  // namespace warploom::kv_cache::gpu
