// The backward loop. A block owns a tile of rows of one side and walks over the other side; both
// gradient kernels are this loop with the sides exchanged:
//
//   of keys:    X = K Q^T, Y = V dO^T;  P = exp2(X - lse), dS = P (Y - delta) slope;
//               dV += P dO, dK += dS Q, over all query heads of the group
//   of queries: X = Q K^T, Y = dO V^T;  dS the same;  dQ += dS K
//
// P and dS go from accumulators to A operands in registers. Nothing is added atomically, so results
// do not depend on the order of blocks; the price is that X and Y are computed twice: 14 instead of
// 10 operations per pair and head dim element.
#pragma once

#include "attention/gpu_common.cuh"
#include "attention/gpu_hidden.cuh"

namespace warploom::attention::gpu {

template <class Cfg>
struct backward_state;

template <class Machine, class Element, int HeadDim, backward_tiles Tiles, bool OfKeys>
struct backward_config {
  using M = Machine;
  using T = Element;
  static constexpr int D = HeadDim;
  static constexpr bool of_keys = OfKeys;
  static constexpr backward_tiles tiles = Tiles;
  static constexpr int rows = Tiles.rows(), across = Tiles.across;
  static constexpr int threads = Tiles.warps * M::lanes;
  static constexpr int A = Tiles.m_atoms, N = across / 16, C = D / 16, S = Tiles.slice / 16;
  static constexpr int slices = D / Tiles.slice;

  static constexpr int own_elements = tile<T, D>::elements(rows);
  static constexpr int other_elements = tile<T, D>::elements(across);
  static constexpr int elements =
      Tiles.own_in_registers
          ? (own_elements > 4 * other_elements ? own_elements : 4 * other_elements)
          : 2 * own_elements + 4 * other_elements;
  static constexpr uint32_t smem_bytes =
      simt::arena_bytes<T>(elements) + (OfKeys ? simt::arena_bytes<float>(4 * across) : 0);
  using state = backward_state<backward_config>;
};

// What the loop leaves in registers: the gradient of the first operand and, of keys, of the second.
template <class Cfg>
struct backward_state {
  using M = typename Cfg::M;
  frag_c<M> first[Cfg::A][Cfg::S];
  frag_c<M> second[Cfg::A][Cfg::of_keys ? Cfg::S : 1];

  SIMT_DEVICE void clear() {
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int c = 0; c < Cfg::S; ++c) {
        first[m][c] = frag_c<M>::zero();
        if constexpr (Cfg::of_keys) second[m][c] = frag_c<M>::zero();
      }
    }
  }
};

// x[m][n] = own rows times the rows of `other`, transposed.
template <class Cfg, class Own>
SIMT_DEVICE void product(frag_c<typename Cfg::M> (&x)[Cfg::A][Cfg::N], const Own& own, int at_row,
                         tile<typename Cfg::T, Cfg::D> other, int at_other) {
  using M = typename Cfg::M;
  SIMT_UNROLL
  for (int m = 0; m < Cfg::A; ++m) {
    SIMT_UNROLL
    for (int n = 0; n < Cfg::N; ++n) x[m][n] = frag_c<M>::zero();
  }
  SIMT_UNROLL
  for (int c = 0; c < Cfg::C; ++c) {
    frag_a<M, typename Cfg::T> a[Cfg::A];
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) a[m] = own.get(m, c, at_row);
    SIMT_UNROLL
    for (int n = 0; n < Cfg::N; ++n) {
      const auto b = simt::load_b_col<M>(other, at_other + n * 16, c * 16);
      SIMT_UNROLL
      for (int m = 0; m < Cfg::A; ++m) simt::mma(x[m][n], a[m], b);
    }
  }
}

// sum += w * other, w being weights of the own rows by the other's.
template <class Cfg>
SIMT_DEVICE void accumulate(frag_c<typename Cfg::M> (&sum)[Cfg::A][Cfg::S],
                            const frag_a<typename Cfg::M, typename Cfg::T> (&w)[Cfg::A][Cfg::N],
                            tile<typename Cfg::T, Cfg::D> other, int at_other, int first_col) {
  using M = typename Cfg::M;
  SIMT_UNROLL
  for (int n = 0; n < Cfg::N; ++n) {
    SIMT_UNROLL
    for (int c = 0; c < Cfg::S; ++c) {
      const auto b = simt::load_b_row<M>(other, at_other + n * 16, first_col + c * 16);
      SIMT_UNROLL
      for (int m = 0; m < Cfg::A; ++m) simt::mma(sum[m][c], w[m][n], b);
    }
  }
}

