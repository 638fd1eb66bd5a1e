#include "attention/validate.h"

#include <algorithm>
#include <cmath>

#include "attention/plan.h"
#include "base/saturating.h"

namespace warploom::attention {
namespace {

using ll = long long;

// No size, no count of elements and no tensor's reach in bytes is more: sums and small multiples of
// them stay far within 64 bits, and no processor addresses as much.
constexpr int64_t kMost = int64_t{1} << 56;

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
    return fail(WL_INVALID, "check is %d: must be 0 on a GPU, whose memory the host does not read",
                exec.check);
  }
  return WL_OK;
}

wl_status check_sizes(std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  for (const auto& [name, size] : sizes) {
    if (size < 0) return fail(WL_INVALID, "%s is %lld: must not be negative", name, ll(size));
    if (size > kMost) {
      return fail(WL_INVALID, "%s is %lld: must be at most 2^56", name, ll(size));
    }
  }
  return WL_OK;
}

wl_status check_dtype(int32_t dtype) {
  if (dtype < WL_F32 || dtype > WL_BF16) {
    return fail(WL_INVALID, "dtype is %d: must be 0, 1 or 2", dtype);
  }
  return WL_OK;
}

int64_t bytes_of(int32_t dtype) { return dtype == WL_F32 ? 4 : 2; }

wl_status check_mask(const wl_mask& mask) {
  if (mask.kind != WL_MASK_FULL && mask.kind != WL_MASK_WINDOW) {
    return fail(WL_INVALID, "mask.kind is %d: must be 0 (full) or 1 (window)", mask.kind);
  }
  if (mask.left < -1 || mask.right < -1) {
    return fail(WL_INVALID, "mask window is (%lld, %lld): each side must be -1 (no limit) or more",
                ll(mask.left), ll(mask.right));
  }
  return WL_OK;
}

// What prefill, backward and decode have alike. hk, d and dv are those of `cache`.
template <class Problem, class Cache>
wl_status check_formula(const Problem& p, const Cache& cache) {
  WL_RETURN_IF_ERROR(check_dtype(p.dtype));
  WL_RETURN_IF_ERROR(
      check_sizes({{"b", p.b}, {"h", p.h}, {"hk", cache.hk}, {"d", cache.d}, {"dv", cache.dv}}));
  if (p.h > 0 && (cache.hk == 0 || p.h % cache.hk != 0)) {
    return fail(WL_INVALID,
                "h is %lld and hk is %lld: the key/value heads must divide the query heads",
                ll(p.h), ll(cache.hk));
  }
  WL_RETURN_IF_ERROR(check_mask(p.mask));
  if (!std::isfinite(p.scale)) {
    return fail(WL_INVALID, "scale is %g: must be finite", double(p.scale));
  }
  if (!std::isfinite(p.softcap) || p.softcap < 0) {
    return fail(WL_INVALID, "softcap is %g: must be 0 (none) or a positive number",
                double(p.softcap));
  }
  return WL_OK;
}

// `count` elements of `bytes` each, one after the other.
wl_status check_array(const char* name, const void* data, int64_t count, int64_t bytes) {
  if (saturating_multiply(count, bytes) > kMost) {
    return fail(WL_INVALID, "%s would have more than 2^56 bytes", name);
  }
  if (count > 0 && !data) {
    return fail(WL_INVALID, "%s is NULL but has %lld elements", name, ll(count));
  }
  return WL_OK;
}

// Axes of no entries count as one: their products with others are formed too.
int64_t product_of(const Axes& axes, int64_t width) {
  const auto some = [](int64_t n) { return std::max<int64_t>(n, 1); };
  return saturating_product({some(axes.batch), some(axes.rows), some(axes.heads), some(width)});
}

