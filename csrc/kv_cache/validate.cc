#include "kv_cache/validate.h"

#include <algorithm>
#include <vector>

#include "base/saturating.h"
#include "kv_cache/checks.h"

namespace warploom::kv_cache {
namespace {

// Of quantize and dequantize; `rows` may have saturated.
template <class Params>
wl_status check_groups(const Params& p, int64_t rows) {
  WL_RETURN_IF_ERROR(check_dtype(p.dtype));
  WL_RETURN_IF_ERROR(check_bits("bits", p.bits));
  WL_RETURN_IF_ERROR(check_size("d", p.d));
  if (p.group <= 0 || p.group % WL_KV_GROUP_MULTIPLE || p.group > kMost) {
    return fail(WL_INVALID, "group is %lld: must be a positive multiple of %d", ll(p.group),
                WL_KV_GROUP_MULTIPLE);
  }
  if (p.d % p.group) {
    return fail(WL_INVALID, "d is %lld: must be a multiple of group, %lld", ll(p.d), ll(p.group));
  }
  const int64_t elements = saturating_multiply(rows, p.d);
  if (elements > kMost) {
    return fail(WL_INVALID, "x has %lld rows of %lld: must have at most 2^56 elements", ll(rows),
                ll(p.d));
  }
  const bool any = elements > 0;
  WL_RETURN_IF_ERROR(check_pointer("codes", p.codes, any, 4));
  WL_RETURN_IF_ERROR(check_pointer("min", p.min, any, 2));
  return check_pointer("range", p.range, any, 2);
}

wl_status check_index(const wl_kv_shrink_params& p) {
  for (int64_t n = 0; n < p.blocks; ++n) {
    if (p.index[n] < 0 || p.index[n] >= p.pool) {
      return fail(WL_INVALID, "index[%lld] is %d: must be from 0 to %lld", ll(n), p.index[n],
                  ll(p.pool) - 1);
    }
  }
  std::vector<int32_t> sorted(p.index, p.index + p.blocks);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return WL_OK;
  const int32_t* first = std::find(p.index, p.index + p.blocks, *twice);
  const int32_t* second = std::find(first + 1, p.index + p.blocks, *twice);
  return fail(WL_INVALID, "index[%lld] is %d, a second time: blocks must differ",
              ll(second - p.index), *twice);
}

}  // namespace

wl_status validate(const wl_kv_quantize_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  for (int axis = 0; axis < 3; ++axis) {
    const char* names[] = {"n[0]", "n[1]", "n[2]"};
    WL_RETURN_IF_ERROR(check_size(names[axis], p.n[axis]));
  }
  const int64_t rows = saturating_product({p.n[0], p.n[1], p.n[2]});
  WL_RETURN_IF_ERROR(check_groups(p, rows));
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t stride = p.x.stride[axis];
    if (stride < 0 || saturating_multiply(stride, p.n[axis]) > kMost) {
      return fail(WL_INVALID, "x has stride %lld on axis %d: must not be negative or reach 2^56",
                  ll(stride), axis);
    }
  }
  return check_pointer("x", p.x.data, rows > 0 && p.d > 0, size_of(p.dtype));
}

wl_status validate(const wl_kv_dequantize_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_size("rows", p.rows));
  WL_RETURN_IF_ERROR(check_groups(p, p.rows));
  return check_pointer("x", p.x, p.rows > 0 && p.d > 0, size_of(p.dtype));
}

wl_status validate(const wl_kv_shrink_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  if (p.order != WL_KV_ROWS && p.order != WL_KV_TILES) {
    return fail(WL_INVALID, "order is %d: must be 0 (rows) or 1 (tiles)", p.order);
  }
  WL_RETURN_IF_ERROR(check_bits("bits", p.bits));
  WL_RETURN_IF_ERROR(check_bits("to", p.to));
  if (p.to >= p.bits) {
    return fail(WL_INVALID, "to is %d: must be less than bits, %d", p.to, p.bits);
  }
  WL_RETURN_IF_ERROR(check_size("blocks", p.blocks));
  WL_RETURN_IF_ERROR(check_size("pool", p.pool));
  WL_RETURN_IF_ERROR(check_size("count", p.count));
  const int multiple = p.order == WL_KV_TILES ? 256 : WL_KV_GROUP_MULTIPLE;
  if (p.count % multiple) {
    return fail(WL_INVALID, "count is %lld: must be a multiple of %d", ll(p.count), multiple);
  }
  if (p.blocks > p.pool) {
    return fail(WL_INVALID, "blocks is %lld: must be at most pool, %lld", ll(p.blocks), ll(p.pool));
  }
  const auto check_stride = [&](const char* name, int64_t stride, int bits) {
    if (stride < p.count * bits / 8 || stride % 4 || saturating_multiply(stride, p.pool) > kMost) {
      return fail(WL_INVALID,
                  "%s is %lld: must be a multiple of 4, at least the %lld bytes of a block, and "
                  "reach at most 2^56",
                  name, ll(stride), ll(p.count * bits / 8));
    }
    return WL_OK;
  };
  WL_RETURN_IF_ERROR(check_stride("stride", p.stride, p.bits));
  WL_RETURN_IF_ERROR(check_stride("out_stride", p.out_stride, p.to));
  const bool any = p.blocks > 0 && p.count > 0;
  WL_RETURN_IF_ERROR(check_pointer("codes", p.codes, any, 4));
  WL_RETURN_IF_ERROR(check_pointer("out", p.out, any, 4));
  const bool apart = uintptr_t(p.out) >= uintptr_t(p.codes) + p.pool * p.stride ||
                     uintptr_t(p.codes) >= uintptr_t(p.out) + p.pool * p.out_stride;
  const bool in_place = p.out == p.codes && p.out_stride == p.stride;
  if (any && !apart && !in_place) {
    return fail(WL_INVALID, "out overlaps codes: must be apart, or the same with the same stride");
  }
  WL_RETURN_IF_ERROR(check_pointer("index", p.index, false, 4));
  return p.index && p.exec.check && p.exec.device == WL_CPU ? check_index(p) : WL_OK;
}

}  // namespace warploom::kv_cache
