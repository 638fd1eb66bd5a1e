// Strips of 16 values and their codes: what a thread of the cache's kernels works on. A strip's
// codes fill one word at 2 bits, two at 4, four at 8.
#pragma once

#include "base/device_errors.h"
#include "base/math_constants.h"
#include "kv_cache/format.h"
#include "simt/launcher.h"
#include "warploom/kv_cache.h"

namespace warploom::kv_cache::gpu {

using simt::global;
using simt::Launcher;

inline constexpr int kStrip = 16;

template <class T>
inline constexpr float kLargest = 0x1.fffffep127f;
template <>
inline constexpr float kLargest<simt::f16> = 65504;
template <>
inline constexpr float kLargest<simt::bf16> = 0x1.fep127f;

// What would round beyond the largest number of T becomes that number.
template <class T>
SIMT_DEVICE float within(float x) {
  return simt::max(simt::min(x, kLargest<T>), -kLargest<T>);
}

// Words that lie side by side: as one where `vector` says that they are aligned to their size.
template <int N>
SIMT_DEVICE simt::vec<uint32_t, N> load_words(global<const uint32_t> p, int64_t i, bool vector) {
  if (vector) return simt::load_vec<N>(p, i);
  simt::vec<uint32_t, N> words;
  SIMT_UNROLL
  for (int n = 0; n < N; ++n) words[n] = simt::load(p, i + n);
  return words;
}
template <int N>
SIMT_DEVICE void store_words(global<uint32_t> p, int64_t i, const simt::vec<uint32_t, N>& words,
                             bool vector) {
  if (vector) {
    simt::store_vec(p, i, words);
    return;
  }
  SIMT_UNROLL
  for (int n = 0; n < N; ++n) simt::store(p, i + n, words[n]);
}

// The values of a strip; `vector`: they start at a multiple of 16 bytes.
template <class T>
SIMT_DEVICE void load_strip(float (&values)[kStrip], global<const T> p, bool vector) {
  constexpr int chunk = 16 / int(sizeof(T));
  SIMT_UNROLL
  for (int c = 0; c < kStrip; c += chunk) {
    if (vector) {
      const auto v = simt::load_vec<chunk>(p, c);
      SIMT_UNROLL
      for (int i = 0; i < chunk; ++i) values[c + i] = simt::to_float(v[i]);
    } else {
      SIMT_UNROLL
      for (int i = 0; i < chunk; ++i) values[c + i] = simt::to_float(simt::load(p, c + i));
    }
  }
}
template <class T>
SIMT_DEVICE void store_strip(global<T> p, const float (&values)[kStrip], bool vector) {
  constexpr int chunk = 16 / int(sizeof(T));
  SIMT_UNROLL
  for (int c = 0; c < kStrip; c += chunk) {
    simt::vec<T, chunk> v;
    SIMT_UNROLL
    for (int i = 0; i < chunk; ++i) v[i] = simt::to<T>(values[c + i]);
    if (vector) {
      simt::store_vec(p, c, v);
    } else {
      SIMT_UNROLL
      for (int i = 0; i < chunk; ++i) simt::store(p, c + i, v[i]);
    }
  }
}

// Of the words that meet, the first takes the lowest bits of every byte.
template <int bits>
SIMT_DEVICE simt::vec<uint32_t, bits / 2> pack_strip(const uint32_t (&codes)[kStrip]) {
  constexpr int meet = 8 / bits;
  simt::vec<uint32_t, bits / 2> words{};
  SIMT_UNROLL
  for (int c = 0; c < kStrip; ++c) {
    words[c / 4 / meet] |= codes[c] << (c % 4 * 8 + c / 4 % meet * bits);
  }
  return words;
}
template <int bits>
SIMT_DEVICE uint32_t code_of(const simt::vec<uint32_t, bits / 2>& words, int c) {
  constexpr int meet = 8 / bits;
  return words[c / 4 / meet] >> (c % 4 * 8 + c / 4 % meet * bits) & uint32_t(levels_of(bits));
}

// Calls f.operator()<bits>() for the width of a call.
template <class F>
wl_status with_bits(int bits, F f) {
  return bits == 8   ? f.template operator()<8>()
         : bits == 4 ? f.template operator()<4>()
                     : f.template operator()<2>();
}

}  // namespace warploom::kv_cache::gpu
