// Keeping what a mask hides out of sums. A product gives a hidden pair the weight 0, but 0 * NaN is
// NaN: in tiles that a mask cuts, non-finite elements are taken out of the operand before the
// product, and what the visible ones would have done to the sum is added afterwards.
#pragma once

#include "attention/gpu_common.cuh"

namespace warploom::attention::gpu {

template <class T>
SIMT_DEVICE bool is_finite(T x) {
  constexpr uint16_t exponent = __is_same(T, simt::bf16) ? 0x7f80 : 0x7c00;
  return (x.bits & exponent) != exponent;
}

// Replaces non-finite elements by zeros. True, for all threads alike, if there were none. Every
// thread must be done with the old content; afterwards all see the new.
template <int Rows, int Threads, class T, int Cols>
SIMT_DEVICE bool take_out_nonfinite(tile<T, Cols> t) {
  constexpr int chunk = tile<T, Cols>::chunk;
  bool finite = true;
  for_chunks<T, Cols, Rows, Threads>([&](int r, int c) {
    auto v = simt::load_vec<chunk>(t.at(r, c));
    bool good = true;
    SIMT_UNROLL
    for (int e = 0; e < chunk; ++e) {
      if (is_finite(v[e])) continue;
      v[e] = T{0};
      good = false;
    }
    if (!good) simt::store_vec(t.at(r, c), 0, v);
    finite = finite && good;
  });
  return simt::sync_block_all(finite);
}

// Counts of NaN, +inf and -inf in one number, exact in both 16-bit types and, summed over up to 128
// keys, in fp32.
inline constexpr int kNan = 1, kPositive = 160, kNegative = 25600;

template <class T>
SIMT_DEVICE T nonfinite_code(T x) {
  if (is_finite(x)) return T{0};
  const float value = simt::to_float(x);
  return simt::to<T>(float(value > 0 ? kPositive : value < 0 ? kNegative : kNan));
}

SIMT_DEVICE float effect(float sum_of_codes) {
  const int sum = int(sum_of_codes);
  const int negative = sum / kNegative, positive = sum % kNegative / kPositive;
  const int nan = sum % kNegative % kPositive;
  if (nan || (negative && positive)) return quiet_nan();
  return positive ? kInfinity : negative ? -kInfinity : 0.0f;
}

// Overwrites the tile by the codes of what memory holds.
template <int Rows, int Threads, class T, int Cols, class Row>
SIMT_DEVICE void fill_codes(tile<T, Cols> to, Row row, int width, bool vector) {
  constexpr int chunk = tile<T, Cols>::chunk;
  simt::sync_block();
  for_chunks<T, Cols, Rows, Threads>([&](int r, int c) {
    auto v = load_chunk<T, chunk>(row(r), c, width, vector);
    SIMT_UNROLL
    for (int e = 0; e < chunk; ++e) v[e] = nonfinite_code(v[e]);
    simt::store_vec(to.at(r, c), 0, v);
  });
  simt::sync_block();
}

// sum(row, col) += effect(sum over k seen by the row of codes(first + k, col)), k in 16 * K rows.
// `seen(row)` is the span of k. Rare, so its loops stay loops where registers let them.
template <class M, class T, int K, int A, int N, int Cols, class Seen>
SIMT_DEVICE void add_effects(frag_c<M> (&sum)[A][N], tile<T, Cols> codes, int first, int first_col,
                             Seen seen) {
  const int lane = simt::lane<M>();
  SIMT_UNROLL
  for (int m = 0; m < A; ++m) {
    span spans[M::row_slots];
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) spans[i] = seen(m * 16 + M::slot_row(lane, i));
    SIMT_UNROLL
    for (int n = 0; n < N; ++n) {
      frag_c<M> counts = frag_c<M>::zero();
      SIMT_NO_UNROLL
      for (int k = 0; k < K; ++k) {
        frag_c<M> visible;
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          visible.e[e] = spans[M::row_slot(e)].has(k * 16 + M::c(lane, e).col) ? 1.0f : 0.0f;
        }
        simt::mma(counts, simt::to_a<T>(visible),
                  simt::load_b_row<M>(codes, first + k * 16, first_col + n * 16));
      }
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) sum[m][n].e[e] += effect(counts.e[e]);
    }
  }
}

}  // namespace warploom::attention::gpu
