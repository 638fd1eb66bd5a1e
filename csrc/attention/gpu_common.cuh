// What the GPU loops of attention share: strided views, sequences and their guard, the formula,
// and the loads of tiles.
#pragma once

#include "attention/gpu_plan.h"
#include "base/device_errors.h"
#include "simt/simt.h"

namespace warploom::attention::gpu {

using simt::frag_a;
using simt::frag_b;
using simt::frag_c;
using simt::global;
using simt::shared;
using simt::tile;
using simt::view;

SIMT_DEVICE float quiet_nan() { return simt::number::bit_cast<float>(0x7fc00000u); }

// A row to load, and whether it exists.
template <class T>
struct maybe_row {
  global<const T> p;
  bool inside;
};

// The sizes of a prefill or backward call. Sequences are at most 2^29 long.
struct problem {
  int32_t b, h, hk, d, dv;
  int32_t sq, sk;  // ragged: the most that one sequence may have
  int64_t tq, tk;
  global<const int32_t> cu_q, cu_k;  // null: dense
  wl_mask mask;
  formula f;
  bool vector;  // every row starts at a multiple of 16 bytes and fills whole 16-byte chunks
  global<int32_t> error;
};

// Sequence n: where its rows start (batch is 0 in a ragged call) and how many it has.
struct sequence {
  int64_t batch, first_q, first_k;
  int32_t sq, sk;

  SIMT_DEVICE static sequence of(const problem& p, int n) {
    if (!p.cu_q) return {n, 0, 0, p.sq, p.sk};
    const int32_t q = simt::load(p.cu_q, n), k = simt::load(p.cu_k, n);
    return {0, q, k, simt::load(p.cu_q, n + 1) - q, simt::load(p.cu_k, n + 1) - k};
  }
  // Index of (head, row i) in a contiguous lse: [b, h, sq], or [h, tq] when ragged.
  SIMT_DEVICE int64_t lse_index(const problem& p, int head, int64_t i) const {
    return p.cu_q ? head * p.tq + first_q + i : (batch * p.h + head) * p.sq + i;
  }
};

// This thread's share of looking through cu_seqlens: from 0 to `rows`, never decreasing, no
// sequence longer than `longest`.
SIMT_DEVICE bool offsets_fit(const problem& p, global<const int32_t> offsets, int64_t rows,
                             int32_t longest, device_error what) {
  bool fit = true;
  for (int n = simt::thread_index(); n <= p.b; n += simt::block_threads()) {
    const int32_t here = simt::load(offsets, n);
    const int32_t before = n == 0 ? 0 : simt::load(offsets, n - 1);
    // In 64 bits: a wild offset must not wrap around to a length that fits.
    const int64_t length = int64_t{here} - before;
    if (length < 0 || length > (n == 0 ? 0 : longest) || (n == p.b && here != rows)) {
      simt::set_error(p.error, error_word(what, n));
      fit = false;
    }
  }
  return fit;
}

// Whether the sequences lie inside the tensors. Every block looks at all of them: one that is wrong
// makes the others' places meaningless. All threads get the same answer.
SIMT_DEVICE bool sequences_fit(const problem& p) {
  if (!p.cu_q) return true;
  const bool fit = offsets_fit(p, p.cu_q, p.tq, p.sq, device_error::cu_seqlens_q) &&
                   offsets_fit(p, p.cu_k, p.tk, p.sk, device_error::cu_seqlens_k);
  return simt::sync_block_all(fit);
}

// Fills the rows of a ragged tensor with NaN, shared out among all blocks and threads.
template <class T>
SIMT_DEVICE void poison(const view<T>& x, int64_t rows, int heads, int width) {
  const int64_t step = int64_t{simt::grid_x()} * simt::block_threads();
  for (int64_t i = int64_t{simt::block_x()} * simt::block_threads() + simt::thread_index();
       i < rows * heads; i += step) {
    const auto row = x.at(0, i / heads, i % heads);
    for (int c = 0; c < width; ++c) simt::store(row, c, simt::to<T>(quiet_nan()));
  }
}
SIMT_DEVICE void poison(global<float> x, int64_t count) {
  const int64_t step = int64_t{simt::grid_x()} * simt::block_threads();
  for (int64_t i = int64_t{simt::block_x()} * simt::block_threads() + simt::thread_index();
       i < count; i += step) {
    simt::store(x, i, quiet_nan());
  }
}

// g(s) of the formula; and, for the backward pass, its slope by <q, k> times scale.
SIMT_DEVICE float score(const formula& f, float s) {
  if (f.how == formula::raw) return s;
  s *= f.before;
  return f.how == formula::capped ? simt::tanh(s) : s;
}
SIMT_DEVICE float slope(const formula& f, float score) {
  return f.how == formula::capped ? f.scale * (1.0f - score * score) : f.scale;
}

// Visibility in 32 bits: what a mask leaves is asked often.
using visible32 = BasicVisible<int32_t>;

// The columns of a tile that one row sees: [begin, end), relative to the tile.
struct span {
  int begin, end;
  SIMT_DEVICE bool has(int column) const { return column >= begin && column < end; }
};
SIMT_DEVICE span relative(visible32::Range r, int origin) {
  return {r.begin - origin, r.end - origin};
}
// The range itself; empty is {0, 0}.
SIMT_DEVICE span whole(visible32::Range r) {
  return r.begin < r.end ? span{r.begin, r.end} : span{0, 0};
}

// --- tiles in shared memory ---

// Calls f(row, column of its first element) for each 16-byte chunk of this thread's share.
template <class T, int Cols, int Rows, int Threads, class F>
SIMT_DEVICE void for_chunks(F f) {
  constexpr int chunk = tile<T, Cols>::chunk, per_row = Cols / chunk;
  for (int id = simt::thread_index(); id < Rows * per_row; id += Threads) {
    f(id / per_row, id % per_row * chunk);
  }
}

// One chunk of a row, element by element where rows are not aligned; zeros where nothing is.
template <class T, int N>
SIMT_DEVICE simt::vec<T, N> load_chunk(const maybe_row<T>& row, int col, int width, bool vector) {
  simt::vec<T, N> v{};
  if (!row.inside) return v;
  if (vector) {
    if (col < width) v = simt::load_vec<N>(row.p, col);
    return v;
  }
  SIMT_UNROLL
  for (int e = 0; e < N; ++e) {
    if (col + e < width) v[e] = simt::load(row.p, col + e);
  }
  return v;
}

// Fills a tile at once (not asynchronously). `row(r)` is a maybe_row<T>.
template <int Rows, int Threads, class T, int Cols, class Row>
SIMT_DEVICE void fill(tile<T, Cols> to, Row row, int width, bool vector) {
  constexpr int chunk = tile<T, Cols>::chunk;
  for_chunks<T, Cols, Rows, Threads>([&](int r, int c) {
    simt::store_vec(to.at(r, c), 0, load_chunk<T, chunk>(row(r), c, width, vector));
  });
}

// Fills a tile asynchronously. Between start and land its old content must not be in use.
template <class T, int Cols, int Rows, int Threads>
class tile_load {
 public:
  static constexpr int chunk = tile<T, Cols>::chunk, per_row = Cols / chunk;
  static constexpr int count = Rows * per_row / Threads;
  static_assert(count * Threads == Rows * per_row, "every thread copies as many chunks");

