// The gradients on the GPU: delta_i = <do_i, o_i> - dlse_i for each query row, then the gradients
// of keys and values, then those of queries. Deterministic.
#pragma once

#include "attention/gpu_backward_loop.cuh"
#include "attention/gpu_forward.cuh"
#include "attention/gpu_launch.h"
#include "attention/gpu_plain_backward.cuh"

namespace warploom::attention::gpu {

template <class T>
struct backward_params {
  problem p;
  view<const T> q, k, v, o, grad_o;
  global<const float> lse, grad_lse;  // grad_lse null: none arrives
  view<T> dq, dk, dv;
  global<float> delta;  // like lse
  int32_t tiles;        // of the rows that the kernel's blocks own
};

// One warp for each query row.
template <class M, class T>
struct delta_kernel {
  using machine = M;
  using params = backward_params<T>;
  static constexpr const char* name = "attention_backward_delta";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int rows = threads / M::lanes;

  SIMT_DEVICE static void run(const params& a) {
    const problem& p = a.p;
    const int64_t per_head = p.cu_q ? p.tq : p.sq, heads = p.cu_q ? p.h : int64_t{p.b} * p.h;
    const int64_t row = int64_t{simt::block_x()} * rows + simt::warp<M>();
    if (row >= per_head * heads) return;
    const int64_t i = row % per_head, n = row / per_head / p.h;
    const int head = int(row / per_head % p.h);
    const auto o = a.o.at(n, i, head), grad = a.grad_o.at(n, i, head);
    float sum = 0;
    for (int c = simt::lane<M>(); c < p.dv; c += M::lanes) {
      sum = simt::fma(simt::to_float(simt::load(o, c)), simt::to_float(simt::load(grad, c)), sum);
    }
    sum = simt::reduce_warp<M>(sum, [](float x, float y) { return x + y; });
    if (simt::lane<M>() == 0) {
      simt::store(a.delta, row, a.grad_lse ? sum - simt::load(a.grad_lse, row) : sum);
    }
  }
};

// The statistics of query row i, for the loop: rows that do not exist have none that count.
template <class T>
SIMT_DEVICE void statistics_of(const backward_params<T>& a, int64_t at, bool inside, float& lse,
                               float& delta) {
  lse = inside ? simt::load(a.lse, at) * kLog2E : 0.0f;
  delta = inside ? simt::load(a.delta, at) : 0.0f;
}

// Rows of one head of one sequence: the first, the distance to the next, how many there are.
template <class T>
struct row_list {
  global<const T> first;
  int64_t step;
  int32_t count;

  SIMT_DEVICE static row_list of(const view<const T>& x, const sequence& seq, int64_t at, int head,
                                 int count) {
    return {x.at(seq.batch, at, head), x.row, count};
  }
  SIMT_DEVICE maybe_row<T> at(int i) const { return {first + i * step, i < count}; }
};

// A block's keys and values, and the query rows of their group.
template <class Cfg>
struct key_side {
  using T = typename Cfg::T;
  const backward_params<T>& a;
  row_list<T> k, v, q, grad_o;  // from the block's first key; from the group's first query row
  int64_t statistics_at, statistics_step;
  visible32 visible;
  int first_row;
  span any, all;
  int others, turns, first_width, second_width, first_col;
  const formula& f;
  bool vector;

  SIMT_DEVICE maybe_row<T> own_first(int r) const { return k.at(r); }
  SIMT_DEVICE maybe_row<T> own_second(int r) const { return v.at(r); }
  SIMT_DEVICE maybe_row<T> other_first(int turn, int i) const {
    const auto row = q.at(i);
    return {row.p + turn * a.q.head, row.inside};
  }
  SIMT_DEVICE maybe_row<T> other_second(int turn, int i) const {
    const auto row = grad_o.at(i);
    return {row.p + turn * a.grad_o.head, row.inside};
  }
  SIMT_DEVICE void statistics(int turn, int i, float& lse, float& delta) const {
    statistics_of(a, statistics_at + turn * statistics_step + i, i < others, lse, delta);
  }
  SIMT_DEVICE span seen(int r, int origin) const {
    return relative(visible.rows(first_row + r), origin);
  }
};

// A block's query rows, and the keys and values that their head reads.
template <class Cfg>
struct query_side {
  using T = typename Cfg::T;
  const backward_params<T>& a;
  row_list<T> q, grad_o, k, v;  // from the block's first row; from the sequence's first key
  int64_t statistics_at;
  visible32 visible;
  int first_row;
  span any, all;
  int others, turns, first_width, second_width, first_col;
  const formula& f;
  bool vector;

