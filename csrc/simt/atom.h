// The matrix atom D = A*B + C on logical 16x16x16 operands of bf16 or f16 with fp32 accumulation:
// fragments, their loads from shared tiles, the product, and reductions along C's rows and columns.
// Every word here is a warp collective: all lanes call it at the same place, with the same tile
// position.
#pragma once

#include "simt/words.h"

namespace warploom::simt {

// Two 16-bit elements to a register, the even element in the low half.
template <class M, class T>
struct frag_a {
  uint32_t r[M::registers];
};
template <class M, class T>
struct frag_b {
  uint32_t r[M::registers];
};
template <class M>
struct frag_c {
  float e[M::elements];
  SIMT_HOST_DEVICE static frag_c zero() {
    frag_c c;
    SIMT_UNROLL
    for (int i = 0; i < M::elements; ++i) c.e[i] = 0.0f;
    return c;
  }
};

template <class M>
SIMT_DEVICE int lane() {
  return thread_index() % M::lanes;
}
template <class M>
SIMT_DEVICE int warp() {
  return thread_index() / M::lanes;
}

namespace atom {

// ldmatrix moves four 8x8 matrices; lane i names row i % 8 of matrix i / 8. Which quadrant of the
// 16x16 source each matrix is depends on the operand: `rows_first` walks down before right.
template <bool Trans, class Tile>
SIMT_DEVICE vec<uint32_t, 4> quadrants(Tile t, int row, int col, bool rows_first, site at) {
  const int l = lane<mma32>(), j = l >> 3;
  const int down = rows_first ? (j & 1) : (j >> 1), right = rows_first ? (j >> 1) : (j & 1);
  return device::ldmatrix_x4<Trans>(t.at(row + down * 8 + (l & 7), col + right * 8), at);
}

template <class Frag>
SIMT_DEVICE Frag from_registers(vec<uint32_t, 4> r) {
  return {{r[0], r[1], r[2], r[3]}};
}

// Four neighbouring elements of one row, and four of one column.
template <class Frag, class T, int Cols>
SIMT_DEVICE Frag row_of_four(tile<T, Cols> t, int row, int col, site at) {
  const auto v = number::bit_cast<vec<uint32_t, 2>>(device::fragment_vec<4>(t.at(row, col), at));
  return {{v[0], v[1]}};
}
template <class Frag, class T, int Cols>
SIMT_DEVICE Frag column_of_four(tile<T, Cols> t, int row, int col, site at) {
  uint32_t e[4];
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) e[i] = device::fragment_vec<1>(t.at(row + i, col), at)[0].bits;
  return {{e[0] | e[1] << 16, e[2] | e[3] << 16}};
}

}  // namespace atom

// A(m, k) = t(row + m, col + k)
template <class M, class T, int Cols>
SIMT_DEVICE frag_a<M, T> load_a(tile<T, Cols> t, int row, int col, site at = site::current()) {
  if constexpr (M::lanes == 32) {
    return atom::from_registers<frag_a<M, T>>(atom::quadrants<false>(t, row, col, true, at));
  } else {
    device::converge(at);
    const int l = lane<M>();
    return atom::row_of_four<frag_a<M, T>>(t, row + M::a(l, 0).row, col + M::a(l, 0).col, at);
  }
}

// A(m, k) = t(row + k, col + m)
template <class M, class T, int Cols>
SIMT_DEVICE frag_a<M, T> load_a_transposed(tile<T, Cols> t, int row, int col,
                                           site at = site::current()) {
  if constexpr (M::lanes == 32) {
    return atom::from_registers<frag_a<M, T>>(atom::quadrants<true>(t, row, col, false, at));
  } else {
    device::converge(at);
    const int l = lane<M>();
    return atom::column_of_four<frag_a<M, T>>(t, row + M::a(l, 0).col, col + M::a(l, 0).row, at);
  }
}

// B(k, n) = t(row + n, col + k): the operand is stored by columns, as keys are for Q*K^T.
template <class M, class T, int Cols>
SIMT_DEVICE frag_b<M, T> load_b_col(tile<T, Cols> t, int row, int col, site at = site::current()) {
  if constexpr (M::lanes == 32) {
    return atom::from_registers<frag_b<M, T>>(atom::quadrants<false>(t, row, col, false, at));
  } else {
    device::converge(at);
    const int l = lane<M>();
    return atom::row_of_four<frag_b<M, T>>(t, row + M::b(l, 0).col, col + M::b(l, 0).row, at);
  }
}

// B(k, n) = t(row + k, col + n): stored by rows, as values are for P*V.
template <class M, class T, int Cols>
SIMT_DEVICE frag_b<M, T> load_b_row(tile<T, Cols> t, int row, int col, site at = site::current()) {
  if constexpr (M::lanes == 32) {
    return atom::from_registers<frag_b<M, T>>(atom::quadrants<true>(t, row, col, true, at));
  } else {
    device::converge(at);
    const int l = lane<M>();
    return atom::column_of_four<frag_b<M, T>>(t, row + M::b(l, 0).row, col + M::b(l, 0).col, at);
  }
}

// c += a * b
template <class M, class T>
SIMT_DEVICE void mma(frag_c<M>& c, const frag_a<M, T>& a, const frag_b<M, T>& b,
                     site at = site::current()) {
  if constexpr (M::lanes == 32) {
    device::mma_m16n8k16<T>(c.e, a.r, b.r, at);
    device::mma_m16n8k16<T>(c.e + 4, a.r, b.r + 2, at);
  } else {
    device::mfma_16x16x16<T>(c.e, b.r, a.r, at);  // exchanged: the hardware makes the transpose
  }
}

// The accumulator, rounded to T, as the A operand of another product: same lanes, same elements.
template <class T, class M>
SIMT_DEVICE frag_a<M, T> to_a(const frag_c<M>& c) {
  frag_a<M, T> a;
  SIMT_UNROLL
  for (int i = 0; i < M::registers; ++i) a.r[i] = pack<T>(c.e[2 * i], c.e[2 * i + 1]);
  return a;
}

// Combines x over the lanes that share a row of C, or a column; all of them get the result.
template <class M, class F>
SIMT_DEVICE float reduce_row(float x, F combine, site at = site::current()) {
  SIMT_UNROLL
  for (int m = M::row_mask_low; m <= M::row_mask_high; m *= 2) {
    x = combine(x, shuffle_xor<M>(x, m, at));
  }
  return x;
}
template <class M, class F>
SIMT_DEVICE float reduce_col(float x, F combine, site at = site::current()) {
  SIMT_UNROLL
  for (int m = M::col_mask_low; m <= M::col_mask_high; m *= 2) {
    x = combine(x, shuffle_xor<M>(x, m, at));
  }
  return x;
}
template <class M>
SIMT_DEVICE float row_max(float x, site at = site::current()) {
  return reduce_row<M>(x, [](float a, float b) { return max(a, b); }, at);
}
template <class M>
SIMT_DEVICE float row_sum(float x, site at = site::current()) {
  return reduce_row<M>(x, [](float a, float b) { return a + b; }, at);
}
// Over the whole warp.
template <class M, class F>
SIMT_DEVICE float reduce_warp(float x, F combine, site at = site::current()) {
  SIMT_UNROLL
  for (int m = 1; m < M::lanes; m *= 2) x = combine(x, shuffle_xor<M>(x, m, at));
  return x;
}

}  // namespace warploom::simt
