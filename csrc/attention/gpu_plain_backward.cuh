// The backward loop in float32 by plain arithmetic, for the same kernels as the matrix loop. Eight
// threads share an own row: each computes one weight of a tile and owns every eighth column of the
// gradients.
#pragma once

#include "attention/gpu_common.cuh"

namespace warploom::attention::gpu {

template <class Cfg>
struct plain_backward_state;

template <class Machine, int HeadDim, bool OfKeys>
struct plain_backward_config {
  using M = Machine;
  using T = float;
  static constexpr int D = HeadDim;
  static constexpr bool of_keys = OfKeys;
  static constexpr int rows = 16, across = 8, threads = 128, slices = 1;
  static constexpr int lanes_of_row = threads / rows;
  static constexpr int columns = D / lanes_of_row;  // of a thread
  static_assert(lanes_of_row == across);
  static constexpr backward_tiles tiles{1, threads / M::lanes, across, D, false, 1};
  static constexpr uint32_t smem_bytes = 2 * tile<float, D>::bytes(rows) +
                                         2 * tile<float, D>::bytes(across) +
                                         2 * simt::arena_bytes<float>(rows * across);
  using state = plain_backward_state<plain_backward_config>;
};

template <class Cfg>
struct plain_backward_state {
  float first[Cfg::columns], second[Cfg::columns];
};

template <class Cfg, class Side>
SIMT_DEVICE void backward(plain_backward_state<Cfg>& state, simt::arena& smem, const Side& side) {
  using tile_type = tile<float, Cfg::D>;
  const auto own = tile_type::take(smem, Cfg::rows), own_more = tile_type::take(smem, Cfg::rows),
             other = tile_type::take(smem, Cfg::across), more = tile_type::take(smem, Cfg::across);
  const auto p_of = smem.take<float>(Cfg::rows * Cfg::across);
  const auto ds_of = smem.take<float>(Cfg::rows * Cfg::across);
  const int row = simt::thread_index() / Cfg::lanes_of_row;
  const int lane = simt::thread_index() % Cfg::lanes_of_row;

  SIMT_UNROLL
  for (int c = 0; c < Cfg::columns; ++c) state.first[c] = state.second[c] = 0;
  fill<Cfg::rows, Cfg::threads>(
      own, [&](int r) { return side.own_first(r); }, side.first_width, side.vector);
  fill<Cfg::rows, Cfg::threads>(
      own_more, [&](int r) { return side.own_second(r); }, side.second_width, side.vector);

  const int first = side.any.begin / Cfg::across, last = simt::ceil_div(side.any.end, Cfg::across);
  for (int turn = 0; turn < side.turns; ++turn) {
    for (int t = first; t < last; ++t) {
      const int origin = t * Cfg::across;
      simt::sync_block();
      fill<Cfg::across, Cfg::threads>(
          other, [&](int i) { return side.other_first(turn, origin + i); }, side.first_width,
          side.vector);
      fill<Cfg::across, Cfg::threads>(
          more, [&](int i) { return side.other_second(turn, origin + i); }, side.second_width,
          side.vector);
      simt::sync_block();

      const span seen = side.seen(row, origin);
      const float x = dot(own, row, other, lane, side.first_width);
      const float y = dot(own_more, row, more, lane, side.second_width);
      float lse, delta;
      // Of the query row: the own one, or the other's.
      side.statistics(turn, Cfg::of_keys ? origin + lane : row, lse, delta);
      const float s = score(side.f, x);
      const float p = simt::exp2(simt::fma(s, side.f.factor, -lse));
      simt::store(p_of, row * Cfg::across + lane, p);
      simt::store(ds_of, row * Cfg::across + lane, p * (y - delta) * slope(side.f, s));
      simt::sync_block();

      for (int j = 0; j < Cfg::across; ++j) {
        if (!seen.has(j)) continue;  // hidden: absent, whatever its row holds
        const float weight = simt::load(p_of, row * Cfg::across + j);
        const float ds = simt::load(ds_of, row * Cfg::across + j);
        SIMT_UNROLL
        for (int c = 0; c < Cfg::columns; ++c) {
          const int col = lane + c * Cfg::lanes_of_row;
          if (col < side.first_width) {
            state.first[c] = simt::fma(ds, simt::load(other.at(j, col)), state.first[c]);
          }
          if (Cfg::of_keys && col < side.second_width) {
            state.second[c] = simt::fma(weight, simt::load(more.at(j, col)), state.second[c]);
          }
        }
      }
    }
  }
}

template <class Cfg, class Out>
SIMT_DEVICE void hand_out(const plain_backward_state<Cfg>&, const float (&x)[Cfg::columns], int,
                          Out out) {
  const int row = simt::thread_index() / Cfg::lanes_of_row;
  const int lane = simt::thread_index() % Cfg::lanes_of_row;
  SIMT_UNROLL
  for (int c = 0; c < Cfg::columns; ++c) {
    out(row, lane + c * Cfg::lanes_of_row, simt::vec<float, 1>{{x[c]}});
  }
}

}  // namespace warploom::attention::gpu