  SIMT_DEVICE maybe_row<T> own_first(int r) const { return q.at(r); }
  SIMT_DEVICE maybe_row<T> own_second(int r) const { return grad_o.at(r); }
  SIMT_DEVICE maybe_row<T> other_first(int, int j) const { return k.at(j); }
  SIMT_DEVICE maybe_row<T> other_second(int, int j) const { return v.at(j); }
  SIMT_DEVICE void statistics(int, int r, float& lse, float& delta) const {
    statistics_of(a, statistics_at + r, r < q.count, lse, delta);
  }
  SIMT_DEVICE span seen(int r, int origin) const {
    return relative(visible.keys(first_row + r), origin);
  }
};

// What the two kernels are to a launch.
template <class Cfg>
struct backward_kernel {
  using machine = typename Cfg::M;
  using params = backward_params<typename Cfg::T>;
  static constexpr int threads = Cfg::threads;
  static constexpr int min_blocks = Cfg::tiles.min_blocks;
  static constexpr bool all_resident = false;
};

template <class Cfg>
struct backward_keys_kernel : backward_kernel<Cfg> {
  using T = typename Cfg::T;
  static constexpr const char* name = "attention_backward_keys";

  SIMT_DEVICE static void run(const backward_params<T>& a) {
    const problem& p = a.p;
    if (!sequences_fit(p)) {
      poison(a.dk, p.tk, p.hk, p.d);
      poison(a.dv, p.tk, p.hk, p.dv);
      return;
    }
    const int slice = simt::block_x() % Cfg::slices, block = simt::block_x() / Cfg::slices;
    const int first_row = block % a.tiles * Cfg::rows;
    const int kv_head = block / a.tiles % p.hk, n = block / a.tiles / p.hk;
    const sequence seq = sequence::of(p, n);
    if (first_row >= seq.sk) return;
    const visible32 visible = visible32::of(p.mask, seq.sq, seq.sk);
    const int last_row = simt::min(first_row + Cfg::rows, seq.sk);
    const int group = p.h / p.hk, head = kv_head * group, count = last_row - first_row;
    using rows = row_list<T>;
    const key_side<Cfg> side{a,
                             rows::of(a.k, seq, seq.first_k + first_row, kv_head, count),
                             rows::of(a.v, seq, seq.first_k + first_row, kv_head, count),
                             rows::of(a.q, seq, seq.first_q, head, seq.sq),
                             rows::of(a.grad_o, seq, seq.first_q, head, seq.sq),
                             seq.lse_index(p, head, 0),
                             p.cu_q ? p.tq : p.sq,
                             visible,
                             first_row,
                             whole(visible.any_rows(first_row, last_row)),
                             whole(visible.all_rows(first_row, last_row)),
                             seq.sq,
                             group,
                             p.d,
                             p.dv,
                             slice * Cfg::tiles.slice,
                             p.f,
                             p.vector};
    simt::arena smem;
    typename Cfg::state state;
    backward(state, smem, side);
    const auto dk = a.dk.at(seq.batch, seq.first_k + first_row, kv_head);
    const auto dv = a.dv.at(seq.batch, seq.first_k + first_row, kv_head);
    hand_out(state, state.first, side.first_col, [&](int r, int c, const auto& values) {
      if (r < count) store_run<T>(dk + r * a.dk.row, c, values, p.d, p.vector);
    });
    hand_out(state, state.second, side.first_col, [&](int r, int c, const auto& values) {
      if (r < count) store_run<T>(dv + r * a.dv.row, c, values, p.dv, p.vector);
    });
  }
};

template <class Cfg>
struct backward_queries_kernel : backward_kernel<Cfg> {
  using T = typename Cfg::T;
  static constexpr const char* name = "attention_backward_queries";

  SIMT_DEVICE static void run(const backward_params<T>& a) {
    const problem& p = a.p;
    if (!sequences_fit(p)) {
      poison(a.dq, p.tq, p.h, p.d);
      return;
    }
    const int first_row = (a.tiles - 1 - simt::block_x() % a.tiles) * Cfg::rows;
    const int head = simt::block_x() / a.tiles % p.h, n = simt::block_x() / a.tiles / p.h;
    const sequence seq = sequence::of(p, n);
    if (first_row >= seq.sq) return;
    const visible32 visible = visible32::of(p.mask, seq.sq, seq.sk);
    const int last_row = simt::min(first_row + Cfg::rows, seq.sq);
    const int kv_head = head / (p.h / p.hk), count = last_row - first_row;
    using rows = row_list<T>;
    const query_side<Cfg> side{a,
                               rows::of(a.q, seq, seq.first_q + first_row, head, count),
                               rows::of(a.grad_o, seq, seq.first_q + first_row, head, count),
                               rows::of(a.k, seq, seq.first_k, kv_head, seq.sk),
                               rows::of(a.v, seq, seq.first_k, kv_head, seq.sk),
                               seq.lse_index(p, head, first_row),
                               visible,
                               first_row,
                               whole(visible.any_keys(first_row, last_row)),
                               whole(visible.all_keys(first_row, last_row)),
                               seq.sk,
                               1,
                               p.d,
                               p.dv,
                               0,
                               p.f,
                               p.vector};
    simt::arena smem;
    typename Cfg::state state;
    backward(state, smem, side);
    const auto dq = a.dq.at(seq.batch, seq.first_q + first_row, head);
    hand_out(state, state.first, 0, [&](int r, int c, const auto& values) {
      if (r < count) store_run<T>(dq + r * a.dq.row, c, values, p.d, p.vector);
    });
  }
};

// Products by the atom where the element type has one, plain arithmetic otherwise.
template <class M, class T, int D>
struct backward_kernels {
  using keys_config = backward_config<M, T, D, backward_key_tiles<M, D>(), true>;
  using queries_config = backward_config<M, T, D, backward_query_tiles<M, D>(), false>;
  using keys = backward_keys_kernel<keys_config>;
  using queries = backward_queries_kernel<queries_config>;
};
template <class M, int D>
struct backward_kernels<M, float, D> {
  using keys_config = plain_backward_config<M, D, true>;
  using queries_config = plain_backward_config<M, D, false>;
  using keys = backward_keys_kernel<keys_config>;
  using queries = backward_queries_kernel<queries_config>;
};

template <class M, class T, int D>
struct backward_op {
  using params_type = wl_attention_backward_params;

