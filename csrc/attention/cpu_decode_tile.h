// The two products of decode, on rows of a cache that lie anywhere: a few query rows at a time
// share every load of a key or a value, and nothing of the cache is packed or converted in memory.
//
// Lanes run along the head dimension: with one to four rows against several keys, the sums across
// lanes cost less than reading K through broadcasts would.
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "attention/cpu_decode_rows.h"
#include "base/vec_half.h"

namespace warploom::attention {

inline constexpr int kBlockKeys = 64;  // keys that a softmax step takes in at once
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

// Stages of a transposing sum. Each adds neighbours of a and of b, and keeps b's behind a's: lanes
// one apart in each 128 bits, then two apart, then whole 128 bits. Patterns that the processor has
// as one instruction without an index register.
template <int stage, int... lane>
inline Floats fold(Floats a, Floats b, std::integer_sequence<int, lane...>) {
  if constexpr (stage == 0) {
    constexpr Words kFirst = {uint32_t(lane / 4 * 4 + lane % 4 / 2 + lane % 2 * kLanes)...};
    constexpr Words kSecond = {uint32_t(lane / 4 * 4 + lane % 4 / 2 + lane % 2 * kLanes + 2)...};
    return __builtin_shuffle(a, b, kFirst) + __builtin_shuffle(a, b, kSecond);
  } else if constexpr (stage == 1) {
    constexpr Words kFirst = {uint32_t(lane / 4 * 4 + lane % 2 + lane % 4 / 2 * kLanes)...};
    constexpr Words kSecond = {uint32_t(lane / 4 * 4 + lane % 2 + lane % 4 / 2 * kLanes + 2)...};
    return __builtin_shuffle(a, b, kFirst) + __builtin_shuffle(a, b, kSecond);
  } else {
    constexpr Words kFirst = {uint32_t(lane / 4 * 8 + lane % 4)...};  // runs on from a into b
    constexpr Words kSecond = {uint32_t(lane / 4 * 8 + lane % 4 + 4)...};
    return __builtin_shuffle(a, b, kFirst) + __builtin_shuffle(a, b, kSecond);
  }
}

template <int stage, int count>
inline void fold_from(Floats* sums) {
  if constexpr (count > 1) {
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i) {
      sums[i] =
          fold<stage>(sums[2 * i], sums[2 * i + 1], std::make_integer_sequence<int, kLanes>());
    }
    fold_from<stage + 1, count / 2>(sums);
  }
}

}  // namespace sum_detail

// Lane i of the result is the sum of sums[i]'s lanes, for kLanes vectors, in a fixed order.
inline Floats sum_lanes(Floats* sums) {
  sum_detail::fold_from<0, kLanes>(sums);
  return sums[0];
}

// A tile of scores takes two keys of several heads, which lie side by side, or more keys where
// there are too few heads: the order of memory, with every query word it loads used twice or more.
template <int rows>
inline constexpr int kPaddedRows = rows == 3 ? 4 : rows;
template <int rows>
inline constexpr int kMostTileHeads = kDecodeSums / kPaddedRows<rows> / 2;
template <int rows, int heads = 1>
inline constexpr int kTileKeys = kDecodeSums / kPaddedRows<rows> / heads;

// Rows of a tile, one after another for every kv head.
template <class T>
struct Stack {
  T* data;
  int64_t row, head;  // elements from one row, and from one head, to the next
};

// scores[head][row][key] = <q[head][row], k[key][head]> for the keys of a tile and all heads, a
// multiple of `heads`. A head's queries are packed: a vector of each row, then the next of each.
// Out of line: inlined, GCC runs out of address registers.
template <class T, int rows, int heads>
[[gnu::noinline]] void score_tile(const QueryWord<T>* q, int64_t q_head, int64_t d,
                                  const T* const* k, int64_t k_head, int64_t all_heads,
                                  Stack<float> scores, Ahead<T>* ahead) {
  constexpr int keys = kTileKeys<rows, heads>, step = kQueryStep<T>;
  constexpr int kHeadSums = kPaddedRows<rows> * keys;
  for (int64_t head = 0; head < all_heads; head += heads) {
    Floats sums[kDecodeSums] = {};
    const QueryWord<T>* query_at[heads];
    const T* key_at[heads][keys];
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
      query_at[h] = q + (head + h) * q_head;
#pragma GCC unroll 16
      for (int j = 0; j < keys; ++j) key_at[h][j] = k[j] + (head + h) * k_head;
    }
    const auto add = [&](int64_t c, const auto& load_key) {
#pragma GCC unroll 8
      for (int h = 0; h < heads; ++h) {
        decltype(load(q)) query[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) query[r] = load(query_at[h] + r * kLanes);
        query_at[h] += rows * kLanes;
#pragma GCC unroll 16
        for (int j = 0; j < keys; ++j) {
          const auto key = load_key(key_at[h][j] + c);
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r) {
            Floats& sum = sums[h * kHeadSums + r * keys + j];
            sum = multiply_add(query[r], key, sum);
          }
        }
      }
    };
    int64_t c = 0;
    for (; c + step <= d; c += step) add(c, [](const T* p) { return load_keys(p); });
    if (c < d) add(c, [&](const T* p) { return load_first_keys(p, int(d - c)); });
    float totals[kDecodeSums];
