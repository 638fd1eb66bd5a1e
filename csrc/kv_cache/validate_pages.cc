// Of the ops on pages. Values that index memory are looked at where the call asks for it.
#include <algorithm>
#include <vector>

#include "base/saturating.h"
#include "kv_cache/checks.h"
#include "kv_cache/pages.h"
#include "kv_cache/validate.h"

namespace warploom::kv_cache {
namespace {

wl_status check_pages(const wl_kv_pages& p) {
  WL_RETURN_IF_ERROR(check_size("pages", p.pages));
  WL_RETURN_IF_ERROR(check_size("hk", p.hk));
  WL_RETURN_IF_ERROR(check_page_shape(p));
  WL_RETURN_IF_ERROR(check_size("pool_bytes", p.pool_bytes));
  if (p.quantum_bytes <= 0 || p.quantum_bytes % 64) {
    return fail(WL_INVALID, "quantum_bytes is %lld: must be a positive multiple of 64",
                ll(p.quantum_bytes));
  }
  if (saturating_product({p.pages, p.hk, p.page, std::max(p.d, p.dv)}) > kMost) {
    return fail(WL_INVALID, "pages hold more than 2^56 values");
  }
  const bool any = p.pages > 0 && p.hk > 0;
  WL_RETURN_IF_ERROR(check_pointer("pool", p.pool, any, 64));
  WL_RETURN_IF_ERROR(check_pointer("tags", p.tags, any, 4));
  WL_RETURN_IF_ERROR(check_pointer("key_grids", p.key_grids, any, 2));
  return check_pointer("value_grids", p.value_grids, any, 2);
}

const char* side_name(int side) { return side ? "values" : "keys"; }

// Of a block that is read or written.
wl_status check_block(const wl_kv_pages& p, int64_t page, int64_t head, int side) {
  const int32_t tag = tag_of(p, page, head, side);
  if (tag < 0) {
    return fail(WL_INVALID, "page %lld has no block of %s for head %lld: tags holds %d", ll(page),
                side_name(side), ll(head), tag);
  }
  const int64_t bytes = p.page * (side ? p.dv : p.d) * width_of(tag) / 8;
  if (int64_t{tag >> 2} * p.quantum_bytes + bytes <= p.pool_bytes) return WL_OK;
  return fail(WL_INVALID,
              "tags[%lld, %lld, %d] is %d: its block reaches past the pool's %lld bytes", ll(page),
              ll(head), side, tag, ll(p.pool_bytes));
}

wl_status check_sixteen(const wl_kv_pages& p, int64_t page, int64_t head, int side) {
  WL_RETURN_IF_ERROR(check_block(p, page, head, side));
  const int width = width_of(tag_of(p, page, head, side));
  if (width == 16) return WL_OK;
  return fail(WL_INVALID, "the %s of page %lld, head %lld have %d bits: must have 16 to be written",
              side_name(side), ll(page), ll(head), width);
}

bool looks(const wl_exec& exec) { return exec.check && exec.device == WL_CPU; }

// Slots, and the blocks that they are in.
template <class Check>
wl_status check_slots(const wl_kv_pages& p, const int64_t* slots, int64_t count, int64_t least,
                      const Check& check) {
  int64_t last = -1;
  for (int64_t n = 0; n < count; ++n) {
    if (slots[n] < least || slots[n] >= p.pages * p.page) {
      return fail(WL_INVALID, "slots[%lld] is %lld: must be from %lld to %lld", ll(n), ll(slots[n]),
                  ll(least), ll(p.pages * p.page) - 1);
    }
    const int64_t page = slots[n] / p.page;
    if (slots[n] < 0 || page == last) continue;
    last = page;
    for (int64_t head = 0; head < p.hk; ++head) {
      WL_RETURN_IF_ERROR(check(p, page, head, 0));
      WL_RETURN_IF_ERROR(check(p, page, head, 1));
    }
  }
  return WL_OK;
}

wl_status check_different(const char* name, const int32_t* index, int64_t count) {
  std::vector<int32_t> sorted(index, index + count);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return WL_OK;
  return fail(WL_INVALID, "%s holds %d twice: must differ", name, *twice);
}

wl_status check_rows(const char* name, const wl_strided& x, const int64_t* n, int64_t hk,
                     bool needed, int32_t dtype) {
  const int64_t sizes[] = {n[0], n[1], hk};
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t stride = x.stride[axis];
    if (stride < 0 || saturating_multiply(stride, sizes[axis]) > kMost) {
      return fail(WL_INVALID, "%s has stride %lld on axis %d: must not be negative or reach 2^56",
                  name, ll(stride), axis);
    }
  }
  return check_pointer(name, x.data, needed, size_of(dtype));
}

}  // namespace

