// The one matrix product of the attention loops: a strip of columns, everything else by strides.
//
//   C[m, n] = beta[n] * C[m, n] + sum over k of A[m, k] * B[k, n],    n < Vectors * kLanes
//
// Lanes are columns. A is read one word at a time and broadcast, so it may lie anywhere: A[m, k] is
// a[m * a_row + k * a_depth]. B is packed: B[k, 0..] is contiguous at b + k * b_depth, and C[m,
// 0..] at c + m * c_row. Strides count words. A word is a float, or a Pair: two neighbours along k
// as bfloat16, both products of which are added in float32. Then depth is half the summed length.
//
// The inner tile keeps kTileRows x 2 accumulators in registers: 8 x 2 with 32 registers hides the
// latency of the multiply-adds (16 in flight) and reads 10 words for 16 of them.
// Measured on a processor that starts two 512-bit multiply-adds (float or Pair) per cycle.
#pragma once

#include "base/vec.h"

namespace warploom::attention {

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kTileRows = 8;
#elif defined(__AVX2__)
inline constexpr int kTileRows = 6;
#else
inline constexpr int kTileRows = 4;
#endif

inline constexpr int kStrip = 2 * kLanes;  // columns of a full strip

template <int rows, int vectors, class Word>
inline void gemm_tile(int64_t depth, const Word* a, int64_t a_row, int64_t a_depth, const Word* b,
                      int64_t b_depth, float* c, int64_t c_row, const float* beta) {
  Floats sum[rows][vectors];
  const Word* a_rows[rows];
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
    a_rows[m] = a + m * a_row;
#pragma GCC unroll 2
    for (int n = 0; n < vectors; ++n) sum[m][n] = broadcast(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load(b)) columns[vectors];
#pragma GCC unroll 2
    for (int n = 0; n < vectors; ++n) columns[n] = load(b + k * b_depth + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const auto word = load_broadcast(a_rows[m] + k * a_depth);
#pragma GCC unroll 2
      for (int n = 0; n < vectors; ++n) sum[m][n] = multiply_add(word, columns[n], sum[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
    for (int n = 0; n < vectors; ++n) {
      float* to = c + m * c_row + n * kLanes;
      // Last, not first: the sum's rounding errors stay in proportion to its own terms.
      if (beta) sum[m][n] = multiply_add(load(beta + n * kLanes), load(to), sum[m][n]);
      store(to, sum[m][n]);
    }
  }
}

// Any number of rows. beta points to Vectors * kLanes factors; nullptr overwrites C, which then
// need not be initialised.
template <int vectors = 2, class Word>
void gemm_strip(int64_t rows, int64_t depth, const Word* a, int64_t a_row, int64_t a_depth,
                const Word* b, int64_t b_depth, float* c, int64_t c_row, const float* beta) {
  const auto next = [&](int64_t done) {
    rows -= done;
    a += done * a_row;
    c += done * c_row;
  };
  for (; rows >= kTileRows; next(kTileRows)) {
    gemm_tile<kTileRows, vectors>(depth, a, a_row, a_depth, b, b_depth, c, c_row, beta);
  }
  if (rows >= 4) {
    gemm_tile<4, vectors>(depth, a, a_row, a_depth, b, b_depth, c, c_row, beta);
    next(4);
  }
  if (rows >= 2) {
    gemm_tile<2, vectors>(depth, a, a_row, a_depth, b, b_depth, c, c_row, beta);
    next(2);
  }
  if (rows) gemm_tile<1, vectors>(depth, a, a_row, a_depth, b, b_depth, c, c_row, beta);
}

}  // namespace warploom::attention
