// The two products of attention with blocks of bfloat16, [positions, d] without gaps: a few query
// rows share every load. Lanes run along the head dimension.
#pragma once

#include "attention/cpu_codes.h"
#include "attention/cpu_decode_tile.h"

namespace warploom::attention {

// pairs: queries and weights are bfloat16 too, and the target multiplies pairs of them.
template <bool pairs>
using HalfQuery = std::conditional_t<pairs, bf16, float>;
template <bool pairs>
inline constexpr int kHalfStep = pairs ? 2 * kLanes : kLanes;  // elements of a vector

namespace half_detail {

// A vector of elements of a key or value, of which the last of a row may be short: head dims are
// multiples of 16, and vectors of pairs hold 32.
template <bool pairs>
inline auto load_part(const bf16* p, [[maybe_unused]] bool whole) {
  if constexpr (pairs) {
    return whole ? load(reinterpret_cast<const Pair*>(p)) : load_first<Words>(p, kLanes);
  } else {
    return load_floats(p);
  }
}
template <bool pairs>
inline auto load_query(const HalfQuery<pairs>* q) {
  if constexpr (pairs) {
    return load(reinterpret_cast<const Pair*>(q));
  } else {
    return load(q);
  }
}

}  // namespace half_detail

// scores[row * stride + j] = factor * <q[row], k[j]> for kTileKeys<rows> keys. Rows of queries are
// padded with zeros to whole vectors. What lies `ahead` bytes on is fetched meanwhile.
template <bool pairs, int rows>
[[gnu::noinline]] void score_half(const HalfQuery<pairs>* q, int64_t q_row, const bf16* k,
                                  int64_t d, int64_t ahead, float factor, float* scores,
                                  int64_t stride) {
  constexpr int keys = kTileKeys<rows>, step = kHalfStep<pairs>;
  Floats sums[kDecodeSums] = {};
  const auto add = [&](int64_t c, bool whole) {
    decltype(half_detail::load_query<pairs>(q)) query[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) query[r] = half_detail::load_query<pairs>(q + r * q_row + c);
#pragma GCC unroll 16
    for (int j = 0; j < keys; ++j) {
      const auto key = half_detail::load_part<pairs>(k + j * d + c, whole);
      fetch_ahead(reinterpret_cast<const char*>(k + j * d + c) + ahead);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        sums[r * keys + j] = multiply_add(query[r], key, sums[r * keys + j]);
      }
    }
  };
  int64_t c = 0;
  for (; c + step <= d; c += step) add(c, true);
  if (c < d) add(c, false);
  float totals[kDecodeSums];
#pragma GCC unroll 4
  for (int n = 0; n < kDecodeSums; n += kLanes) {
    store(totals + n, sum_lanes(sums + n) * broadcast(factor));
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    std::memcpy(scores + r * stride, totals + r * keys, keys * sizeof(float));
  }
}

// o[row] += sum over `keys` keys of weight[row][j] * v[j], for `vectors` vectors of the value
// dimension, of which `count` elements are there. With pairs o is in the order of interleave().
template <bool pairs, int rows, int vectors>
[[gnu::noinline]] void sum_half(const HalfQuery<pairs>* weights, int64_t stride, const bf16* v,
                                int64_t dv, int64_t keys, int64_t ahead, float* o, int64_t o_row,
                                int64_t count) {
  Floats sums[rows][vectors];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) sums[r][n] = load(o + r * o_row + n * kLanes);
  }
  int64_t j = 0;
  if constexpr (pairs) {
    const auto add = [&](const bf16* first, const bf16* second, const auto& weight) {
      Words value[vectors];
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n += 2) {
        const bool whole = (n + 2) * kLanes <= count;
        const Words a = half_detail::load_part<true>(first + n * kLanes, whole);
        const Words b = second ? half_detail::load_part<true>(second + n * kLanes, whole) : Words{};
        interleave(a, b, value[n], value[n + 1]);
        fetch_ahead(reinterpret_cast<const char*>(first + n * kLanes) + ahead);
        fetch_ahead(reinterpret_cast<const char*>(first + dv + n * kLanes) + ahead);
      }
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const Words w = weight(weights + r * stride);
#pragma GCC unroll 4
        for (int n = 0; n < vectors; ++n) sums[r][n] = multiply_add(w, value[n], sums[r][n]);
      }
    };
    for (; j + 2 <= keys; j += 2) {
      add(v + j * dv, v + (j + 1) * dv,
          [&](const bf16* w) { return load_broadcast(reinterpret_cast<const Pair*>(w + j)); });
    }
    if (j < keys) {  // with a zero for its partner: what follows may be anything
      add(v + j * dv, nullptr, [&](const bf16* w) { return broadcast(uint32_t{w[j].bits}); });
    }
  } else {
    for (; j < keys; ++j) {
      Floats value[vectors];
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) {
        value[n] = load_floats(v + j * dv + n * kLanes);
        fetch_ahead(reinterpret_cast<const char*>(v + j * dv + n * kLanes) + ahead);
      }
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const Floats w = broadcast(weights[r * stride + j]);
#pragma GCC unroll 4
        for (int n = 0; n < vectors; ++n) sums[r][n] = multiply_add(w, value[n], sums[r][n]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) store(o + r * o_row + n * kLanes, sums[r][n]);
  }
}

// The same for the whole value dimension.
template <bool pairs, int rows>
void sum_half_rows(const HalfQuery<pairs>* weights, int64_t stride, const bf16* v, int64_t dv,
                   int64_t keys, int64_t ahead, float* o, int64_t o_row) {
  if (keys <= 0) return;
  constexpr int64_t kTile = kTileVectors * kLanes;
  constexpr int kUnit = kHalfStep<pairs> / kLanes;
  int64_t c = 0;
  for (; c + kTile <= dv; c += kTile) {
    sum_half<pairs, rows, kTileVectors>(weights, stride, v + c, dv, keys, ahead, o + c, o_row,
                                        kTile);
  }
  for (; c < dv; c += kUnit * kLanes) {
    sum_half<pairs, rows, kUnit>(weights, stride, v + c, dv, keys, ahead, o + c, o_row, dv - c);
  }
}

}  // namespace warploom::attention
