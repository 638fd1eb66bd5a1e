// D = A * B by one warp, with either operand stored by rows or by columns, in tiles of any width;
// then D, rounded, as the A operand of a second product: E = to(D) * B.
#pragma once

#include "simt/simt.h"

namespace warploom::simt::test {

template <class M, class T, int Cols, bool ATransposed, bool BByRows>
struct atom_product {
  using machine = M;
  static constexpr const char* name = "atom_product";
  static constexpr int threads = M::lanes;
  static constexpr int min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int size = Cols < 32 ? Cols : 32;   // of the square matrices
  static constexpr int row0 = 16, col0 = Cols - size;  // where they lie in their tiles
  using space = tile<T, Cols>;
  static constexpr int64_t smem_bytes = 2 * space::bytes(row0 + size);

  struct params {
    global<const T> a, b;  // [size, size] as stored
    global<float> d, e;    // [size, size]
  };

  SIMT_DEVICE static void fill(space to, global<const T> from) {
    for (int i = thread_index(); i < size * size; i += threads) {
      store(to.at(row0 + i / size, col0 + i % size), 0, load(from, i));
    }
  }
  SIMT_DEVICE static frag_a<M, T> left(space a, int m, int k) {
    if constexpr (ATransposed) return load_a_transposed<M>(a, row0 + k, col0 + m);
    return load_a<M>(a, row0 + m, col0 + k);
  }
  SIMT_DEVICE static frag_b<M, T> right(space b, int k, int n) {
    if constexpr (BByRows) return load_b_row<M>(b, row0 + k, col0 + n);
    return load_b_col<M>(b, row0 + n, col0 + k);
  }
  SIMT_DEVICE static void put(global<float> to, int m, int n, const frag_c<M>& c) {
    SIMT_UNROLL
    for (int e = 0; e < M::elements; e += M::run) {
      const position at = M::c(lane<M>(), e);
      vec<float, M::run> v;
      SIMT_UNROLL
      for (int i = 0; i < M::run; ++i) v[i] = c.e[e + i];
      store_vec(to, (m + at.row) * size + n + at.col, v);
    }
  }

  SIMT_DEVICE static void run(const params& p) {
    arena smem;
    const space a = space::take(smem, row0 + size), b = space::take(smem, row0 + size);
    fill(a, p.a);
    fill(b, p.b);
    sync_block();
    constexpr int atoms = size / 16;
    SIMT_UNROLL
    for (int m = 0; m < atoms; ++m) {
      frag_c<M> d[atoms];
      SIMT_UNROLL
      for (int n = 0; n < atoms; ++n) {
        d[n] = frag_c<M>::zero();
        SIMT_UNROLL
        for (int k = 0; k < atoms; ++k)
          mma(d[n], left(a, m * 16, k * 16), right(b, k * 16, n * 16));
        put(p.d, m * 16, n * 16, d[n]);
      }
      SIMT_UNROLL
      for (int n = 0; n < atoms; ++n) {
        auto e = frag_c<M>::zero();
        SIMT_UNROLL
        for (int k = 0; k < atoms; ++k) mma(e, to_a<T>(d[k]), right(b, k * 16, n * 16));
        put(p.e, m * 16, n * 16, e);
      }
    }
  }
};

}  // namespace warploom::simt::test
