// The forward loop in float32 by plain arithmetic: the words of the matrix loop, so that prefill
// and decode run on either. Eight threads share a row; each recomputes the row's softmax and owns
// every eighth column of the result. Right before fast: the rate of multiply-adds from shared
// memory bounds it.
#pragma once

#include "attention/gpu_forward.cuh"

namespace warploom::attention::gpu {

template <class Cfg>
struct plain_state;

template <class Machine, int HeadDim>
struct plain_config {
  using M = Machine;
  using T = float;
  static constexpr int D = HeadDim;
  static constexpr int rows = 16, keys = 16, threads = 128;
  static constexpr int lanes_of_row = threads / rows;
  static constexpr int columns = D / lanes_of_row;  // of a thread
  static constexpr forward_tiles tiles{1, 1, 1, keys, false, 1};
  static constexpr uint32_t smem_bytes = tile<float, D>::bytes(rows) +
                                         2 * tile<float, D>::bytes(keys) +
                                         simt::arena_bytes<float>(rows * keys);
  using state = plain_state<plain_config>;
};

template <class Cfg>
struct plain_state {
  float o[Cfg::columns];
  float largest, sum;
};

template <class Cfg, class Rows, class Query, class Key, class Value>
SIMT_DEVICE void forward(plain_state<Cfg>& state, simt::arena& smem, const Rows& rows,
                         const formula& f, int d, int dv, bool vector, int first, int last,
                         Query query, Key key, Value value) {
  using tile_type = tile<float, Cfg::D>;
  const auto q = tile_type::take(smem, Cfg::rows), k = tile_type::take(smem, Cfg::keys),
             v = tile_type::take(smem, Cfg::keys);
  const auto scores = smem.take<float>(Cfg::rows * Cfg::keys);
  const int row = simt::thread_index() / Cfg::lanes_of_row;
  const int lane = simt::thread_index() % Cfg::lanes_of_row;

  SIMT_UNROLL
  for (int c = 0; c < Cfg::columns; ++c) state.o[c] = 0;
  state.largest = -kInfinity, state.sum = 0;

  fill<Cfg::rows, Cfg::threads>(q, query, d, vector);
  for (int t = first; t < last; ++t) {
    const int origin = t * Cfg::keys;
    simt::sync_block();
    fill<Cfg::keys, Cfg::threads>(k, [&](int r) { return key(origin + r); }, d, vector);
    fill<Cfg::keys, Cfg::threads>(v, [&](int r) { return value(origin + r); }, dv, vector);
    simt::sync_block();
    const span seen = rows.keys(row, origin);
    for (int j = lane; j < Cfg::keys; j += Cfg::lanes_of_row) {
      const float s = dot(q, row, k, j, d);
      simt::store(scores, row * Cfg::keys + j, seen.has(j) ? score(f, s) : -kInfinity);
    }
    simt::sync_block();

    float most = state.largest;
    for (int j = 0; j < Cfg::keys; ++j) {
      most = simt::max(most, simt::load(scores, row * Cfg::keys + j));
    }
    const float base = base_of(most, f.factor);
    const float shrink = simt::exp2(simt::fma(state.largest, f.factor, -base));
    state.largest = most;
    state.sum *= shrink;
    SIMT_UNROLL
    for (int c = 0; c < Cfg::columns; ++c) state.o[c] *= shrink;
    for (int j = 0; j < Cfg::keys; ++j) {
      if (!seen.has(j)) continue;  // hidden: absent, whatever its value holds
      const float p =
          simt::exp2(simt::fma(simt::load(scores, row * Cfg::keys + j), f.factor, -base));
      state.sum += p;
      SIMT_UNROLL
      for (int c = 0; c < Cfg::columns; ++c) {
        const int col = lane + c * Cfg::lanes_of_row;
        if (col < dv) state.o[c] = simt::fma(p, simt::load(v.at(j, col)), state.o[c]);
      }
    }
  }
}

template <class Cfg, class Rows, class Out, class OutLse>
SIMT_DEVICE void finish(plain_state<Cfg>& state, const Rows& rows, float factor, Out out,
                        OutLse out_lse) {
  const int row = simt::thread_index() / Cfg::lanes_of_row;
  const int lane = simt::thread_index() % Cfg::lanes_of_row;
  const float inverse = inverse_of(state.sum, rows.sees(row));
  SIMT_UNROLL
  for (int c = 0; c < Cfg::columns; ++c) {
    out(row, lane + c * Cfg::lanes_of_row, simt::vec<float, 1>{{state.o[c] * inverse}});
  }
  if (lane == 0) out_lse(row, lse_of(state.largest, state.sum, factor));
}

}  // namespace warploom::attention::gpu
