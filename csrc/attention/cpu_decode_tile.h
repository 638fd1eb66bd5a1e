// The two products of decode, on rows of a cache that lie anywhere: a few query rows at a time
// share every load of a key or a value, and nothing of the cache is packed or converted in memory.
//
// Lanes run along the head dimension: with one to four rows against several keys, the sums across
// lanes cost less than reading K through broadcasts would.
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "attention/plan.h"
#include "base/vec_half.h"

namespace warploom::attention {

inline constexpr int kBlockKeys = 16;  // keys that a softmax step takes in at once
inline constexpr int kDecodeRows = 4;  // query rows of a full tile

// Accumulators of a tile: enough to hide latency, few enough to leave registers for operands.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kDecodeSums = 16;
#else
inline constexpr int kDecodeSums = 8;
#endif

// Queries wait as floats, or as pairs where the target multiplies pairs of bfloat16 as they are.
template <class T>
inline constexpr bool kPairs = kPairDot && std::is_same_v<T, bf16>;
template <class T>
using QueryWord = std::conditional_t<kPairs<T>, Pair, float>;
// Elements of a vector of query words; packed queries are padded with zeros to a multiple of it.
template <class T>
inline constexpr int kQueryStep = kPairs<T> ? 2 * kLanes : kLanes;

// The first `count` elements of a vector, zeros after them; nothing beyond them is read.
template <class Vector, class T>
inline Vector load_first(const T* p, int count) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t{1} << count) - 1;
  if constexpr (sizeof(T) == 4) {
    return Vector(_mm512_maskz_loadu_epi32(__mmask16(mask), p));
  } else if constexpr (sizeof(Vector) == 64) {
    return Vector(_mm512_maskz_loadu_epi16(mask, p));
  } else {
    return Vector(_mm256_maskz_loadu_epi16(__mmask16(mask), p));
  }
#else
  T elements[sizeof(Vector) / sizeof(T)] = {};
  for (int i = 0; i < count; ++i) elements[i] = p[i];
  Vector x;
  std::memcpy(&x, elements, sizeof x);
  return x;
#endif
}

template <class T>
inline Floats load_first_floats(const T* p, int count) {
  if constexpr (sizeof(T) == 4) {
    return load_first<Floats>(p, count);
  } else {
    const Halves halves = load_first<Halves>(p, count);
    T elements[kLanes];
    std::memcpy(elements, &halves, sizeof elements);
    return load_floats(elements);
  }
}

// A vector of key elements in the form that multiplies query words.
template <class T>
inline auto load_keys(const T* p) {
  if constexpr (kPairs<T>) {
    return load(reinterpret_cast<const Pair*>(p));
  } else {
    return load_floats(p);
  }
}
template <class T>
inline auto load_first_keys(const T* p, int count) {
  if constexpr (kPairs<T>) {
    return load_first<Words>(p, count);
  } else {
    return load_first_floats(p, count);
  }
}

namespace sum_detail {

// Lane i holds two neighbouring sums of a (i & step is 0) or of b (it is not).
template <int step, int... lane>
inline Floats fold(Floats a, Floats b, std::integer_sequence<int, lane...>) {
  constexpr Words kFirst = {uint32_t(lane & step ? lane - step + kLanes : lane)...};
  constexpr Words kSecond = {uint32_t(lane & step ? lane + kLanes : lane + step)...};
  return __builtin_shuffle(a, b, kFirst) + __builtin_shuffle(a, b, kSecond);
}

template <int step>
inline void fold_from(Floats* sums) {
  if constexpr (step < kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2 / step; ++i) {
      sums[i] = fold<step>(sums[2 * i], sums[2 * i + 1], std::make_integer_sequence<int, kLanes>());
    }
    fold_from<2 * step>(sums);
  }
}

}  // namespace sum_detail

// Lane i of the result is the sum of sums[i]'s lanes, for kLanes vectors, in a fixed order.
inline Floats sum_lanes(Floats* sums) {
  sum_detail::fold_from<1>(sums);
  return sums[0];
}

