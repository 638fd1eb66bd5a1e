// The forward loop: a tile of query rows against key tiles with an online softmax in base 2, for
// prefill and decode alike.
//
// Per tile: K lands, V is sent for; S = Q K^T; V lands; softmax with one rescaling of the sums; the
// next K is sent for; O += P V with P straight from the accumulators. So the copy of one operand is
// in flight behind the product with the other.
//
// Its two floors. Operations: 2 * rows * keys * (d + dv) over the matrix rate; each key fragment
// loaded from shared memory serves m_atoms products. Bytes: q, k, v and o once, k and v once more
// for each further row tile of their head, over the bandwidth.
#pragma once

#include "attention/gpu_common.cuh"
#include "attention/gpu_hidden.cuh"

namespace warploom::attention::gpu {

template <class Cfg>
struct softmax_state;

// What one instance of the loop is made of. `Tiles` gives a forward_tiles.
template <class Machine, class Element, int HeadDim, forward_tiles Tiles>
struct forward_config {
  using M = Machine;
  using T = Element;
  static constexpr int D = HeadDim;
  static constexpr forward_tiles tiles = Tiles;
  static constexpr int rows = Tiles.rows(), keys = Tiles.keys, threads = Tiles.warps() * M::lanes;
  static constexpr int A = Tiles.m_atoms;               // atoms of a warp's rows
  static constexpr int share = keys / Tiles.key_warps;  // keys of a tile that a warp takes
  static constexpr int N = share / 16, C = D / 16;      // atoms of its keys, of the head dim
  static_assert(share % 16 == 0 && D % 16 == 0);

  static constexpr int q_elements = tile<T, D>::elements(rows);
  static constexpr int kv_elements = tile<T, D>::elements(keys);
  // Q has its own place, or leaves it to K and V once it is in registers; at the end, warps that
  // shared the keys exchange their sums there.
  static constexpr int elements =
      Tiles.q_in_registers ? (q_elements > 2 * kv_elements ? q_elements : 2 * kv_elements)
                           : q_elements + 2 * kv_elements;
  // Per warp and row: the sums, the largest score, the sum of exponentials.
  static constexpr int merge_floats = Tiles.key_warps > 1 ? Tiles.key_warps * rows * (D + 2) : 0;
  static constexpr int merge_elements = merge_floats * int(sizeof(float) / sizeof(T));
  static constexpr int region = elements > merge_elements ? elements : merge_elements;
  static constexpr uint32_t smem_bytes = simt::arena_bytes<T>(region);
  using state = softmax_state<forward_config>;

  // Which column of an atom's 16 an accumulator's column stands for.
  SIMT_HOST_DEVICE static constexpr int column(int col) { return col; }
};

// The block's query rows. Where rows are packed, they go through the heads of a group: row r is
// position (first + r) % s of head (first + r) / s. Else a group is one head.
template <bool Packed>
struct query_rows {
  const wl_mask& mask;
  int32_t first, count, s, sk;  // count: rows that exist from `first` on

  SIMT_DEVICE visible32 visible() const { return visible32::of(mask, s, sk); }
  SIMT_DEVICE int position(int r) const { return Packed ? (first + r) % s : first + r; }
  SIMT_DEVICE int head(int r) const { return Packed ? (first + r) / s : 0; }
  SIMT_DEVICE bool inside(int r) const { return r < count; }
  SIMT_DEVICE span keys(int r, int origin) const {
    return relative(visible().keys(position(r)), origin);
  }
  SIMT_DEVICE bool sees(int r) const {
    const span seen = keys(r, 0);
    return seen.begin < seen.end;
  }
  // Positions [begin, end) of the rows [0, rows): all of them where the tile spans heads.
  SIMT_DEVICE span positions(int rows) const {
    const int last = simt::min(rows, count) - 1;
    if (head(0) != head(last)) return {0, s};
    return {position(0), position(last) + 1};
  }
  // Keys that at least one of the rows sees, and keys that all of them see.
  SIMT_DEVICE span any_keys(int rows) const {
    const span at = positions(rows);
    return whole(visible().any_keys(at.begin, at.end));
  }
  SIMT_DEVICE span all_keys(int rows) const {
    const span at = positions(rows);
    return whole(visible().all_keys(at.begin, at.end));
  }
};

// The exponent that weights are relative to. None where it is infinite: weights of +inf are then
// infinite themselves, and make the sum +inf and the values NaN.
SIMT_DEVICE float base_of(float largest, float factor) {
  const float base = largest * factor;
  return base == kInfinity || base == -kInfinity ? 0.0f : base;
}

// Row sums of a warp's atoms: the largest score so far, the sum of the exponentials (of this lane's
// columns), the weighted values.
template <class Cfg>
struct softmax_state {
  using M = typename Cfg::M;
  shared<typename Cfg::T> region;  // the block's shared memory
  frag_c<M> o[Cfg::A][Cfg::C];
  float largest[Cfg::A][M::row_slots], sum[Cfg::A][M::row_slots];

