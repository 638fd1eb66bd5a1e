// Where blocks of pages lie: plain host functions over wl_kv_pages.
#pragma once

#include <cstdint>

#include "warploom/kv_pages.h"

namespace warploom::kv_cache {

inline int32_t tag_of(const wl_kv_pages& p, int64_t page, int64_t head, int side) {
  return p.tags[(page * p.hk + head) * 2 + side];
}

inline int width_of(int32_t tag) { return 2 << (tag & 3); }

inline uint8_t* block_at(const wl_kv_pages& p, int64_t page, int64_t head, int side) {
  return p.pool + int64_t{tag_of(p, page, head, side) >> 2} * p.quantum_bytes;
}

}  // namespace warploom::kv_cache
