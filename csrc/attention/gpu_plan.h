// How GPU work is cut: tile sizes as data per machine and head dim, the formula's constants, and
// the splits of decoding. Pure functions of shapes.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention/plan.h"
#include "base/math_constants.h"
#include "simt/machine.h"

namespace warploom::attention::gpu {

// Scores as base-2 exponents: factor * g(<q, k>), where g is the identity, a scaling, or a capped
// scaling. factor is always positive, so that the largest score has the largest exponent.
struct formula {
  enum kind : int32_t { raw, scaled, capped };
  int32_t how;
  float before;  // scaled: g(s) = before * s; capped: g(s) = tanh(before * s)
  float factor;
  float scale;  // d of the natural-logarithm score by <q, k>, without the cap's own slope
};

inline formula formula_of(float scale, float softcap) {
  if (softcap > 0) return {formula::capped, scale / softcap, softcap * kLog2E, scale};
  if (scale * kLog2E >= 0x1p-126f) return {formula::raw, 1.0f, scale * kLog2E, scale};
  return {formula::scaled, scale, kLog2E, scale};
}

// Forward: a block of row_warps * key_warps warps takes 16 * m_atoms * row_warps query rows and
// walks over key tiles, each warp over its share of a tile's keys.
struct forward_tiles {
  int m_atoms, row_warps, key_warps, keys;
  bool q_in_registers;
  int min_blocks;

  WL_HOST_DEVICE constexpr int rows() const { return 16 * m_atoms * row_warps; }
  WL_HOST_DEVICE constexpr int warps() const { return row_warps * key_warps; }
};

template <class M, int D>
WL_HOST_DEVICE constexpr forward_tiles prefill_tiles() {
  if (M::lanes == 32) {
    if (D <= 64) return {2, 4, 1, 64, true, 2};
    if (D <= 128) return {2, 4, 1, 48, false, 2};
    return {1, 8, 1, 64, false, 1};
  }
  if (D <= 128) return {2, 4, 1, 64, true, 1};
  return {1, 4, 1, 32, true, 1};
}

// Decoding is bound by the reading of keys and values: the few query rows of a group make one atom
// and the warps share out the keys.
template <class M, int D>
WL_HOST_DEVICE constexpr forward_tiles decode_tiles() {
  if (M::lanes == 32) return {1, 1, 4, 64, true, D <= 64 ? 3 : D <= 128 ? 2 : 1};
  if (D <= 128) return {1, 1, 4, 64, true, 1};
  return {1, 1, 2, 32, true, 1};
}

// Backward: a block of `warps` warps keeps 16 * m_atoms * warps rows of its own side (keys, or
// queries) and walks over tiles of `across` rows of the other side. `slice` columns of the head dim
// are accumulated by one block.
struct backward_tiles {
  int m_atoms, warps, across, slice;
  bool own_in_registers;
  int min_blocks;

  WL_HOST_DEVICE constexpr int rows() const { return 16 * m_atoms * warps; }
};

// Gradients of keys and values: two accumulators of the head dim.
template <class M, int D>
WL_HOST_DEVICE constexpr backward_tiles backward_key_tiles() {
  if (M::lanes == 32) {
    if (D <= 64) return {1, 8, 64, D, false, 1};
    if (D <= 128) return {1, 8, 32, D, false, 1};
    return {1, 4, 32, 128, false, 1};
  }
  if (D <= 128) return {1, 4, 32, D, true, 1};
  return {1, 4, 16, 128, true, 1};
}

// Gradients of queries: one accumulator.
template <class M, int D>
WL_HOST_DEVICE constexpr backward_tiles backward_query_tiles() {
  if (M::lanes == 32) {
    if (D <= 64) return {2, 4, 32, D, false, 1};
    if (D <= 128) return {1, 8, 64, D, false, 1};
    return {1, 4, 32, D, false, 1};
  }
  if (D <= 128) return {1, 4, 32, D, true, 1};
  return {1, 4, 16, D, true, 1};
}

// Into how many parts each sequence's keys are cut while decoding: enough blocks to fill a device
// of any size we know of, and no part shorter than a few tiles. A function of shapes alone, so that
// results do not depend on the device or on the lengths' values.
inline int64_t decode_splits(int64_t b, int64_t hk, int64_t row_tiles, int64_t capacity,
                             int64_t tile) {
  constexpr int64_t kBlocks = 512, kTilesOfAPart = 4, kMost = 128;
  const int64_t blocks = std::max<int64_t>(1, b * hk * row_tiles);
  const int64_t tiles = (capacity + tile - 1) / tile;
  const int64_t wanted = (kBlocks + blocks - 1) / blocks;
  const int64_t possible = (tiles + kTilesOfAPart - 1) / kTilesOfAPart;
  return std::max<int64_t>(1, std::min({wanted, possible, kMost}));
}

}  // namespace warploom::attention::gpu