wl_status validate(const wl_kv_append_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_dtype(p.dtype));
  WL_RETURN_IF_ERROR(check_size("n[0]", p.n[0]));
  WL_RETURN_IF_ERROR(check_size("n[1]", p.n[1]));
  WL_RETURN_IF_ERROR(check_pages(p.pages));
  if (saturating_product({p.n[0], p.n[1], p.pages.hk, std::max(p.pages.d, p.pages.dv)}) > kMost) {
    return fail(WL_INVALID, "k and v have %lld * %lld rows: must have at most 2^56 elements",
                ll(p.n[0]), ll(p.n[1]));
  }
  const bool any = p.n[0] * p.n[1] > 0 && p.pages.hk > 0;
  WL_RETURN_IF_ERROR(check_rows("k", p.k, p.n, p.pages.hk, any, p.dtype));
  WL_RETURN_IF_ERROR(check_rows("v", p.v, p.n, p.pages.hk, any, p.dtype));
  WL_RETURN_IF_ERROR(check_pointer("slots", p.slots, any, 8));
  if (!any || !looks(p.exec)) return WL_OK;
  return check_slots(p.pages, p.slots, p.n[0] * p.n[1], -1, check_sixteen);
}

wl_status validate(const wl_kv_blocks_params* params, bool sixteen) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_pages(p.pages));
  WL_RETURN_IF_ERROR(check_size("count", p.count));
  WL_RETURN_IF_ERROR(check_pointer("blocks", p.blocks, p.count > 0, 4));
  WL_RETURN_IF_ERROR(check_pointer("bits", p.bits, p.count > 0, 4));
  if (!looks(p.exec)) return WL_OK;
  const int64_t all = p.pages.pages * p.pages.hk * 2;
  for (int64_t n = 0; n < p.count; ++n) {
    if (p.blocks[n] < 0 || p.blocks[n] >= all) {
      return fail(WL_INVALID, "blocks[%lld] is %d: must be from 0 to %lld", ll(n), p.blocks[n],
                  ll(all) - 1);
    }
    const int64_t page = p.blocks[n] / 2 / p.pages.hk, head = p.blocks[n] / 2 % p.pages.hk;
    const int side = p.blocks[n] % 2;
    WL_RETURN_IF_ERROR(check_block(p.pages, page, head, side));
    const int width = width_of(tag_of(p.pages, page, head, side)), to = p.bits[n];
    if ((width == 16) != sixteen || width == 2) {
      return fail(WL_INVALID, "blocks[%lld] is %d, of %d bits: must have %s", ll(n), p.blocks[n],
                  width, sixteen ? "16" : "8 or 4");
    }
    if ((to != 8 && to != 4 && to != 2) || to >= width) {
      return fail(WL_INVALID, "bits[%lld] is %d: must be 8, 4 or 2, less than the block's %d",
                  ll(n), to, width);
    }
  }
  return check_different("blocks", p.blocks, p.count);
}

wl_status validate(const wl_kv_gather_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_dtype(p.dtype));
  WL_RETURN_IF_ERROR(check_size("count", p.count));
  WL_RETURN_IF_ERROR(check_pages(p.pages));
  const int64_t size = std::max(p.pages.d, p.pages.dv);
  if (saturating_product({p.count, p.pages.hk, size}) > kMost) {
    return fail(WL_INVALID, "count is %lld: must ask for at most 2^56 values", ll(p.count));
  }
  const bool any = p.count > 0 && p.pages.hk > 0;
  WL_RETURN_IF_ERROR(check_pointer("slots", p.slots, any, 8));
  WL_RETURN_IF_ERROR(check_pointer("k", p.k, any, size_of(p.dtype)));
  WL_RETURN_IF_ERROR(check_pointer("v", p.v, any, size_of(p.dtype)));
  if (!any || !looks(p.exec)) return WL_OK;
  return check_slots(p.pages, p.slots, p.count, 0, check_block);
}

wl_status validate(const wl_kv_rotate_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_pages(p.pages));
  WL_RETURN_IF_ERROR(check_size("count", p.count));
  if (p.half < 1 || p.half > p.pages.d / 2) {
    return fail(WL_INVALID, "half is %lld: must be from 1 to d / 2, %lld", ll(p.half),
                ll(p.pages.d / 2));
  }
  for (const int64_t stride : {p.page_stride, p.position_stride}) {
    if (stride >= 0 && saturating_product({stride, p.count, p.pages.page}) <= kMost) continue;
    return fail(WL_INVALID, "cos and sin have stride %lld: must not be negative or reach 2^56",
                ll(stride));
  }
  WL_RETURN_IF_ERROR(check_pointer("index", p.index, p.count > 0, 4));
  WL_RETURN_IF_ERROR(check_pointer("cos", p.cos, p.count > 0, 4));
  WL_RETURN_IF_ERROR(check_pointer("sin", p.sin, p.count > 0, 4));
  if (!looks(p.exec)) return WL_OK;
  for (int64_t n = 0; n < p.count; ++n) {
    if (p.index[n] < 0 || p.index[n] >= p.pages.pages) {
      return fail(WL_INVALID, "index[%lld] is %d: must be from 0 to %lld", ll(n), p.index[n],
                  ll(p.pages.pages) - 1);
    }
    for (int64_t head = 0; head < p.pages.hk; ++head) {
      WL_RETURN_IF_ERROR(check_block(p.pages, p.index[n], head, 0));
    }
  }
  return check_different("index", p.index, p.count);
}

}  // namespace warploom::kv_cache
