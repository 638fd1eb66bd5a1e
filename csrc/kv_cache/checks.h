// What validation of every op looks at.
#pragma once

#include "base/status.h"
#include "warploom/kv_cache.h"

namespace warploom::kv_cache {

using ll = long long;

// No size and no tensor's reach in bytes is more, so that sums and small multiples stay within 64
// bits.
inline constexpr int64_t kMost = int64_t{1} << 56;

template <class Params>
wl_status check_head(const Params* params) {
  if (!params) return fail(WL_INVALID, "params is NULL");
  if (params->struct_size != sizeof(Params)) {
    return fail(WL_INVALID, "struct_size is %u: this library's is %zu", params->struct_size,
                sizeof(Params));
  }
  if (params->exec.device < WL_CPU || params->exec.device > WL_HIP) {
    return fail(WL_INVALID, "device is %d: must be 0 (cpu), 1 (cuda) or 2 (hip)",
                params->exec.device);
  }
  return WL_OK;
}

inline wl_status check_size(const char* name, int64_t size) {
  if (size >= 0 && size <= kMost) return WL_OK;
  return fail(WL_INVALID, "%s is %lld: must be from 0 to 2^56", name, ll(size));
}

inline wl_status check_pointer(const char* name, const void* pointer, bool needed,
                               size_t alignment) {
  if (needed && !pointer) return fail(WL_INVALID, "%s is NULL", name);
  if (uintptr_t(pointer) % alignment) {
    return fail(WL_INVALID, "%s is at %p: must be at a multiple of %zu bytes", name, pointer,
                alignment);
  }
  return WL_OK;
}

inline wl_status check_bits(const char* name, int32_t bits) {
  if (bits == 8 || bits == 4 || bits == 2) return WL_OK;
  return fail(WL_INVALID, "%s is %d: must be 8, 4 or 2", name, bits);
}

inline wl_status check_multiple(const char* name, int64_t value) {
  if (value > 0 && value % WL_KV_GROUP_MULTIPLE == 0 && value <= kMost) return WL_OK;
  return fail(WL_INVALID, "%s is %lld: must be a positive multiple of %d", name, ll(value),
              WL_KV_GROUP_MULTIPLE);
}

inline wl_status check_group(const char* name, int64_t group, const char* of, int64_t size) {
  WL_RETURN_IF_ERROR(check_multiple(name, group));
  if (size % group == 0) return WL_OK;
  return fail(WL_INVALID, "%s is %lld: must divide %s, %lld", name, ll(group), of, ll(size));
}

// The sizes of a page and of its groups, where pages and books state them.
template <class Shape>
wl_status check_page_shape(const Shape& p) {
  WL_RETURN_IF_ERROR(check_multiple("page", p.page));
  WL_RETURN_IF_ERROR(check_multiple("d", p.d));
  WL_RETURN_IF_ERROR(check_multiple("dv", p.dv));
  if (p.keys_per_channel) {
    WL_RETURN_IF_ERROR(check_group("key_group", p.key_group, "page", p.page));
  } else {
    WL_RETURN_IF_ERROR(check_group("key_group", p.key_group, "d", p.d));
  }
  return check_group("value_group", p.value_group, "dv", p.dv);
}

inline wl_status check_dtype(int32_t dtype) {
  if (dtype >= WL_F32 && dtype <= WL_BF16) return WL_OK;
  return fail(WL_INVALID, "dtype is %d: must be 0, 1 or 2", dtype);
}

inline size_t size_of(int32_t dtype) { return dtype == WL_F32 ? 4 : 2; }

}  // namespace warploom::kv_cache