  static int64_t rows(const params_type& w) { return query_axes(w.problem, w.problem.h).count(); }
  static int64_t workspace(const params_type& w) { return scratch_bytes<float>(rows(w)); }

  static wl_status run(const params_type& w) {
    using Kernels = backward_kernels<M, T, D>;
    using KeysConfig = typename Kernels::keys_config;
    using QueriesConfig = typename Kernels::queries_config;
    Launcher launcher(w.exec);
    backward_params<T> a{};
    a.p = problem_of(launcher, w.problem);
    launcher.require_workspace(w.exec, workspace(w));
    launcher.require_shared(Kernels::keys::name, KeysConfig::smem_bytes);
    launcher.require_shared(Kernels::queries::name, QueriesConfig::smem_bytes);
    if (!launcher.ok()) return launcher.status();
    const auto& p = w.problem;
    const Axes q = query_axes(p, p.h), k = key_axes(p, p.hk);
    a.p.vector = p.d % 8 == 0 && p.dv % 8 == 0;
    for (const wl_strided* x : {&w.q, &w.grad_o, &w.dq}) {
      a.p.vector = a.p.vector && aligned(*x, q, sizeof(T));
    }
    for (const wl_strided* x : {&w.k, &w.v, &w.dk, &w.dv}) {
      a.p.vector = a.p.vector && aligned(*x, k, sizeof(T));
    }
    a.q = launcher.input<T>(w.q, q.batch, q.rows, q.heads, p.d);
    a.k = launcher.input<T>(w.k, k.batch, k.rows, k.heads, p.d);
    a.v = launcher.input<T>(w.v, k.batch, k.rows, k.heads, p.dv);
    a.o = launcher.input<T>(w.o, q.batch, q.rows, q.heads, p.dv);
    a.grad_o = launcher.input<T>(w.grad_o, q.batch, q.rows, q.heads, p.dv);
    a.lse = launcher.input(w.lse, rows(w));
    a.grad_lse = launcher.input(w.grad_lse, rows(w));
    a.dq = launcher.output<T>("dq", w.dq, q.batch, q.rows, q.heads, p.d);
    a.dk = launcher.output<T>("dk", w.dk, k.batch, k.rows, k.heads, p.d);
    a.dv = launcher.output<T>("dv", w.dv, k.batch, k.rows, k.heads, p.dv);
    a.delta = launcher.scratch<float>(w.exec, rows(w));

    using Delta = delta_kernel<M, T>;
    launcher.launch<Delta>(tiles_of(rows(w), Delta::rows), 0, a);
    // A ragged call with a bound of no rows still has its offsets looked at.
    const auto tiles = [&](int64_t length, int64_t tile, int64_t present) {
      const int64_t n = tiles_of(length, tile);
      return int32_t(p.cu_seqlens_q && n == 0 && present > 0 ? 1 : n);
    };
    a.tiles = tiles(p.sk, KeysConfig::rows, k.rows);
    launcher.launch<typename Kernels::keys>(int64_t{a.tiles} * KeysConfig::slices * p.hk * p.b,
                                            KeysConfig::smem_bytes, a);
    a.tiles = tiles(p.sq, QueriesConfig::rows, q.rows);
    launcher.launch<typename Kernels::queries>(int64_t{a.tiles} * p.h * p.b,
                                               QueriesConfig::smem_bytes, a);
    return launcher.finish();
  }
};

}  // namespace warploom::attention::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, d_max, ...) \
  WL_GPU_OP(attention, name, target, dtype, backward_op, d_max)
