// A block's values to grids and codes, by one block of threads. `value(position, channel)` gives
// them.
#pragma once

#include "kv_cache/gpu_blocks.cuh"

namespace warploom::kv_cache::gpu {

// Writes the grids, one thread to a group. False, for all threads alike, where one has none.
template <int threads, class Value>
SIMT_DEVICE bool make_grids(const pages_view& pages, const block& b, int bits, Value value) {
  const int group = pages.group(b), count = pages.page * b.dim / group, lanes = pages.lanes(b);
  bool good = true;
  for (int id = simt::thread_index(); id < count; id += threads) {
    // Neighbouring threads take neighbouring channels, or positions.
    const int lane = id % lanes, first = id / lanes * group;
    float least = kInfinity, most = -kInfinity;
    for (int i = 0; i < group; ++i) {
      const float x = b.across ? value(first + i, lane) : value(lane, first + i);
      least = simt::min(least, x);
      // A NaN, which both would drop, counts as an infinity: the group has no grid.
      most = simt::max(most, x == x ? x : kInfinity);
    }
    const Grid grid = grid_of(least, most, levels_of(bits));
    const int at = id / lanes * 2 * lanes + lane;
    simt::store(b.grids, at, bf16{grid.min});
    simt::store(b.grids, at + lanes, bf16{grid.range});
    good = good && grid.finite;
  }
  return simt::sync_block_all(good);
}

// Hands the codes on the block's grids to `put(which word of the block, word)`, a strip to a
// thread.
template <int threads, int bits, class Value, class Put>
SIMT_DEVICE void make_codes_of(const pages_view& pages, const block& b, Value value, Put put) {
  const int rows = b.values ? b.dim : pages.page, strips = (b.values ? pages.page : b.dim) / kStrip;
  for (int id = simt::thread_index(); id < rows * strips; id += threads) {
    const int row = id % rows, strip = id / rows;
    uint32_t codes[kStrip];
    SIMT_UNROLL
    for (int i = 0; i < kStrip; ++i) {
      const int along = strip * kStrip + i;
      const int position = b.values ? along : row, channel = b.values ? row : along;
      const int at = pages.grid(b, position, channel);
      const float lowest = simt::to_float(simt::load(b.grids, at));
      const float range = simt::to_float(simt::load(b.grids, at + pages.lanes(b)));
      const float inverse = range > 0 ? float(levels_of(bits)) / range : 0.0f;
      const float steps = simt::product(value(position, channel) - lowest, inverse);
      codes[i] = simt::number::bit_cast<uint32_t>(steps + kRounder) & uint32_t(levels_of(bits));
    }
    const auto packed = pack_strip<bits>(codes);
    SIMT_UNROLL
    for (int w = 0; w < bits / 2; ++w) {
      put(pages.word(b, row, strip * 4 + w * (8 / bits), bits), packed[w]);
    }
  }
}
template <int threads, class Value, class Put>
SIMT_DEVICE void make_codes(const pages_view& pages, const block& b, int bits, Value value,
                            Put put) {
  if (bits == 8) {
    make_codes_of<threads, 8>(pages, b, value, put);
  } else if (bits == 4) {
    make_codes_of<threads, 4>(pages, b, value, put);
  } else {
    make_codes_of<threads, 2>(pages, b, value, put);
  }
}

}  // namespace warploom::kv_cache::gpu
