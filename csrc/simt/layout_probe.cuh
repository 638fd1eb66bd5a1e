// A one-hot probe of machine.h's tables: the first thing to run on a real device, since a kernel
// whose loads and products share one wrong table can look right. It takes each table apart:
//   products   operands put into registers by the tables: A one-hot at each of its 256 places,
//              B(k, n) = 16 k + n, so that each D shows which place each operand really was
//   loads      the four fragment loads from a tile whose elements are all different
//   rows       sums over a row and over a column of C
#pragma once

#include "simt/launch.h"

namespace warploom::simt {

template <class M, class T>
struct layout_probe {
  using machine = M;
  static constexpr const char* name = "layout_probe";
  static constexpr int threads = M::lanes;
  static constexpr int min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int products = 256, loads = 4, rows = 2;
  static constexpr int results = (products + loads + rows) * 256;  // floats
  using square = tile<T, 16>;
  static constexpr int64_t smem_bytes = square::bytes(16);

  struct params {
    global<float> out;  // [results]
  };

  SIMT_DEVICE static float code(position at) { return static_cast<float>(at.row * 16 + at.col); }

  SIMT_DEVICE static void put(const params& p, int matrix, position at, float value) {
    store(p.out, matrix * 256 + at.row * 16 + at.col, value);
  }

  // What a fragment's element e holds.
  template <class Frag>
  SIMT_DEVICE static float held(const Frag& f, int e) {
    return unpack<T>(f.r[e / 2], e % 2);
  }

  SIMT_DEVICE static void run(const params& p) {
    const int l = lane<M>();
    frag_b<M, T> b;
    SIMT_UNROLL
    for (int i = 0; i < M::registers; ++i) {
      b.r[i] = pack<T>(code(M::b(l, 2 * i)), code(M::b(l, 2 * i + 1)));
    }
    for (int hot = 0; hot < products; ++hot) {
      frag_a<M, T> a;
      SIMT_UNROLL
      for (int i = 0; i < M::registers; ++i) {
        a.r[i] = pack<T>(code(M::a(l, 2 * i)) == hot ? 1.0f : 0.0f,
                         code(M::a(l, 2 * i + 1)) == hot ? 1.0f : 0.0f);
      }
      frag_c<M> c = frag_c<M>::zero();
      mma(c, a, b);
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) put(p, hot, M::c(l, e), c.e[e]);
    }

    arena smem;
    const square t = square::take(smem, 16);
    for (int i = l; i < 256; i += M::lanes) {
      store(t.at(i / 16, i % 16), 0, to<T>(static_cast<float>(i)));
    }
    sync_warp();
    const auto a = load_a<M>(t, 0, 0), at = load_a_transposed<M>(t, 0, 0);
    const auto bc = load_b_col<M>(t, 0, 0), br = load_b_row<M>(t, 0, 0);
    SIMT_UNROLL
    for (int e = 0; e < M::elements; ++e) {
      put(p, products + 0, M::a(l, e), held(a, e));
      put(p, products + 1, M::a(l, e), held(at, e));
      put(p, products + 2, M::b(l, e), held(bc, e));
      put(p, products + 3, M::b(l, e), held(br, e));
    }

    float row[M::row_slots] = {};
    SIMT_UNROLL
    for (int e = 0; e < M::elements; ++e) row[M::row_slot(e)] += code(M::c(l, e));
    SIMT_UNROLL
    for (int s = 0; s < M::row_slots; ++s) row[s] = row_sum<M>(row[s]);
    float col[M::elements];
    SIMT_UNROLL
    for (int e = 0; e < M::elements; ++e) {
      // Two elements of a column may lie in one lane: add those before the lanes.
      float x = 0.0f;
      SIMT_UNROLL
      for (int f = 0; f < M::elements; ++f) {
        if (M::c(l, f).col == M::c(l, e).col) x += code(M::c(l, f));
      }
      col[e] = reduce_col<M>(x, [](float u, float v) { return u + v; });
    }
    SIMT_UNROLL
    for (int e = 0; e < M::elements; ++e) {
      put(p, products + loads + 0, M::c(l, e), row[M::row_slot(e)]);
      put(p, products + loads + 1, M::c(l, e), col[e]);
    }
  }

  // Empty if `out`, copied to the host, is what the tables promise.
  static std::string verify(const float* out) {
    for (int i = 0; i < results; ++i) {
      const int matrix = i / 256, r = i / 16 % 16, c = i % 16;
      const int hot_row = matrix / 16, k = matrix % 16;
      float want = 0.0f;
      const char* what = "product";
      if (matrix < products) {
        want = r == hot_row ? static_cast<float>(16 * k + c) : 0.0f;
      } else if (matrix < products + loads) {
        static constexpr const char* names[] = {"load_a", "load_a_transposed", "load_b_col",
                                                "load_b_row"};
        what = names[matrix - products];
        const bool straight = matrix == products || matrix == products + 3;
        want = static_cast<float>(straight ? 16 * r + c : 16 * c + r);
      } else {
        const bool by_row = matrix == products + loads;
        what = by_row ? "row_sum" : "reduce_col";
        want = static_cast<float>(by_row ? 256 * r + 120 : 16 * 120 + 16 * c);
      }
      if (out[i] == want) continue;
      return std::string("layout probe: ") + what + ", matrix " + std::to_string(matrix) +
             ", row " + std::to_string(r) + ", column " + std::to_string(c) + " is " +
             std::to_string(out[i]) + ", must be " + std::to_string(want);
    }
    return "";
  }
};

}  // namespace warploom::simt