wl_status check_tensor(const char* name, const wl_strided& x, const Axes& axes, int64_t width,
                       int64_t bytes) {
  if (saturating_multiply(product_of(axes, width), bytes) > kMost) {
    return fail(WL_INVALID, "%s is %lld x %lld x %lld x %lld: must have at most 2^56 bytes", name,
                ll(axes.batch), ll(axes.rows), ll(axes.heads), ll(width));
  }
  const bool empty = axes.batch == 0 || axes.rows == 0 || axes.heads == 0 || width == 0;
  if (empty) return WL_OK;
  if (!x.data) {
    return fail(WL_INVALID, "%s is NULL but has %lld elements", name, ll(product_of(axes, width)));
  }
  int64_t reach = width;
  int axis = 0;
  for (const int64_t n : {axes.batch, axes.rows, axes.heads}) {
    const int64_t stride = x.stride[axis++];
    const int64_t distance = stride < 0 ? -std::max(stride, -INT64_MAX) : stride;
    reach = saturating_add(reach, saturating_multiply(n - 1, distance));
  }
  if (saturating_multiply(reach, bytes) > kMost) {
    return fail(WL_INVALID,
                "%s has strides (%lld, %lld, %lld): its elements lie more than 2^56 bytes apart",
                name, ll(x.stride[0]), ll(x.stride[1]), ll(x.stride[2]));
  }
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

// The problem of a prefill or backward call and the tensors that both read.
template <class Params>
wl_status check_problem(const Params& params) {
  const wl_attention_problem& p = params.problem;
  WL_RETURN_IF_ERROR(check_formula(p, p));
  WL_RETURN_IF_ERROR(check_sizes({{"sq", p.sq}, {"sk", p.sk}, {"tq", p.tq}, {"tk", p.tk}}));
  if (!p.cu_seqlens_q != !p.cu_seqlens_k) {
    return fail(WL_INVALID, "cu_seqlens_q and cu_seqlens_k: both or neither must be given");
  }
  // A ragged call's bounds are sizes too: work is counted by them.
  for (const int64_t rows : {p.sq, p.sk}) {
    if (product_of({p.b, rows, p.h}, 1) > kMost) {
      return fail(WL_INVALID, "b is %lld, h is %lld and sequences have up to %lld rows: too many",
                  ll(p.b), ll(p.h), ll(rows));
    }
  }
  const Axes queries = query_axes(p, p.h), keys = key_axes(p, p.hk);
  const int64_t bytes = bytes_of(p.dtype);
  WL_RETURN_IF_ERROR(check_tensor("q", params.q, queries, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("k", params.k, keys, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("v", params.v, keys, p.dv, bytes));
  WL_RETURN_IF_ERROR(check_tensor("o", params.o, queries, p.dv, bytes));
  if (p.cu_seqlens_q && params.exec.check) {
    WL_RETURN_IF_ERROR(check_offsets("cu_seqlens_q", p.cu_seqlens_q, p.b, p.tq, p.sq));
    WL_RETURN_IF_ERROR(check_offsets("cu_seqlens_k", p.cu_seqlens_k, p.b, p.tk, p.sk));
  }
  return WL_OK;
}

// Lengths within the positions that a sequence can have, and the pages that hold them.
template <class Params>
wl_status check_positions(const Params& p, int64_t limit, int64_t page_size, int64_t pages) {
  for (int64_t n = 0; n < p.b; ++n) {
    const int64_t length = p.lengths[n];
    if (length < p.s || length > limit) {
      return fail(WL_INVALID,
                  "lengths[%lld] is %lld: must be from s = %lld to the cache's capacity, %lld",
                  ll(n), ll(length), ll(p.s), ll(limit));
    }
    if (!p.page_table) continue;
    for (int64_t i = 0; i * page_size < length; ++i) {
      const int32_t page = p.page_table[n * p.page_table_stride + i];
      if (page < 0 || page >= pages) {
        return fail(WL_INVALID, "page_table[%lld, %lld] is %d: must be from 0 to %lld", ll(n),
                    ll(i), page, ll(pages - 1));
      }
    }
  }
  return WL_OK;
}

constexpr int64_t kPageMultiple = 16;  // of positions of a page and of groups
constexpr int64_t kPoolLine = 64;

wl_status check_group(const char* name, int64_t group, const char* axis, int64_t size) {
  if (group <= 0 || group % kPageMultiple || size % group) {
    return fail(WL_INVALID,
                "%s is %lld: must be a positive multiple of %lld that divides %s, which is %lld",
                name, ll(group), ll(kPageMultiple), axis, ll(size));
  }
  return WL_OK;
}

wl_status check_pages(const wl_kv_pages& p) {
  WL_RETURN_IF_ERROR(
      check_sizes({{"pages", p.pages}, {"page", p.page}, {"pool_bytes", p.pool_bytes}}));
  if (p.page == 0 || p.page % kPageMultiple) {
    return fail(WL_INVALID, "page is %lld: must be a positive multiple of %lld", ll(p.page),
                ll(kPageMultiple));
  }
  if (p.quantum_bytes <= 0 || p.quantum_bytes % kPoolLine) {
    return fail(WL_INVALID, "quantum_bytes is %lld: must be a positive multiple of %lld",
                ll(p.quantum_bytes), ll(kPoolLine));
  }
  const bool channels = p.keys_per_channel != 0;
  WL_RETURN_IF_ERROR(
      check_group("key_group", p.key_group, channels ? "page" : "d", channels ? p.page : p.d));
  WL_RETURN_IF_ERROR(check_group("value_group", p.value_group, "dv", p.dv));
  const int64_t heads = saturating_multiply(p.pages, p.hk);
  const auto grids = [&](int64_t dim) { return saturating_product({heads, 2, dim, p.page}); };
  WL_RETURN_IF_ERROR(check_array("tags", p.tags, saturating_multiply(heads, 2), sizeof(int32_t)));
  WL_RETURN_IF_ERROR(check_array("key_grids", p.key_grids, grids(p.d) / p.key_group, 2));
  WL_RETURN_IF_ERROR(check_array("value_grids", p.value_grids, grids(p.dv) / p.value_group, 2));
  WL_RETURN_IF_ERROR(check_array("pool", p.pool, p.pool_bytes, 1));
  if (reinterpret_cast<uintptr_t>(p.pool) % kPoolLine) {
    return fail(WL_INVALID, "pool is not at a multiple of %lld bytes", ll(kPoolLine));
  }
  return WL_OK;
}

// Blocks of the pages that hold positions: there, and within the pool.
wl_status check_tags(const wl_attention_pages_params& p) {
  const wl_kv_pages& pages = p.pages;
  for (int64_t n = 0; n < p.b; ++n) {
    for (int64_t i = 0; i * pages.page < p.lengths[n]; ++i) {
      const int64_t page = p.page_table[n * p.page_table_stride + i];
      for (int64_t at = page * pages.hk * 2; at < (page + 1) * pages.hk * 2; ++at) {
        const int32_t tag = pages.tags[at];
        const int64_t width = 2 << (tag & 3), dim = at % 2 ? pages.dv : pages.d;
        const int64_t begin = saturating_multiply(tag >> 2, pages.quantum_bytes);
        if (tag < 0 || saturating_add(begin, pages.page * dim * width / 8) > pages.pool_bytes) {
          return fail(
              WL_INVALID,
              "tags[%lld, %lld, %lld] is %d: must be of a block within the pool's %lld bytes",
              ll(page), ll(at / 2 % pages.hk), ll(at % 2), tag, ll(pages.pool_bytes));
        }
      }
    }
  }
  return WL_OK;
}

}  // namespace

wl_status validate(const wl_attention_forward_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  return check_problem(*params);
}

wl_status validate(const wl_attention_backward_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  WL_RETURN_IF_ERROR(check_problem(*params));
  const wl_attention_problem& p = params->problem;
  const Axes queries = query_axes(p, p.h), keys = key_axes(p, p.hk);
  const int64_t bytes = bytes_of(p.dtype);
  WL_RETURN_IF_ERROR(check_tensor("grad_o", params->grad_o, queries, p.dv, bytes));
  WL_RETURN_IF_ERROR(check_array("lse", params->lse, queries.count(), sizeof(float)));
  WL_RETURN_IF_ERROR(check_tensor("dq", params->dq, queries, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("dk", params->dk, keys, p.d, bytes));
  return check_tensor("dv", params->dv, keys, p.dv, bytes);
}

wl_status validate(const wl_attention_decode_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_formula(p, p));
  WL_RETURN_IF_ERROR(check_sizes(
      {{"s", p.s}, {"capacity", p.capacity}, {"pages", p.pages}, {"max_pages", p.max_pages}}));
  const int64_t bytes = bytes_of(p.dtype);
  const Axes queries{p.b, p.s, p.h}, positions{p.page_table ? p.pages : p.b, p.capacity, p.hk};
  WL_RETURN_IF_ERROR(check_array("lengths", p.lengths, p.b, sizeof(int32_t)));
  WL_RETURN_IF_ERROR(check_tensor("q", p.q, queries, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("o", p.o, queries, p.dv, bytes));
  WL_RETURN_IF_ERROR(check_tensor("k_cache", p.k_cache, positions, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("v_cache", p.v_cache, positions, p.dv, bytes));
  if (p.page_table) {
    const wl_strided table{const_cast<int32_t*>(p.page_table), {0, p.page_table_stride, 0}};
    WL_RETURN_IF_ERROR(
        check_tensor("page_table", table, {1, p.b, 1}, p.max_pages, sizeof(int32_t)));
    WL_RETURN_IF_ERROR(
        check_sizes({{"max_pages * capacity", saturating_multiply(p.max_pages, p.capacity)}}));
  }
  if (!p.exec.check) return WL_OK;
  return check_positions(p, p.page_table ? p.max_pages * p.capacity : p.capacity, p.capacity,
                         p.pages);
}

wl_status validate(const wl_attention_pages_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  const wl_kv_pages& pages = p.pages;
  WL_RETURN_IF_ERROR(check_formula(p, pages));
  WL_RETURN_IF_ERROR(check_sizes({{"s", p.s}, {"max_pages", p.max_pages}}));
  if (p.precision != WL_PRECISION_EXACT && p.precision != WL_PRECISION_FAST) {
    return fail(WL_INVALID, "precision is %d: must be 0 (exact) or 1 (fast)", p.precision);
  }
  WL_RETURN_IF_ERROR(check_pages(pages));
  const Axes queries{p.b, p.s, p.h};
  const int64_t bytes = bytes_of(p.dtype);
  WL_RETURN_IF_ERROR(check_array("lengths", p.lengths, p.b, sizeof(int32_t)));
  WL_RETURN_IF_ERROR(check_tensor("q", p.q, queries, pages.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("o", p.o, queries, pages.dv, bytes));
  const wl_strided table{const_cast<int32_t*>(p.page_table), {0, p.page_table_stride, 0}};
  WL_RETURN_IF_ERROR(check_tensor("page_table", table, {1, p.b, 1}, p.max_pages, sizeof(int32_t)));
  WL_RETURN_IF_ERROR(
      check_sizes({{"max_pages * page", saturating_multiply(p.max_pages, pages.page)}}));
  if (!p.exec.check) return WL_OK;
  WL_RETURN_IF_ERROR(check_positions(p, p.max_pages * pages.page, pages.page, pages.pages));
  return check_tags(p);
}

wl_status validate(const wl_attention_merge_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_dtype(p.dtype));
  WL_RETURN_IF_ERROR(check_sizes({{"b", p.b}, {"s", p.s}, {"h", p.h}, {"dv", p.dv}}));
  if (p.parts < 1) return fail(WL_INVALID, "parts is %lld: must be 1 or more", ll(p.parts));
  WL_RETURN_IF_ERROR(check_array("o_parts", p.o_parts, p.parts, sizeof *p.o_parts));
  WL_RETURN_IF_ERROR(check_array("lse_parts", p.lse_parts, p.parts, sizeof *p.lse_parts));
  const Axes axes{p.b, p.s, p.h};
  const int64_t bytes = bytes_of(p.dtype);
  WL_RETURN_IF_ERROR(check_tensor("o", p.o, axes, p.dv, bytes));
  WL_RETURN_IF_ERROR(check_array("lse", p.lse, axes.count(), sizeof(float)));
  for (int64_t i = 0; i < p.parts; ++i) {
    WL_RETURN_IF_ERROR(check_tensor("o_parts", p.o_parts[i], axes, p.dv, bytes));
    WL_RETURN_IF_ERROR(check_array("lse_parts", p.lse_parts[i], axes.count(), sizeof(float)));
  }
  return WL_OK;
}

wl_status validate(const wl_page_write_params* params) {
  WL_RETURN_IF_ERROR(check_head(params));
  const auto& p = *params;
  WL_RETURN_IF_ERROR(check_dtype(p.dtype));
  WL_RETURN_IF_ERROR(check_sizes({{"tokens", p.tokens},
                                  {"hk", p.hk},
                                  {"d", p.d},
                                  {"dv", p.dv},
                                  {"pages", p.pages},
                                  {"capacity", p.capacity}}));
  const int64_t bytes = bytes_of(p.dtype);
  const Axes rows{1, p.tokens, p.hk}, positions{p.pages, p.capacity, p.hk};
  WL_RETURN_IF_ERROR(check_array("slots", p.slots, p.tokens, sizeof(int64_t)));
  WL_RETURN_IF_ERROR(check_tensor("k", p.k, rows, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("v", p.v, rows, p.dv, bytes));
  WL_RETURN_IF_ERROR(check_tensor("k_pages", p.k_pages, positions, p.d, bytes));
  WL_RETURN_IF_ERROR(check_tensor("v_pages", p.v_pages, positions, p.dv, bytes));
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
