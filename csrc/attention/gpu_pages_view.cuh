// The pages of a quantized cache as kernels find their way in them (docs/kv_cache_format.md).
#pragma once

#include "attention/gpu_launch.h"

namespace warploom::attention::gpu {

// Positions that are met together: one word of codes at 2 bits.
inline constexpr int kStep = 16;

// A block of keys or values; its first word in the pool. Width 0: it is not there.
struct page_block {
  int64_t at;
  int32_t width;
};

struct page_pool {
  global<const uint32_t> pool;
  int64_t pool_words, quantum_words;
  global<const int32_t> tags;
  global<const simt::bf16> key_grids, value_grids;
  int32_t pages, page, hk, d, dv, key_group, value_group;
  bool keys_per_channel;
  global<int32_t> error;

  SIMT_DEVICE page_block block(int page_id, int head, bool values) const {
    const int32_t tag = simt::load(tags, (int64_t{page_id} * hk + head) * 2 + values);
    const int32_t width = 2 << (tag & 3);
    const int64_t at = (tag >> 2) * quantum_words;
    const int64_t words = int64_t{page} * (values ? dv : d) * width / 32;
    return tag < 0 || at + words > pool_words ? page_block{0, 0} : page_block{at, width};
  }
  // A page and head's row `group` of grids: min, and `length` further on range.
  SIMT_DEVICE global<const simt::bf16> key_grid(int page_id, int head, int group) const {
    const int64_t rows = keys_per_channel ? page / key_group : d / key_group;
    const int64_t length = keys_per_channel ? d : page;
    return key_grids + ((int64_t{page_id} * hk + head) * rows + group) * 2 * length;
  }
  SIMT_DEVICE global<const simt::bf16> value_grid(int page_id, int head, int group) const {
    const int64_t rows = dv / value_group;
    return value_grids + ((int64_t{page_id} * hk + head) * rows + group) * 2 * page;
  }
};

// The word that holds codes 4 w .. 4 w + 3 of a row, of `length` codes, in tiles: one in each byte,
// from bit code_shift on.
SIMT_DEVICE int64_t code_word(int row, int w, int length, int width) {
  return int64_t{row / 16} * (length * width / 2) + w * width / 8 * 16 + row % 16;
}
SIMT_DEVICE int code_shift(int w, int width) { return w * width & 7; }

// Where a sequence's positions lie.
struct page_map {
  const page_pool& pool;
  global<const int32_t> table;  // this sequence's row
  int32_t n, length;

  // Where the steps of 16 positions are. Notes what is wrong; then there are no blocks.
  struct place {
    page_block k, v;
    int32_t page, offset;  // position in the page
  };
  SIMT_DEVICE place at(int step, int head, bool& good) const {
    const int steps = pool.page / kStep;
    const int32_t page = simt::load(table, step / steps);
    if (page < 0 || page >= pool.pages) {
      simt::set_error(pool.error, error_word(device_error::page_table, n));
      good = false;
      return {};
    }
    const place found{pool.block(page, head, false), pool.block(page, head, true), page,
                      step % steps * kStep};
    if (found.k.width && found.v.width) return found;
    simt::set_error(pool.error, error_word(device_error::tags, page));
    good = false;
    return {};
  }
};

inline page_pool pool_of(Launcher& launcher, const wl_kv_pages& p) {
  page_pool out{};
  out.pages = launcher.narrow("pages", p.pages);
  out.page = launcher.narrow("page", p.page);
  out.hk = launcher.narrow("hk", p.hk);
  out.d = launcher.narrow("d", p.d);
  out.dv = launcher.narrow("dv", p.dv);
  if (!launcher.ok()) return out;
  out.key_group = int32_t(p.key_group);
  out.value_group = int32_t(p.value_group);
  out.keys_per_channel = p.keys_per_channel != 0;
  out.pool_words = p.pool_bytes / 4;
  out.quantum_words = p.quantum_bytes / 4;
  out.pool = launcher.input(reinterpret_cast<const uint32_t*>(p.pool), out.pool_words);
  const int64_t heads = p.pages * p.hk;
  out.tags = launcher.input(static_cast<const int32_t*>(p.tags), heads * 2);
  out.key_grids = launcher.input(reinterpret_cast<const simt::bf16*>(p.key_grids),
                                 heads * 2 * p.d * p.page / p.key_group);
  out.value_grids = launcher.input(reinterpret_cast<const simt::bf16*>(p.value_grids),
                                   heads * 2 * p.dv * p.page / p.value_group);
  out.error = launcher.error();
  return out;
}

}  // namespace warploom::attention::gpu