  SIMT_DEVICE void clear() {
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int c = 0; c < Cfg::C; ++c) o[m][c] = frag_c<M>::zero();
      SIMT_UNROLL
      for (int i = 0; i < M::row_slots; ++i) largest[m][i] = -kInfinity, sum[m][i] = 0;
    }
  }

  // Turns scores into weights and takes them into the sums.
  template <int N>
  SIMT_DEVICE void take(frag_c<M> (&s)[Cfg::A][N], float factor) {
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      float shrink[M::row_slots];
      weigh(m, s[m], factor, shrink);
      scale_row(m, shrink);
    }
  }

  // The same without the weighted values, which `shrink` is to be multiplied to.
  template <int N>
  SIMT_DEVICE void weigh(int m, frag_c<M> (&s)[N], float factor, float (&shrink)[M::row_slots]) {
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) {
      float most = -kInfinity;
      SIMT_UNROLL
      for (int n = 0; n < N; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          if (M::row_slot(e) == i) most = simt::max(most, s[n].e[e]);
        }
      }
      most = simt::max(largest[m][i], simt::row_max<M>(most));
      const float base = base_of(most, factor);
      shrink[i] = simt::exp2(simt::fma(largest[m][i], factor, -base));
      largest[m][i] = most;
      float added = 0;
      SIMT_UNROLL
      for (int n = 0; n < N; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          if (M::row_slot(e) != i) continue;
          s[n].e[e] = simt::exp2(simt::fma(s[n].e[e], factor, -base));
          added += s[n].e[e];
        }
      }
      sum[m][i] = simt::fma(sum[m][i], shrink[i], added);
    }
  }

  SIMT_DEVICE void scale_row(int m, const float (&by)[M::row_slots]) {
    SIMT_UNROLL
    for (int c = 0; c < Cfg::C; ++c) {
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) o[m][c].e[e] *= by[M::row_slot(e)];
    }
  }
};

