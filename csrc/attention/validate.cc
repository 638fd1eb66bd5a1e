#include "attention/validate.h"

#include <cmath>
#include <cstdlib>

namespace warploom::attention {
namespace {

using ll = long long;

template <class Params>
wl_status check_head(const Params* params) {
  if (!params) return fail(WL_INVALID, "params is NULL");
  if (params->struct_size != sizeof(Params)) {
    return fail(WL_INVALID, "struct_size is %u: this library's is %zu", params->struct_size,
                sizeof(Params));
  }
  const wl_exec& exec = params->exec;
  if (exec.device < WL_CPU || exec.device > WL_HIP) {
    return fail(WL_INVALID, "device is %d: must be 0 (cpu), 1 (cuda) or 2 (hip)", exec.device);
  }
  if (exec.check && exec.device != WL_CPU) {
    return fail(WL_INVALID, "check is set: values are checked on the host only for the CPU");
  }
  return WL_OK;
}

wl_status check_sizes(int32_t dtype, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  if (dtype < WL_F32 || dtype > WL_BF16)
    return fail(WL_INVALID, "dtype is %d: must be 0, 1 or 2", dtype);
  for (const auto& [name, size] : sizes) {
    if (size < 0) return fail(WL_INVALID, "%s is %lld: must not be negative", name, ll(size));
  }
  return WL_OK;
}

wl_status check_heads(int64_t h, int64_t hk) {
  if (h > 0 && (hk == 0 || h % hk != 0)) {
    return fail(WL_INVALID,
                "h is %lld and hk is %lld: the key/value heads must divide the query heads", ll(h),
                ll(hk));
  }
  return WL_OK;
}

wl_status check_formula(const wl_mask& mask, float scale, float softcap) {
  if (mask.kind != WL_MASK_FULL && mask.kind != WL_MASK_WINDOW) {
    return fail(WL_INVALID, "mask.kind is %d: must be 0 (full) or 1 (window)", mask.kind);
  }
  if (mask.left < -1 || mask.right < -1) {
    return fail(WL_INVALID, "mask window is (%lld, %lld): each side must be -1 (no limit) or more",
                ll(mask.left), ll(mask.right));
  }
  if (!std::isfinite(scale)) return fail(WL_INVALID, "scale is %g: must be finite", double(scale));
  if (!std::isfinite(softcap) || softcap < 0) {
    return fail(WL_INVALID, "softcap is %g: must be 0 (none) or a positive number",
                double(softcap));
  }
  return WL_OK;
}

wl_status check_data(const char* name, const void* data, int64_t elements) {
  if (elements > 0 && !data)
    return fail(WL_INVALID, "%s is NULL but has %lld elements", name, ll(elements));
  return WL_OK;
}

// Offsets must start at 0, end at the number of rows, never decrease, and no sequence may be longer
// than the bound that the caller gave.
wl_status check_offsets(const char* name, const int32_t* offsets, int64_t b, int64_t rows,
                        int64_t longest) {
  if (offsets[0] != 0) return fail(WL_INVALID, "%s[0] is %d: must be 0", name, offsets[0]);
  for (int64_t n = 0; n < b; ++n) {
    const int64_t length = int64_t{offsets[n + 1]} - offsets[n];
    if (length < 0) {
      return fail(WL_INVALID, "%s[%lld] is %d and %s[%lld] is %d: offsets must not decrease", name,
                  ll(n), offsets[n], name, ll(n + 1), offsets[n + 1]);
    }
    if (length > longest) {
      return fail(WL_INVALID, "%s gives sequence %lld a length of %lld: max_seqlen is %lld", name,
                  ll(n), ll(length), ll(longest));
    }
  }
  if (offsets[b] != rows) {
    return fail(WL_INVALID, "%s[%lld] is %d: must be the number of rows, %lld", name, ll(b),
                offsets[b], ll(rows));
  }
  return WL_OK;
}

wl_status check_problem(const wl_attention_problem& p, bool check_values) {
  WL_RETURN_IF_ERROR(check_sizes(p.dtype, {{"b", p.b},
                                           {"h", p.h},
                                           {"hk", p.hk},
                                           {"d", p.d},
                                           {"dv", p.dv},
                                           {"sq", p.sq},
                                           {"sk", p.sk},
                                           {"tq", p.tq},
                                           {"tk", p.tk}}));
  WL_RETURN_IF_ERROR(check_heads(p.h, p.hk));
  WL_RETURN_IF_ERROR(check_formula(p.mask, p.scale, p.softcap));
  if (!p.cu_seqlens_q != !p.cu_seqlens_k) {
    return fail(WL_INVALID, "cu_seqlens_q and cu_seqlens_k: both or neither must be given");
  }
  if (p.cu_seqlens_q && check_values) {
    WL_RETURN_IF_ERROR(check_offsets("cu_seqlens_q", p.cu_seqlens_q, p.b, p.tq, p.sq));
    WL_RETURN_IF_ERROR(check_offsets("cu_seqlens_k", p.cu_seqlens_k, p.b, p.tk, p.sk));
  }
  return WL_OK;
}

int64_t query_rows(const wl_attention_problem& p) { return p.cu_seqlens_q ? p.tq : p.b * p.sq; }
int64_t key_rows(const wl_attention_problem& p) { return p.cu_seqlens_q ? p.tk : p.b * p.sk; }

}  // namespace

wl_status validate(const wl_attention_forward_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const wl_attention_problem& p = params->problem;
  WL_RETURN_IF_ERROR(check_problem(p, params->exec.check));
  const int64_t rows_q = query_rows(p), rows_k = key_rows(p);
  WL_RETURN_IF_ERROR(check_data("q", params->q.data, rows_q * p.h * p.d));
  WL_RETURN_IF_ERROR(check_data("k", params->k.data, rows_k * p.hk * p.d));
  WL_RETURN_IF_ERROR(check_data("v", params->v.data, rows_k * p.hk * p.dv));
  return check_data("o", params->o.data, rows_q * p.h * p.dv);
}

wl_status validate(const wl_attention_backward_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const wl_attention_problem& p = params->problem;
  WL_RETURN_IF_ERROR(check_problem(p, params->exec.check));
  const int64_t rows_q = query_rows(p), rows_k = key_rows(p);
  WL_RETURN_IF_ERROR(check_data("q", params->q.data, rows_q * p.h * p.d));
  WL_RETURN_IF_ERROR(check_data("k", params->k.data, rows_k * p.hk * p.d));
  WL_RETURN_IF_ERROR(check_data("v", params->v.data, rows_k * p.hk * p.dv));
  WL_RETURN_IF_ERROR(check_data("o", params->o.data, rows_q * p.h * p.dv));
  WL_RETURN_IF_ERROR(check_data("grad_o", params->grad_o.data, rows_q * p.h * p.dv));
  WL_RETURN_IF_ERROR(check_data("lse", params->lse, rows_q * p.h));
  WL_RETURN_IF_ERROR(check_data("dq", params->dq.data, rows_q * p.h * p.d));
  WL_RETURN_IF_ERROR(check_data("dk", params->dk.data, rows_k * p.hk * p.d));
  return check_data("dv", params->dv.data, rows_k * p.hk * p.dv);
}

wl_status validate(const wl_attention_decode_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_sizes(p.dtype, {{"b", p.b},
                                           {"s", p.s},
                                           {"h", p.h},
                                           {"hk", p.hk},
                                           {"d", p.d},
                                           {"dv", p.dv},
                                           {"capacity", p.capacity},
                                           {"pages", p.pages},
                                           {"max_pages", p.max_pages}}));
  WL_RETURN_IF_ERROR(check_heads(p.h, p.hk));
  WL_RETURN_IF_ERROR(check_formula(p.mask, p.scale, p.softcap));
  WL_RETURN_IF_ERROR(check_data("lengths", p.lengths, p.b));
  WL_RETURN_IF_ERROR(check_data("q", p.q.data, p.b * p.s * p.h * p.d));
  WL_RETURN_IF_ERROR(check_data("o", p.o.data, p.b * p.s * p.h * p.dv));
  const int64_t positions = (p.page_table ? p.pages : p.b) * p.capacity;
  WL_RETURN_IF_ERROR(check_data("k_cache", p.k_cache.data, positions * p.hk * p.d));
  WL_RETURN_IF_ERROR(check_data("v_cache", p.v_cache.data, positions * p.hk * p.dv));
  if (!p.exec.check) return WL_OK;
  const int64_t limit = p.page_table ? p.max_pages * p.capacity : p.capacity;
  for (int64_t n = 0; n < p.b; ++n) {
    const int64_t length = p.lengths[n];
    if (length < p.s || length > limit) {
      return fail(WL_INVALID,
                  "lengths[%lld] is %lld: must be from s = %lld to the cache's capacity, %lld",
                  ll(n), ll(length), ll(p.s), ll(limit));
    }
    if (!p.page_table) continue;
    for (int64_t i = 0; i * p.capacity < length; ++i) {
      const int32_t page = p.page_table[n * p.page_table_stride + i];
      if (page < 0 || page >= p.pages) {
        return fail(WL_INVALID, "page_table[%lld, %lld] is %d: must be from 0 to %lld", ll(n),
                    ll(i), page, ll(p.pages - 1));
      }
    }
  }
  return WL_OK;
}