template <int rows>
inline constexpr int kTileKeys = kDecodeSums / (rows == 3 ? 4 : rows);

// scores[row][key] = <q[row], k[key]> for kTileKeys keys, rows of scores kBlockKeys apart.
template <class T, int rows>
inline void score_tile(const QueryWord<T>* q, int64_t q_row, int64_t d, const T* const* k,
                       int64_t k_offset, float* scores) {
  constexpr int keys = kTileKeys<rows>, step = kQueryStep<T>;
  const T* k_rows[keys];
#pragma GCC unroll 16
  for (int j = 0; j < keys; ++j) k_rows[j] = k[j] + k_offset;
  Floats sums[kDecodeSums] = {};
  const auto add = [&](int64_t c, const auto& load_key) {
    decltype(load(q)) query[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) query[r] = load(q + r * q_row + c / (step / kLanes));
#pragma GCC unroll 16
    for (int j = 0; j < keys; ++j) {
      const auto key = load_key(k_rows[j] + c);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        sums[r * keys + j] = multiply_add(query[r], key, sums[r * keys + j]);
      }
    }
  };
  int64_t c = 0;
  for (; c + step <= d; c += step) add(c, [](const T* p) { return load_keys(p); });
  if (c < d) add(c, [&](const T* p) { return load_first_keys(p, int(d - c)); });
  float totals[kDecodeSums];
#pragma GCC unroll 4
  for (int n = 0; n < kDecodeSums; n += kLanes) store(totals + n, sum_lanes(sums + n));
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    std::memcpy(scores + r * kBlockKeys, totals + r * keys, keys * sizeof(float));
  }
}

// Vectors of a value that a tile accumulates at once.
inline constexpr int kTileVectors = kDecodeSums / kDecodeRows;

// o[row] = rescale[row] * o[row] + sum over keys of p[row][key] * v[key], for `vectors` vectors of
// the value dimension, the last of which has `last` elements. rescale may be nullptr: 1.
template <class T, int rows, int vectors, bool partial>
inline void value_tile(const float* p, const float* rescale, const T* const* v, int64_t v_offset,
                       Range keys, float* o, int64_t o_row, int last) {
  Floats sums[rows][vectors];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) {
      const Floats before = load(o + r * o_row + n * kLanes);
      sums[r][n] = rescale ? before * broadcast(rescale[r]) : before;
    }
  }
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const T* row = v[j] + v_offset;
    Floats value[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) {
      value[n] = partial && n == vectors - 1 ? load_first_floats(row + n * kLanes, last)
                                             : load_floats(row + n * kLanes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const Floats weight = load_broadcast(p + r * kBlockKeys + j);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) sums[r][n] = multiply_add(weight, value[n], sums[r][n]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) store(o + r * o_row + n * kLanes, sums[r][n]);
  }
}

// The same for the whole value dimension.
template <class T, int rows>
inline void value_rows(const float* p, const float* rescale, const T* const* v, int64_t v_offset,
                       Range keys, float* o, int64_t o_row, int64_t dv) {
  constexpr int64_t kTile = kTileVectors * kLanes;
  int64_t c = 0;
  for (; c + kTile <= dv; c += kTile) {
    value_tile<T, rows, kTileVectors, false>(p, rescale, v, v_offset + c, keys, o + c, o_row, 0);
  }
  for (; c + kLanes <= dv; c += kLanes) {
    value_tile<T, rows, 1, false>(p, rescale, v, v_offset + c, keys, o + c, o_row, 0);
  }
  if (c < dv) {
    value_tile<T, rows, 1, true>(p, rescale, v, v_offset + c, keys, o + c, o_row, int(dv - c));
  }
}

// call(std::integral_constant<int, rows>) for the rows of a tile.
template <class Call>
inline void with_rows(int64_t rows, const Call& call) {
  if (rows >= 4) return call(std::integral_constant<int, 4>());
  if (rows == 3) return call(std::integral_constant<int, 3>());
  if (rows == 2) return call(std::integral_constant<int, 2>());
  call(std::integral_constant<int, 1>());
}

}  // namespace warploom::attention
