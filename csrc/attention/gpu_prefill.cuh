// Prefill on the GPU: a block takes a tile of one head's query rows against the keys they see.
#pragma once

#include "attention/gpu_forward.cuh"
#include "attention/gpu_launch.h"
#include "attention/gpu_plain.cuh"

namespace warploom::attention::gpu {

template <class Cfg>
struct prefill_kernel {
  using machine = typename Cfg::M;
  using T = typename Cfg::T;
  struct params {
    problem p;
    view<const T> q, k, v;
    view<T> o;
    global<float> lse;  // null: not wanted
    int32_t row_tiles;
  };
  static constexpr const char* name = "attention_prefill";
  static constexpr int threads = Cfg::threads;
  static constexpr int min_blocks = Cfg::tiles.min_blocks;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const problem& p = a.p;
    if (!sequences_fit(p)) {
      poison(a.o, p.tq, p.h, p.dv);
      if (a.lse) poison(a.lse, p.tq * p.h);
      return;
    }
    // Later rows see more keys under a causal mask: they start first.
    const int row_tile = a.row_tiles - 1 - simt::block_x() % a.row_tiles;
    const int head = simt::block_x() / a.row_tiles % p.h;
    const int n = simt::block_x() / a.row_tiles / p.h;
    const int kv_head = head / (p.h / p.hk);
    const sequence seq = sequence::of(p, n);
    const int first_row = row_tile * Cfg::rows;
    if (first_row >= seq.sq) return;

    const query_rows<false> rows{p.mask, first_row, seq.sq - first_row, seq.sq, seq.sk};
    const span seen = rows.any_keys(Cfg::rows);
    const int first = seen.begin / Cfg::keys, last = simt::ceil_div(seen.end, Cfg::keys);

    const auto q = a.q.at(seq.batch, seq.first_q + first_row, head);
    const auto k = a.k.at(seq.batch, seq.first_k, kv_head);
    const auto v = a.v.at(seq.batch, seq.first_k, kv_head);

    simt::arena smem;
    typename Cfg::state state;
    forward(
        state, smem, rows, p.f, p.d, p.dv, p.vector, first, last,
        [&](int r) { return maybe_row<T>{q + r * a.q.row, rows.inside(r)}; },
        [&](int j) { return maybe_row<T>{k + j * a.k.row, j < seq.sk}; },
        [&](int j) { return maybe_row<T>{v + j * a.v.row, j < seq.sk}; });
    // Looked up again: through the loop these places would occupy registers.
    const sequence same = sequence::of(p, simt::opaque(n));
    const auto o = a.o.at(same.batch, same.first_q + first_row, head);
    const int64_t lse = same.lse_index(p, head, first_row);
    const query_rows<false> same_rows{p.mask, first_row, same.sq - first_row, same.sq, same.sk};
    finish(
        state, same_rows, p.f.factor,
        [&](int r, int c, const auto& values) {
          if (rows.inside(r)) store_run<T>(o + r * a.o.row, c, values, p.dv, p.vector);
        },
        [&](int r, float value) {
          if (a.lse && rows.inside(r)) simt::store(a.lse, lse + r, value);
        });
  }
};

// Products by the atom where the element type has one, plain arithmetic otherwise.
template <class M, class T, int D>
struct prefill_config {
  using type = forward_config<M, T, D, prefill_tiles<M, D>()>;
};
template <class M, int D>
struct prefill_config<M, float, D> {
  using type = plain_config<M, D>;
};

template <class M, class T, int D>
struct prefill_op {
  using params_type = wl_attention_forward_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Cfg = typename prefill_config<M, T, D>::type;
    using Kernel = prefill_kernel<Cfg>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.p = problem_of(launcher, w.problem);
    launcher.require_shared(Kernel::name, Cfg::smem_bytes);
    if (!launcher.ok()) return launcher.status();
    const auto& p = w.problem;
    const Axes q = query_axes(p, p.h), k = key_axes(p, p.hk);
    a.p.vector = p.d % 8 == 0 && p.dv % 8 == 0 && aligned(w.q, q, sizeof(T)) &&
                 aligned(w.k, k, sizeof(T)) && aligned(w.v, k, sizeof(T)) &&
                 aligned(w.o, q, sizeof(T));
    a.q = launcher.input<T>(w.q, q.batch, q.rows, q.heads, p.d);
    a.k = launcher.input<T>(w.k, k.batch, k.rows, k.heads, p.d);
    a.v = launcher.input<T>(w.v, k.batch, k.rows, k.heads, p.dv);
    a.o = launcher.output<T>("o", w.o, q.batch, q.rows, q.heads, p.dv);
    a.lse = launcher.output("lse", w.lse, q.count());
    // A ragged call with a bound of no rows still has its offsets looked at.
    const int64_t tiles = tiles_of(p.sq, Cfg::rows);
    a.row_tiles = int32_t(p.cu_seqlens_q && q.rows > 0 && tiles == 0 ? 1 : tiles);
    launcher.launch<Kernel>(a.row_tiles * p.h * p.b, Cfg::smem_bytes, a);
    return launcher.finish();
  }
};

}  // namespace warploom::attention::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, d_max, ...) \
  WL_GPU_OP(attention, name, target, dtype, prefill_op, d_max)