wl_status validate(const wl_attention_merge_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_sizes(p.dtype, {{"b", p.b}, {"s", p.s}, {"h", p.h}, {"dv", p.dv}}));
  if (p.parts < 1) return fail(WL_INVALID, "parts is %lld: must be 1 or more", ll(p.parts));
  for (int64_t i = 0; i < p.parts; ++i) {
    WL_RETURN_IF_ERROR(check_data("o_parts", p.o_parts[i].data, p.b * p.s * p.h * p.dv));
    WL_RETURN_IF_ERROR(check_data("lse_parts", p.lse_parts[i], p.b * p.s * p.h));
  }
  WL_RETURN_IF_ERROR(check_data("o", p.o.data, p.b * p.s * p.h * p.dv));
  return check_data("lse", p.lse, p.b * p.s * p.h);
}

wl_status validate(const wl_page_write_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_sizes(p.dtype, {{"tokens", p.tokens},
                                           {"hk", p.hk},
                                           {"d", p.d},
                                           {"dv", p.dv},
                                           {"pages", p.pages},
                                           {"capacity", p.capacity}}));
  WL_RETURN_IF_ERROR(check_data("slots", p.slots, p.tokens));
  WL_RETURN_IF_ERROR(check_data("k", p.k.data, p.tokens * p.hk * p.d));
  WL_RETURN_IF_ERROR(check_data("v", p.v.data, p.tokens * p.hk * p.dv));
  WL_RETURN_IF_ERROR(check_data("k_pages", p.k_pages.data, p.pages * p.capacity * p.hk * p.d));
  WL_RETURN_IF_ERROR(check_data("v_pages", p.v_pages.data, p.pages * p.capacity * p.hk * p.dv));
  if (!p.exec.check) return WL_OK;
  for (int64_t n = 0; n < p.tokens; ++n) {
    if (p.slots[n] < -1 || p.slots[n] >= p.pages * p.capacity) {
      return fail(WL_INVALID, "slots[%lld] is %lld: must be -1 (skip) or from 0 to %lld", ll(n),
                  ll(p.slots[n]), ll(p.pages * p.capacity - 1));
    }
  }
  return WL_OK;
}

}  // namespace warploom::attention