#pragma GCC unroll 4
    for (int n = 0; n < kDecodeSums; n += kLanes) store(totals + n, sum_lanes(sums + n));
#pragma GCC unroll 8
    for (int h = 0; h < heads; ++h) {
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        std::memcpy(scores.data + (head + h) * scores.head + r * scores.row,
                    totals + h * kHeadSums + r * keys, keys * sizeof(float));
      }
    }
    if (ahead) ahead->used(heads * keys * d * int64_t(sizeof(T)));
  }
}

// Weights wait in the form that multiplies values: where queries are pairs, in bfloat16, so that
// those of two keys that follow one another are a pair.
template <class T>
using Weight = std::conditional_t<kPairs<T>, bf16, float>;

// Vectors of a value that a tile accumulates at once, and the fewest: pairs give two.
inline constexpr int kTileVectors = kDecodeSums / kDecodeRows;
template <class T>
inline constexpr int kUnitVectors = kQueryStep<T> / kLanes;

// Values of two keys as pairs. In each 128 bits `low` has the first four elements and `high` the
// last four, so sums of their products are out of order by 128 bits until restore_order.
#if defined(__AVX512BF16__)
inline void interleave(Words first, Words second, Words& low, Words& high) {
  low = Words(_mm512_unpacklo_epi16(__m512i(first), __m512i(second)));
  high = Words(_mm512_unpackhi_epi16(__m512i(first), __m512i(second)));
}
#endif

// For o_row floats of sums; nothing to do where they are in order.
template <class T>
inline void restore_order([[maybe_unused]] float* sums, [[maybe_unused]] int64_t o_row) {
#if defined(__AVX512BF16__)
  if constexpr (kPairs<T>) {
    constexpr Words kFirst = {0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23};
    for (int64_t c = 0; c < o_row; c += 2 * kLanes) {
      const Floats low = load(sums + c), high = load(sums + c + kLanes);
      store(sums + c, __builtin_shuffle(low, high, kFirst));
      store(sums + c + kLanes, __builtin_shuffle(low, high, kFirst + 8));
    }
  }
#endif
}

// o[row] = rescale[row] * o[row] + sum over keys of weight[row][key] * v[key], for `vectors`
// vectors of the value dimension; in a partial tile only `count` elements are there to read.
// rescale may be nullptr: 1. Sums of a row are one after another, and so are the rows.
template <class T, int rows, int vectors, bool partial>
[[gnu::always_inline]] inline void value_tile(const Weight<T>* weights, const float* rescale,
                                              const T* const* v, int64_t v_offset, Range keys,
                                              float* o, int count) {
  Floats sums[rows][vectors];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) sums[r][n] = load(o + (r * vectors + n) * kLanes);
  }
  if (rescale) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) sums[r][n] *= broadcast(rescale[r]);
    }
  }
  const auto add = [&](const auto* value, const auto& weight) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const auto w = weight(weights + r * kBlockKeys);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) sums[r][n] = multiply_add(w, value[n], sums[r][n]);
    }
  };
  int64_t j = keys.begin;
  if constexpr (kPairs<T>) {
    const auto load_value = [&](int64_t at, int n) {
      const T* p = v[at] + v_offset + n * kLanes;
      if constexpr (partial) return load_first<Words>(p, count);
      return load(reinterpret_cast<const Pair*>(p));
    };
    Words value[vectors];
    for (; j + 2 <= keys.end; j += 2) {
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n += 2) {
        interleave(load_value(j, n), load_value(j + 1, n), value[n], value[n + 1]);
      }
      add(value,
          [&](const bf16* w) { return load_broadcast(reinterpret_cast<const Pair*>(w + j)); });
    }
    if (j < keys.end) {  // with a zero for its partner: what follows may be anything
#pragma GCC unroll 4
      for (int n = 0; n < vectors; n += 2) {
        interleave(load_value(j, n), Words{}, value[n], value[n + 1]);
      }
      add(value, [&](const bf16* w) { return broadcast(uint32_t{w[j].bits}); });
    }
  } else {
    Floats value[vectors];
    for (; j < keys.end; ++j) {
      const T* row = v[j] + v_offset;
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) {
        value[n] = partial ? load_first_floats(row, count) : load_floats(row + n * kLanes);
      }
      add(value, [&](const float* w) { return load_broadcast(w + j); });
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) store(o + (r * vectors + n) * kLanes, sums[r][n]);
  }
}