// Runs the loop over the key tiles [first, last). `query(r)`, `key(j)` and `value(j)` give rows to
// load. What is left in the state are this warp's sums.
template <class Cfg, class Rows, class Query, class Key, class Value>
SIMT_DEVICE void forward(softmax_state<Cfg>& state, simt::arena& smem, const Rows& rows,
                         const formula& f, int d, int dv, bool vector, int first, int last,
                         Query query, Key key, Value value) {
  using M = typename Cfg::M;
  using T = typename Cfg::T;
  using tile_type = tile<T, Cfg::D>;
  using load_type = tile_load<T, Cfg::D, Cfg::keys, Cfg::threads>;
  const int warp = simt::warp<M>(), lane = simt::lane<M>();
  const int warp_row = warp % Cfg::tiles.row_warps * 16 * Cfg::A;
  const int warp_key = warp / Cfg::tiles.row_warps * Cfg::share;

  const shared<T> region = state.region = smem.take<T>(Cfg::region);
  const int keys_at = Cfg::tiles.q_in_registers ? 0 : Cfg::q_elements;
  const tile_type q_tile{region}, k_tile{region + keys_at},
      v_tile{region + (keys_at + Cfg::kv_elements)};

  state.clear();
  if (first >= last) return;
  const auto key_row = [&](int t) { return [=, &key](int r) { return key(t * Cfg::keys + r); }; };
  const auto value_row = [&](int t) {
    return [=, &value](int r) { return value(t * Cfg::keys + r); };
  };

  fill<Cfg::rows, Cfg::threads>(q_tile, query, d, vector);
  operand<M, T, Cfg::A, Cfg::C, Cfg::tiles.q_in_registers> q;
  simt::sync_block();
  q.load(q_tile, warp_row);
  if constexpr (Cfg::tiles.q_in_registers) simt::sync_block();

  const span seen_by_all = rows.all_keys(Cfg::rows);
  load_type k_load, v_load;
  k_load.start(k_tile, key_row(first), d, vector);

  for (int t = first; t < last; ++t) {
    k_load.land(vector);
    simt::sync_block();
    v_load.start(v_tile, value_row(t), dv, vector);

    // Recomputed for each tile: dozens of addresses, kept from one to the next, would not fit.
    const int at_key = simt::opaque(warp_key), at_row = simt::opaque(warp_row);
    frag_c<M> s[Cfg::A][Cfg::N];
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int n = 0; n < Cfg::N; ++n) s[m][n] = frag_c<M>::zero();
    }
    SIMT_UNROLL
    for (int c = 0; c < Cfg::C; ++c) {
      frag_a<M, T> a[Cfg::A];
      SIMT_UNROLL
      for (int m = 0; m < Cfg::A; ++m) a[m] = q.get(m, c, at_row);
      SIMT_UNROLL
      for (int n = 0; n < Cfg::N; ++n) {
        const auto b = simt::load_b_col<M>(k_tile, at_key + n * 16, c * 16);
        SIMT_UNROLL
        for (int m = 0; m < Cfg::A; ++m) simt::mma(s[m][n], a[m], b);
      }
    }

    v_load.land(vector);
    simt::sync_block();
    if (f.how != formula::raw) {
      SIMT_UNROLL
      for (int m = 0; m < Cfg::A; ++m) {
        SIMT_UNROLL
        for (int n = 0; n < Cfg::N; ++n) {
          SIMT_UNROLL
          for (int e = 0; e < M::elements; ++e) s[m][n].e[e] = score(f, s[m][n].e[e]);
        }
      }
    }

    // Only tiles that some row does not see whole look at the mask.
    const int origin = t * Cfg::keys;
    const bool cut = seen_by_all.begin > origin || seen_by_all.end - origin < Cfg::keys;
    // Whether a key that exists is hidden from a row: keys past the end were loaded as zeros.
    const bool hides = seen_by_all.begin > origin ||
                       seen_by_all.end - origin < simt::min(Cfg::keys, rows.sk - origin);
    bool finite = true;
    if (cut) {
      SIMT_UNROLL
      for (int m = 0; m < Cfg::A; ++m) {
        SIMT_UNROLL
        for (int i = 0; i < M::row_slots; ++i) {
          const span keys = rows.keys(warp_row + m * 16 + M::slot_row(lane, i), origin + warp_key);
          SIMT_UNROLL
          for (int n = 0; n < Cfg::N; ++n) {
            SIMT_UNROLL
            for (int e = 0; e < M::elements; ++e) {
              if (M::row_slot(e) != i) continue;
              if (!keys.has(n * 16 + M::c(lane, e).col)) s[m][n].e[e] = -kInfinity;
            }
          }
        }
      }
      if (hides) finite = take_out_nonfinite<Cfg::keys, Cfg::threads>(v_tile);
    }

    state.take(s, f.factor);

    // Only now: the weights take half of the registers that the scores took.
    frag_a<M, T> p[Cfg::A][Cfg::N];
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int n = 0; n < Cfg::N; ++n) p[m][n] = simt::to_a<T>(s[m][n]);
    }
    if (t + 1 < last) k_load.start(k_tile, key_row(t + 1), d, vector);

    SIMT_UNROLL
    for (int n = 0; n < Cfg::N; ++n) {
      SIMT_UNROLL
      for (int c = 0; c < Cfg::C; ++c) {
        const auto b = simt::load_b_row<M>(v_tile, at_key + n * 16, c * 16);
        SIMT_UNROLL
        for (int m = 0; m < Cfg::A; ++m) simt::mma(state.o[m][c], p[m][n], b);
      }
    }

    if (!finite) {
      fill_codes<Cfg::keys, Cfg::threads>(v_tile, value_row(t), dv, vector);
      add_effects<M, T, Cfg::N>(state.o, v_tile, warp_key, 0,
                                [&](int r) { return rows.keys(warp_row + r, origin + warp_key); });
    }
  }
}

// The lse of a row in natural logarithm; -infinity where nothing was seen or has a weight.
SIMT_DEVICE float lse_of(float largest, float sum, float factor) {
  return sum == 0 ? -kInfinity : simt::fma(largest, factor, simt::log2(sum)) * kLn2;
}
// What the weighted values are multiplied by: 0 where nothing was seen, NaN where all that was seen
// has the score -infinity.
SIMT_DEVICE float inverse_of(float sum, bool seen) {
  return !seen ? 0.0f : sum == 0 ? quiet_nan() : 1.0f / sum;
}

