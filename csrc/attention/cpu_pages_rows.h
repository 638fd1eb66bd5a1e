// What the query rows of a piece keep while they go through its keys, and how queries and weights
// become the coefficients of an engine.
#pragma once

#include <cstring>

#include "attention/cpu_codes.h"
#include "attention/cpu_pages_half.h"
#include "attention/cpu_pages_plan.h"
#include "base/scratch.h"
#include "base/vec_math.h"

namespace warploom::attention {

inline constexpr int kWidths = 3;  // of codes: 2, 4, 8 bits
template <int bits>
inline constexpr int kWidthIndex = bits == 2   ? 0
                                   : bits == 4 ? 1
                                               : 2;
inline constexpr float kMiddle[kWidths] = {2, 8, 128};
template <int bits>
inline constexpr float kMiddleOf = kMiddle[kWidthIndex<bits>];

template <int step>
inline Floats across(Floats x) {
  Ints lanes = {};
  for (int n = 0; n < kLanes; ++n) lanes[n] = n ^ step;
  return __builtin_shuffle(x, lanes);
}

inline float largest_of(Floats x) {
  if constexpr (kLanes > 8) x = max(across<8>(x), x);
  if constexpr (kLanes > 4) x = max(across<4>(x), x);
  x = max(across<2>(x), x);
  return max(across<1>(x), x)[0];
}

inline float sum_of(Floats x) {
  if constexpr (kLanes > 8) x += across<8>(x);
  if constexpr (kLanes > 4) x += across<4>(x);
  x += across<2>(x);
  return (x + across<1>(x))[0];
}

// What a row of numbers was made into: x ~ scale * coefficient.
struct Packed {
  float scale;
  float sum, rounded;  // of x, and of scale * coefficient
};

// 16 values of a row at a time; the chunk is the place of the first. `inverse` is 1 / scale.
template <class Engine, Side side>
inline void pack_chunk(const Floats* x, float inverse, uint32_t* words, int64_t chunk,
                       int64_t plane, Floats* rounded) {
  if constexpr (kFloats<Engine>) {
    for (int n = 0; n < kChunkVectors; ++n) {
      store(reinterpret_cast<float*>(words) + chunk * kTileRows + n * kLanes, x[n]);
      rounded[n] = x[n];
    }
  } else {
    Ints values[kChunkVectors];
    for (int n = 0; n < kChunkVectors; ++n) {
      values[n] = round_to_int(x[n] * broadcast(inverse));
      rounded[n] = to_floats(values[n]);
    }
    Engine::template pack<side>(values, words, chunk, plane);
  }
}

// The scale that takes values of up to `largest` to `limit`, and its inverse.
struct Scaling {
  float scale, inverse;

  static Scaling of(float largest, float limit) {
    // Where the inverse would overflow, what is lost is less than any number of the result.
    return largest >= 1e-30f ? Scaling{largest / limit, limit / largest} : Scaling{0, 0};
  }
};

// The query row x, `count` values, in groups: sums of each group go to `sums`. A row with an
// infinity or a NaN gets a scale of NaN.
template <class Engine>
inline float pack_query(const float* x, int64_t count, int64_t group, uint32_t* words,
                        int64_t plane, Packed* sums) {
  Scaling scaling{1, 1};
  if constexpr (!kFloats<Engine>) {
    Floats largest = broadcast(0.0f), total = broadcast(0.0f);
    for (int64_t c = 0; c < count; c += kLanes) {
      const Floats size = abs(load(x + c));
      largest = max(size, largest);
      total += size * broadcast(0x1p-20f);
    }
    scaling = Scaling::of(largest_of(largest), Engine::kQueryLimit);
    const float finite = sum_of(total) * 0;  // NaN where anything is not finite
    if (finite != 0) scaling = {finite, 0};
  }
  for (int64_t g = 0; g < count / group; ++g) {
    Floats sum = broadcast(0.0f), rounded = broadcast(0.0f);
    for (int64_t c = g * group; c < (g + 1) * group; c += kTileRows) {
      Floats values[kChunkVectors], nearest[kChunkVectors];
      for (int n = 0; n < kChunkVectors; ++n) values[n] = load(x + c + n * kLanes);
      pack_chunk<Engine, Side::kKeys>(values, scaling.inverse, words, c / kTileRows, plane,
                                      nearest);
      for (int n = 0; n < kChunkVectors; ++n) sum += values[n], rounded += nearest[n];
    }
    sums[g] = {scaling.scale, sum_of(sum), sum_of(rounded) * scaling.scale};
  }
  return scaling.scale;
}

// With middle = 2^(bits - 1), a score is (min + middle * step) * sum of q, and step * (sum of q *
// (code - middle)): no large terms cancel, and rounding q touches deviations from the middle alone.
// From total = sum of coefficient * (code - offset) the latter sum is scale * total + this.
template <class Engine, int bits>
inline float constant_of(const Packed& p) {
  return (Engine::template offset<Side::kKeys, bits>() - kMiddleOf<bits>)*p.rounded;
}

// Rows of a piece, `rows` of them at most.
template <bool pairs, class Engine>
struct PagesRows {
  int64_t words_row, coefficients_row;  // words from one row to the next
  float* q;                             // [rows, d]: times the factor of scores
  uint32_t* words;                      // [rows, words_row]: q for the engine
  HalfQuery<pairs>* half;  // [rows, d and padding]: q for blocks of 16 bits, as it came
  Packed* sums;            // [rows, groups] of q
  float* o;                // [rows, dv and padding]: sums from codes
  float* o_half;           // of the same shape: sums from 16 bits
  float* bases;            // [rows, groups, kLanes]: sums of p * (middle of the grid)
  float* maximum;          // [rows] of log2(e) * score
  float* sum;              // [rows, kLanes] of weights
  Range* visible;          // [rows]: keys that a row sees
  // Of the rows of a tile, in the newest step or span:
  float* scores;              // [kDecodeRows, kStepKeys]; then weights
  HalfQuery<pairs>* weights;  // of the same shape
  uint32_t* coefficients;     // [kDecodeRows, coefficients_row]
  float* stepped;             // [d]: a query times the steps of its channels
};

}  // namespace warploom::attention