// What the loop asks of a kernel (`side`):
//   own_first(r), own_second(r)          rows of the block's own operands, and their widths
//   other_first(turn, i), other_second   rows of the other side in a turn (a head of the group)
//   statistics(turn, i, lse, delta)      of a query row: lse in base 2
//   span seen(r, origin)                 rows of the other side that own row r has to do with
//   span any, all                        the other rows that any, that every own row has to do with
//   int others, turns, first_width, second_width, first_col; formula f; bool vector
template <class Cfg, class Side>
SIMT_DEVICE void backward(backward_state<Cfg>& state, simt::arena& smem, const Side& side) {
  using M = typename Cfg::M;
  using T = typename Cfg::T;
  using tile_type = tile<T, Cfg::D>;
  using load_type = tile_load<T, Cfg::D, Cfg::across, Cfg::threads>;
  constexpr bool registers = Cfg::tiles.own_in_registers;
  const int lane = simt::lane<M>();
  const int warp_row = simt::warp<M>() * 16 * Cfg::A;

  state.clear();
  const int first = side.any.begin / Cfg::across;
  const int tiles = simt::ceil_div(side.any.end, Cfg::across) - first;
  const int turns = tiles * side.turns;
  if (turns <= 0) return;

  const auto region = smem.take<T>(Cfg::elements);
  const auto stages = region + (registers ? 0 : 2 * Cfg::own_elements);
  const auto other_first = [&](int t) { return tile_type{stages + t % 2 * Cfg::other_elements}; };
  const auto other_second = [&](int t) {
    return tile_type{stages + (2 + t % 2) * Cfg::other_elements};
  };
  shared<float> statistics{};  // of two tiles: lse, delta
  if constexpr (Cfg::of_keys) statistics = smem.take<float>(4 * Cfg::across);

  operand<M, T, Cfg::A, Cfg::C, registers> own_first, own_second;
  const tile_type own{region}, own_more{region + (registers ? 0 : Cfg::own_elements)};
  fill<Cfg::rows, Cfg::threads>(
      own, [&](int r) { return side.own_first(r); }, side.first_width, side.vector);
  if constexpr (registers) {
    simt::sync_block();
    own_first.load(own, warp_row);
    simt::sync_block();
  }
  fill<Cfg::rows, Cfg::threads>(
      own_more, [&](int r) { return side.own_second(r); }, side.second_width, side.vector);
  simt::sync_block();
  if constexpr (!registers) own_first.load(own, warp_row);
  own_second.load(own_more, warp_row);
  if constexpr (registers) simt::sync_block();

  float row_lse[Cfg::A][M::row_slots], row_delta[Cfg::A][M::row_slots];
  if constexpr (!Cfg::of_keys) {
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int i = 0; i < M::row_slots; ++i) {
        side.statistics(0, warp_row + m * 16 + M::slot_row(lane, i), row_lse[m][i],
                        row_delta[m][i]);
      }
    }
  }

  load_type first_load, second_load;
  const auto start = [&](int t) {
    const int turn = t / tiles, origin = (first + t % tiles) * Cfg::across;
    first_load.start(
        other_first(t), [&](int i) { return side.other_first(turn, origin + i); }, side.first_width,
        side.vector);
    second_load.start(
        other_second(t), [&](int i) { return side.other_second(turn, origin + i); },
        side.second_width, side.vector);
    if constexpr (Cfg::of_keys) {
      for (int i = simt::thread_index(); i < Cfg::across; i += Cfg::threads) {
        float lse, delta;
        side.statistics(turn, origin + i, lse, delta);
        simt::store(statistics, t % 2 * 2 * Cfg::across + i, lse);
        simt::store(statistics, (t % 2 * 2 + 1) * Cfg::across + i, delta);
      }
    }
  };
  start(0);

  for (int t = 0; t < turns; ++t) {
    first_load.template land<1>(side.vector);
    second_load.land(side.vector);
    simt::sync_block();
    if (t + 1 < turns) start(t + 1);

    const tile_type others = other_first(t), more = other_second(t);
    const int origin = (first + t % tiles) * Cfg::across;
    const int at_row = simt::opaque(warp_row), at_other = simt::opaque(0);
    frag_c<M> x[Cfg::A][Cfg::N], y[Cfg::A][Cfg::N];
    product<Cfg>(x, own_first, at_row, others, at_other);
    product<Cfg>(y, own_second, at_row, more, at_other);

    const bool cut = side.all.begin > origin || side.all.end - origin < Cfg::across;
    const bool hides = side.all.begin > origin ||
                       side.all.end - origin < simt::min(Cfg::across, side.others - origin);
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int i = 0; i < M::row_slots; ++i) {
        const span seen = cut ? side.seen(warp_row + m * 16 + M::slot_row(lane, i), origin)
                              : span{0, Cfg::across};
        SIMT_UNROLL
        for (int n = 0; n < Cfg::N; ++n) {
          SIMT_UNROLL
          for (int e = 0; e < M::elements; ++e) {
            if (M::row_slot(e) != i) continue;
            const int col = n * 16 + M::c(lane, e).col;
            float lse, delta;
            if constexpr (Cfg::of_keys) {
              lse = simt::load(statistics, t % 2 * 2 * Cfg::across + col);
              delta = simt::load(statistics, (t % 2 * 2 + 1) * Cfg::across + col);
            } else {
              lse = row_lse[m][i], delta = row_delta[m][i];
            }
            const float s = score(side.f, x[m][n].e[e]);
            const float p = simt::exp2(simt::fma(s, side.f.factor, -lse));
            const float ds = p * (y[m][n].e[e] - delta) * slope(side.f, s);
            x[m][n].e[e] = seen.has(col) ? p : 0.0f;
            y[m][n].e[e] = seen.has(col) ? ds : 0.0f;
          }
        }
      }
    }

    bool finite = true;
    if (hides) {  // see gpu_hidden.cuh; where a visible element is not finite, dS is NaN already
      simt::sync_block();
      take_out_nonfinite<Cfg::across, Cfg::threads>(others);
      if constexpr (Cfg::of_keys) finite = take_out_nonfinite<Cfg::across, Cfg::threads>(more);
    }
    frag_a<M, T> w[Cfg::A][Cfg::N];
    if constexpr (Cfg::of_keys) {
      SIMT_UNROLL
      for (int m = 0; m < Cfg::A; ++m) {
        SIMT_UNROLL
        for (int n = 0; n < Cfg::N; ++n) w[m][n] = simt::to_a<T>(x[m][n]);
      }
      accumulate<Cfg>(state.second, w, more, at_other, side.first_col);
    }
    SIMT_UNROLL
    for (int m = 0; m < Cfg::A; ++m) {
      SIMT_UNROLL
      for (int n = 0; n < Cfg::N; ++n) w[m][n] = simt::to_a<T>(y[m][n]);
    }
    accumulate<Cfg>(state.first, w, others, at_other, side.first_col);
    if constexpr (Cfg::of_keys) {
      if (!finite) {
        const int turn = t / tiles;
        fill_codes<Cfg::across, Cfg::threads>(
            more, [&](int i) { return side.other_second(turn, origin + i); }, side.second_width,
            side.vector);
        add_effects<M, T, Cfg::N>(state.second, more, 0, side.first_col,
                                  [&](int r) { return side.seen(warp_row + r, origin); });
      }
    }
  }
}

// Hands a gradient out: `out(row, first column, neighbouring values)`.
template <class Cfg, class M, int A, int S, class Out>
SIMT_DEVICE void hand_out(const backward_state<Cfg>&, const frag_c<M> (&x)[A][S], int first_col,
                          Out out) {
  const int lane = simt::lane<M>(), warp_row = simt::warp<M>() * 16 * A;
  SIMT_UNROLL
  for (int m = 0; m < A; ++m) {
    SIMT_UNROLL
    for (int c = 0; c < S; ++c) {
      SIMT_UNROLL
      for (int e = 0; e < M::elements; e += M::run) {
        const auto at = M::c(lane, e);
        simt::vec<float, M::run> v;
        SIMT_UNROLL
        for (int i = 0; i < M::run; ++i) v[i] = x[m][c].e[e + i];
        out(warp_row + m * 16 + at.row, first_col + c * 16 + at.col, v);
      }
    }
  }
}

}  // namespace warploom::attention::gpu