  template <class Row>
  SIMT_DEVICE void start(tile<T, Cols> to, Row row, int width, bool vector) {
    if (!vector) {
      fill<Rows, Threads>(to, row, width, false);
      return;
    }
    const int thread = simt::opaque(simt::thread_index());
    SIMT_UNROLL
    for (int i = 0; i < count; ++i) {
      const int id = i * Threads + thread;
      const int r = id / per_row, c = id % per_row * chunk;
      const maybe_row<T> from = row(r);
      const bool inside = from.inside && c < width;
      ticket_.copy(i, to.at(r, c), inside ? from.p + c : from.p, inside);
    }
    ticket_.commit();
  }
  // Newer: how many later starts may still be under way.
  template <int Newer = 0>
  SIMT_DEVICE void land(bool vector) {
    if (vector) ticket_.template land<Newer>();
  }

 private:
  simt::copy_ticket<count> ticket_;
};

// A warp's rows of a tile as A operands: kept in registers, or loaded again for each use.
template <class M, class T, int A, int C, bool Registers>
struct operand {
  frag_a<M, T> a[A][C];

  SIMT_DEVICE void load(tile<T, C * 16> t, int row) {
    SIMT_UNROLL
    for (int m = 0; m < A; ++m) {
      SIMT_UNROLL
      for (int c = 0; c < C; ++c) a[m][c] = simt::load_a<M>(t, row + m * 16, c * 16);
    }
  }
  SIMT_DEVICE frag_a<M, T> get(int m, int c, int) const { return a[m][c]; }
};
template <class M, class T, int A, int C>
struct operand<M, T, A, C, false> {
  tile<T, C * 16> t;

  SIMT_DEVICE void load(tile<T, C * 16> from, int) { t = from; }
  SIMT_DEVICE frag_a<M, T> get(int m, int c, int row) const {
    return simt::load_a<M>(t, row + m * 16, c * 16);
  }
};

// The product of two rows of tiles, in eight sums: one would round its way through all d.
template <class Tile>
SIMT_DEVICE float dot(const Tile& a, int row, const Tile& b, int other, int d) {
  constexpr int kSums = 8;
  float sums[kSums] = {};
  int c = 0;
  for (; c + kSums <= d; c += kSums) {
    SIMT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      sums[i] = simt::fma(simt::load(a.at(row, c + i)), simt::load(b.at(other, c + i)), sums[i]);
    }
  }
  for (; c < d; ++c) {
    sums[0] = simt::fma(simt::load(a.at(row, c)), simt::load(b.at(other, c)), sums[0]);
  }
  SIMT_UNROLL
  for (int step = kSums / 2; step > 0; step /= 2) {
    SIMT_UNROLL
    for (int i = 0; i < step; ++i) sums[i] += sums[i + step];
  }
  return sums[0];
}

}  // namespace warploom::attention::gpu