// Calls tile(c, width, std::bool_constant<partial>) for the tiles of a value of dv elements.
template <class T, class Call>
inline void value_tiles(int64_t dv, const Call& tile) {
  constexpr int kTile = kTileVectors, kUnit = kUnitVectors<T>;
  int64_t c = 0;
  for (; c + kTile * kLanes <= dv; c += kTile * kLanes) {
    tile(c, std::integral_constant<int, kTile>(), std::false_type());
  }
  for (; c + kUnit * kLanes <= dv; c += kUnit * kLanes) {
    tile(c, std::integral_constant<int, kUnit>(), std::false_type());
  }
  if (c < dv) tile(c, std::integral_constant<int, kUnit>(), std::true_type());
}

// What the tiles of values of one tile of rows have in common, for the first of `heads` kv heads.
template <class T>
struct ValueTiles {
  const Weight<T>* weights;
  const float* rescale;
  const T* const* v;
  float* o;       // packed: column tile after column tile, each as value_tile has it
  int tile_rows;  // rows of the tile
  int64_t rows;   // of a head
  int64_t v_head, o_row, dv, heads;
};

// The same for the whole value dimension of rows first .. first + rows of a tile, in every head.
template <class T, int rows>
[[gnu::noinline]] void value_rows(const ValueTiles<T>& t, bool rescale, int first, Range keys,
                                  Ahead<T>* ahead) {
  const int64_t dv = t.dv, bytes = (keys.end - keys.begin) * dv * int64_t(sizeof(T));
  const int tile_rows = t.tile_rows;
  for (int64_t head = 0; head < t.heads; ++head) {
    const int64_t at = head * t.rows;
    const Weight<T>* weights = t.weights + (at + first) * kBlockKeys;
    const float* factors = rescale ? t.rescale + at + first : nullptr;
    float* o = t.o + at * t.o_row;
    value_tiles<T>(dv, [&](int64_t c, auto vectors, auto partial) {
      value_tile<T, rows, vectors, partial>(weights, factors, t.v, head * t.v_head + c, keys,
                                            o + c * tile_rows + first * (vectors * kLanes),
                                            int(dv - c));
    });
    if (ahead) ahead->used(bytes);
  }
}

// Row `row` of such a tile, in order.
template <class T>
inline void unpack_row(const float* o, int64_t row, int64_t tile_rows, int64_t dv, float* sums) {
  int64_t end = 0;
  value_tiles<T>(dv, [&](int64_t c, auto vectors, auto) {
    constexpr int width = vectors * kLanes;
    std::memcpy(sums + c, o + c * tile_rows + row * width, width * sizeof(float));
    end = c + width;
  });
  restore_order<T>(sums, end);
}

// call(std::integral_constant<int, rows>) for the rows of a tile.
template <class Call>
inline void with_rows(int64_t rows, const Call& call) {
  if (rows >= 4) return call(std::integral_constant<int, 4>());
  if (rows == 3) return call(std::integral_constant<int, 3>());
  if (rows == 2) return call(std::integral_constant<int, 2>());
  call(std::integral_constant<int, 1>());
}

// The same for the heads of a tile: as many as divide all heads.
template <int rows, class Call>
inline void with_heads(int64_t all_heads, const Call& call) {
  const auto fits = [&](auto heads) {
    if constexpr (heads <= kMostTileHeads<rows>) {
      if (all_heads % heads == 0) return call(heads), true;
    }
    return false;
  };
  if (fits(std::integral_constant<int, 8>())) return;
  if (fits(std::integral_constant<int, 4>())) return;
  if (fits(std::integral_constant<int, 2>())) return;
  fits(std::integral_constant<int, 1>());
}

}  // namespace warploom::attention