// Where warps shared the keys: brings their sums to one scale and adds them in the order of warps.
template <class Cfg, class Rows, class Out, class OutLse>
SIMT_DEVICE void finish_shared(softmax_state<Cfg>& state, const Rows& rows_of, float factor,
                               Out out, OutLse out_lse) {
  using M = typename Cfg::M;
  constexpr int D = Cfg::D, rows = Cfg::rows, warps = Cfg::tiles.key_warps;
  static_assert(Cfg::tiles.row_warps == 1);
  const int lane = simt::lane<M>(), warp = simt::warp<M>();
  const auto o = state.region.template as<float>();
  const auto largest = o + warps * rows * D, sums = largest + warps * rows;

  simt::sync_block();
  SIMT_UNROLL
  for (int m = 0; m < Cfg::A; ++m) {
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) {
      const int row = m * 16 + M::slot_row(lane, i);
      if (M::c(lane, 0).col == 0) simt::store(largest, warp * rows + row, state.largest[m][i]);
    }
  }
  simt::sync_block();
  SIMT_UNROLL
  for (int m = 0; m < Cfg::A; ++m) {
    float shrink[M::row_slots];
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) {
      const int row = m * 16 + M::slot_row(lane, i);
      float most = -kInfinity;
      for (int w = 0; w < warps; ++w) most = simt::max(most, simt::load(largest, w * rows + row));
      const float base = base_of(most, factor);
      shrink[i] = simt::exp2(simt::fma(state.largest[m][i], factor, -base));
      const float sum = simt::row_sum<M>(state.sum[m][i]) * shrink[i];
      if (M::c(lane, 0).col == 0) simt::store(sums, warp * rows + row, sum);
    }
    state.scale_row(m, shrink);
    SIMT_UNROLL
    for (int c = 0; c < Cfg::C; ++c) {
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) {
        const auto at = M::c(lane, e);
        simt::store(o, (warp * rows + m * 16 + at.row) * D + c * 16 + Cfg::column(at.col),
                    state.o[m][c].e[e]);
      }
    }
  }
  simt::sync_block();
  for (int id = simt::thread_index(); id < rows * (D / 4); id += Cfg::threads) {
    const int row = id / (D / 4), col = id % (D / 4) * 4;
    float most = -kInfinity, sum = 0;
    simt::vec<float, 4> total{};
    for (int w = 0; w < warps; ++w) {
      most = simt::max(most, simt::load(largest, w * rows + row));
      sum += simt::load(sums, w * rows + row);
      const auto part = simt::load_vec<4>(o, (w * rows + row) * D + col);
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) total[i] += part[i];
    }
    const float inverse = inverse_of(sum, rows_of.sees(row));
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) total[i] *= inverse;
    out(row, col, total);
    if (col == 0) out_lse(row, lse_of(most, sum, factor));
  }
}

// Ends the softmax and hands out the results: `out(row, first column, neighbouring values)` and
// `out_lse(row, value)`. A row that saw nothing gives 0 and -infinity.
template <class Cfg, class Rows, class Out, class OutLse>
SIMT_DEVICE void finish(softmax_state<Cfg>& state, const Rows& rows, float factor, Out out,
                        OutLse out_lse) {
  using M = typename Cfg::M;
  if constexpr (Cfg::tiles.key_warps > 1) {
    finish_shared(state, rows, factor, out, out_lse);
    return;
  }
  const int lane = simt::lane<M>();
  const int warp_row = simt::warp<M>() % Cfg::tiles.row_warps * 16 * Cfg::A;
  SIMT_UNROLL
  for (int m = 0; m < Cfg::A; ++m) {
    float inverse[M::row_slots];
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) {
      const float sum = simt::row_sum<M>(state.sum[m][i]);
      const int row = warp_row + m * 16 + M::slot_row(lane, i);
      inverse[i] = inverse_of(sum, rows.sees(row));
      if (M::c(lane, 0).col == 0) out_lse(row, lse_of(state.largest[m][i], sum, factor));
    }
    state.scale_row(m, inverse);
    SIMT_UNROLL
    for (int c = 0; c < Cfg::C; ++c) {
      SIMT_UNROLL
      for (int e = 0; e < M::elements; e += M::run) {
        const auto at = M::c(lane, e);
        simt::vec<float, M::run> v;
        SIMT_UNROLL
        for (int i = 0; i < M::run; ++i) v[i] = state.o[m][c].e[e + i];
        out(warp_row + m * 16 + at.row, c * 16 + at.col, v);
      }
    }
  }
}

// Rounds neighbouring values and stores them, as one where rows are aligned.
template <class T, int N>
SIMT_DEVICE void store_run(global<T> row, int col, const simt::vec<float, N>& v, int width,
                           bool vector) {
  simt::vec<T, N> rounded;
  SIMT_UNROLL
  for (int i = 0; i < N; ++i) rounded[i] = simt::to<T>(v[i]);
  if (vector) {
    if (col < width) simt::store_vec(row, col, rounded);
    return;
  }
  SIMT_UNROLL
  for (int i = 0; i < N; ++i) {
    if (col + i < width) simt::store(row, col + i, rounded[i]);
  }
}

}  // namespace warploom::attention::gpu
