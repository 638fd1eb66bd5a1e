// Blocks of pages as the cache's kernels see them (docs/kv_cache_format.md).
#pragma once

#include "kv_cache/gpu_codes.cuh"

namespace warploom::kv_cache::gpu {

using simt::bf16;

// One block: rows of codes are keys along their channels, or channels along their positions.
struct block {
  int64_t at;  // its first word in the pool
  int32_t width, dim;
  bool values, across;  // groups of keys along positions
  global<bf16> grids;

  SIMT_DEVICE bool there() const { return width > 0; }
};

struct pages_view {
  global<uint32_t> pool;
  int64_t pool_words, quantum_words, pages;
  global<int32_t> tags;
  global<bf16> key_grids, value_grids;
  int32_t page, hk, d, dv, key_group, value_group;
  bool keys_per_channel;

  // Block (page * hk + head) * 2 + side; not there where its tag says so, or it is past the pool.
  SIMT_DEVICE block at(int64_t index) const {
    const int32_t tag = simt::load(tags, index);
    block b{};
    b.values = index % 2;
    b.dim = b.values ? dv : d;
    b.across = !b.values && keys_per_channel;
    b.at = (tag >> 2) * quantum_words;
    b.width = 2 << (tag & 3);
    if (tag < 0 || b.at + int64_t{page} * b.dim * b.width / 32 > pool_words) b.width = 0;
    const int64_t group = b.values ? value_group : key_group;
    b.grids = (b.values ? value_grids : key_grids) + index / 2 * (2 * page * (b.dim / group));
    return b;
  }
  SIMT_DEVICE int group(const block& b) const { return b.values ? value_group : key_group; }
  SIMT_DEVICE int lanes(const block& b) const { return b.across ? b.dim : page; }
  // Where the min of a position and channel's grid is; its range is lanes() further on.
  SIMT_DEVICE int grid(const block& b, int position, int channel) const {
    return b.across ? position / key_group * 2 * b.dim + channel
                    : channel / group(b) * 2 * page + position;
  }
  // The word of codes 4 w .. 4 w + 3 of a row, in tiles.
  SIMT_DEVICE int word(const block& b, int row, int w, int width) const {
    const int length = b.values ? page : b.dim;
    return row / 16 * (length * width / 2) + w * width / 8 * 16 + row % 16;
  }
  // What the block holds there, of any width.
  SIMT_DEVICE float value(const block& b, int position, int channel) const {
    if (b.width == 16) {
      const int64_t i = int64_t{position} * b.dim + channel;
      return simt::unpack<bf16>(simt::load(pool, b.at + i / 2), int(i % 2));
    }
    const int row = b.values ? channel : position, along = b.values ? position : channel;
    const int shift = along % 4 * 8 + along / 4 % (8 / b.width) * b.width;
    const uint32_t four = simt::load(pool, b.at + word(b, row, along / 4, b.width));
    const int code = int(four >> shift) & levels_of(b.width), at = grid(b, position, channel);
    const float lowest = simt::to_float(simt::load(b.grids, at));
    const float range = simt::to_float(simt::load(b.grids, at + lanes(b)));
    return simt::product(float(code), range / float(levels_of(b.width))) + lowest;
  }
  SIMT_DEVICE void set_width(int64_t index, int width) const {
    const int32_t tag = simt::load(tags, index);
    simt::store(tags, index, (tag & ~3) | (width == 8 ? 2 : width == 4 ? 1 : 0));
  }
};

// Below 2^127 as bfloat16, so that every group has a grid.
SIMT_DEVICE bool storable(float x) { return (simt::to<bf16>(x).bits & 0x7fff) < 0x7f00; }

inline pages_view view_of(Launcher& launcher, const wl_kv_pages& p) {
  pages_view out{};
  out.page = launcher.narrow("page", p.page);
  out.hk = launcher.narrow("hk", p.hk);
  out.d = launcher.narrow("d", p.d);
  out.dv = launcher.narrow("dv", p.dv);
  launcher.narrow("page * d", p.page * std::max(p.d, p.dv));
  if (!launcher.ok()) return out;
  out.pages = p.pages;
  out.key_group = int32_t(p.key_group);
  out.value_group = int32_t(p.value_group);
  out.keys_per_channel = p.keys_per_channel != 0;
  out.pool_words = p.pool_bytes / 4;
  out.quantum_words = p.quantum_bytes / 4;
  const auto updated = [](auto* data, int64_t count) {
    return simt::make_global(data, count, simt::memory::written);
  };
  const int64_t heads = p.pages * p.hk;
  out.pool = updated(reinterpret_cast<uint32_t*>(p.pool), out.pool_words);
  out.tags = updated(p.tags, heads * 2);
  out.key_grids =
      updated(reinterpret_cast<bf16*>(p.key_grids), heads * 2 * p.d * p.page / p.key_group);
  out.value_grids =
      updated(reinterpret_cast<bf16*>(p.value_grids), heads * 2 * p.dv * p.page / p.value_group);
  return out;
}

}  // namespace warploom::kv_cache::gpu
