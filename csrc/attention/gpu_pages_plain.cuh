// Quantized pages in float32 by plain arithmetic: codes become numbers on their way into the tiles
// of the plain loop. Right before fast.
#pragma once

#include "attention/gpu_pages_view.cuh"
#include "attention/gpu_plain.cuh"

namespace warploom::attention::gpu {

// One position's keys or values, and whether they exist.
struct page_row {
  const page_pool& pool;
  page_map::place at;
  int head, position;  // in the page
  bool values, inside;
};

// `width` is the head dim.
template <class T, int N>
SIMT_DEVICE simt::vec<T, N> load_chunk(const page_row& row, int col, int width, bool) {
  static_assert(N == 4, "a word of codes");
  simt::vec<T, N> v{};
  if (!row.inside || col >= width) return v;
  const page_pool& p = row.pool;
  const page_block& block = row.values ? row.at.v : row.at.k;
  if (block.width == 16) {
    const auto words =
        simt::load_vec<2>(p.pool, block.at + (int64_t{row.position} * width + col) / 2);
    SIMT_UNROLL
    for (int i = 0; i < N; ++i) v[i] = simt::unpack<simt::bf16>(words[i / 2], i % 2);
    return v;
  }
  const int levels = (1 << block.width) - 1;
  const bool across = !row.values && p.keys_per_channel;
  const auto grid = row.values ? p.value_grid(row.at.page, row.head, col / p.value_group)
                    : across   ? p.key_grid(row.at.page, row.head, row.position / p.key_group)
                               : p.key_grid(row.at.page, row.head, col / p.key_group);
  SIMT_UNROLL
  for (int i = 0; i < N; ++i) {
    // Rows of a block of values are channels.
    const int w = (row.values ? row.position : col) / 4, byte = row.values ? row.position % 4 : i;
    const int64_t word = row.values ? code_word(col + i, w, p.page, block.width)
                                    : code_word(row.position, w, p.d, block.width);
    const int shift = byte * 8 + code_shift(w, block.width);
    const int code = int(simt::load(p.pool, block.at + word) >> shift) & levels;
    const int place = across ? col + i : row.position, length = across ? p.d : p.page;
    const float lowest = simt::to_float(simt::load(grid, place));
    const float range = simt::to_float(simt::load(grid, place + length));
    v[i] = simt::fma(float(code), range / float(levels), lowest);
  }
  return v;
}

template <class Cfg, class Rows, class Query>
SIMT_DEVICE void forward_pages(plain_state<Cfg>& state, simt::arena& smem, const Rows& rows,
                               const formula& f, const page_map& map, int head, int first, int last,
                               Query query, bool& good) {
  static_assert(Cfg::keys == kStep);
  const auto row_of = [&](int j, bool values) {
    const bool inside = j < map.length;
    const auto at = inside ? map.at(j / kStep, head, good) : page_map::place{};
    return page_row{map.pool, at, head, at.offset + j % kStep, values, inside && at.k.width > 0};
  };
  forward(
      state, smem, rows, f, map.pool.d, map.pool.dv, false, first, last, query,
      [&](int j) { return row_of(j, false); }, [&](int j) { return row_of(j, true); });
}

}  // namespace warploom::attention::gpu
