/* Exact attention: prefill (forward), backward, decode from contiguous or paged caches, also from
 * quantized pages, the merge of partial results, and the writer of pages.
 *
 *   s_ij = softcap(scale * <q_i, k_j>),  p = softmax over visible j,  o_i = sum_j p_ij v_j
 *   lse_i = log(sum over visible j of exp(s_ij)), natural logarithm, float32
 *
 * A query row that sees no key gets o = 0 and lse = -infinity. Keys that a mask hides are absent:
 * a NaN there does not show. Query head n reads key/value head n / (h / hk).
 */
#ifndef WARPLOOM_ATTENTION_H
#define WARPLOOM_ATTENTION_H

#include "warploom/base.h"
#include "warploom/kv_pages.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wl_mask_kind { WL_MASK_FULL = 0, WL_MASK_WINDOW = 1 } wl_mask_kind;

/* Window: with c = i + sk - sq (queries aligned to the last keys), query i sees the keys
 * c - left .. c + right, both included; -1 means no limit on that side. Causal is (-1, 0). */
typedef struct wl_mask {
  int32_t kind; /* wl_mask_kind */
  int64_t left;
  int64_t right;
} wl_mask;

/* What is asked, apart from where the numbers lie. Dense: cu_seqlens_* are NULL. Ragged: sequence
 * n has query rows cu_seqlens_q[n] .. cu_seqlens_q[n+1] of tq, and keys likewise of tk. */
typedef struct wl_attention_problem {
  int32_t dtype;           /* wl_dtype of q, k, v, o and their gradients */
  int64_t b, h, hk, d, dv; /* batch (ragged: sequences), heads, kv heads, head dims of qk and v */
  int64_t sq, sk;          /* sequence lengths; ragged: upper bounds on any sequence's */
  int64_t tq, tk;          /* ragged: rows of q and of k; dense: 0 */
  const int32_t* cu_seqlens_q; /* [b + 1] or NULL */
  const int32_t* cu_seqlens_k; /* [b + 1] or NULL */
  wl_mask mask;
  float scale;
  float softcap; /* 0: none; else s <- softcap * tanh(s / softcap) */
} wl_attention_problem;

/* Strides: dense [b, s, h, d] gives {b, s, h}; ragged [tokens, h, d] gives {0, s, h}. */
typedef struct wl_attention_forward_params {
  uint32_t struct_size;
  wl_exec exec;
  wl_attention_problem problem;
  wl_strided q, k, v, o; /* [b, sq, h, d], [b, sk, hk, d], [b, sk, hk, dv], [b, sq, h, dv] */
  float* lse;            /* contiguous [b, h, sq] or [h, tq]; NULL: not wanted */
} wl_attention_forward_params;

/* Gradients of o and, where dlse is given, of lse. Every element of dq, dk, dv is written. */
typedef struct wl_attention_backward_params {
  uint32_t struct_size;
  wl_exec exec;
  wl_attention_problem problem;
  wl_strided q, k, v, o, grad_o; /* as in the forward */
  const float* lse;              /* contiguous, from the forward */
  const float* grad_lse;         /* like lse, or NULL */
  wl_strided dq, dk, dv;
} wl_attention_backward_params;

/* The s last positions of each sequence attend to its first lengths[n] cached positions, those s
 * included; the mask is aligned to the end (causal: query i of s sees lengths[n] - s + i + 1). */
typedef struct wl_attention_decode_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype;
  int64_t b, s, h, hk, d, dv;
  int64_t capacity;          /* positions of a contiguous cache, or of one page */
  int64_t pages;             /* pages in the pool; 0: contiguous cache */
  int64_t max_pages;         /* columns of page_table */
  const int32_t* page_table; /* [b, max_pages], row stride page_table_stride; NULL: contiguous */
  int64_t page_table_stride;
  const int32_t* lengths; /* [b] */
  wl_mask mask;
  float scale, softcap;
  wl_strided q, o;             /* [b, s, h, d], [b, s, h, dv]: strides {b, s, h} */
  wl_strided k_cache, v_cache; /* [b, capacity, hk, d] or [pages, capacity, hk, d] */
  float* lse;                  /* contiguous [b, h, s]; NULL: not wanted */
} wl_attention_decode_params;

/* How closely attention to pages follows its formula on what codes and grids stand for; the bounds
 * are in docs/numerics.md. Blocks of width 16 are read alike by both. */
typedef enum wl_precision {
  WL_PRECISION_EXACT =
      0,                 /* as exact as the dtype of q; 16 bits of it and of weights for 16-bit q */
  WL_PRECISION_FAST = 1, /* queries and weights may be rounded to 8 bits */
} wl_precision;

/* As decode, from the pages of a quantized cache: each block in its own width. Positions of a page
 * at and beyond the sequence's length may hold anything. */
typedef struct wl_attention_pages_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype;     /* wl_dtype of q and o */
  int32_t precision; /* wl_precision */
  int64_t b, s, h;
  wl_kv_pages pages;         /* hk, d and dv among them */
  int64_t max_pages;         /* columns of page_table */
  const int32_t* page_table; /* [b, max_pages], row stride page_table_stride */
  int64_t page_table_stride;
  const int32_t* lengths; /* [b] */
  wl_mask mask;
  float scale, softcap;
  wl_strided q, o; /* [b, s, h, d], [b, s, h, dv]: strides {b, s, h} */
  float* lse;      /* contiguous [b, h, s]; NULL: not wanted */
} wl_attention_pages_params;

/* o = sum_n exp(lse_n - lse) o_n with lse = log(sum_n exp(lse_n)), in the order given. Parts whose
 * lse is -infinity count as absent. */
typedef struct wl_attention_merge_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype;
  int64_t b, s, h, dv, parts;
  const wl_strided* o_parts;     /* `parts` of [b, s, h, dv] */
  const float* const* lse_parts; /* `parts` of contiguous [b, h, s] */
  wl_strided o;
  float* lse; /* contiguous [b, h, s] */
} wl_attention_merge_params;

/* Row n of k and v goes to position slots[n] = page * capacity + offset; -1 skips the row. */
typedef struct wl_page_write_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype;
  int64_t tokens, hk, d, dv, pages, capacity;
  const int64_t* slots;        /* [tokens] */
  wl_strided k, v;             /* [tokens, hk, d], [tokens, hk, dv]: strides {0, token, h} */
  wl_strided k_pages, v_pages; /* [pages, capacity, hk, d]: strides {page, position, h} */
} wl_page_write_params;

WL_API wl_status wl_attention_forward(const wl_attention_forward_params* params);
WL_API wl_status wl_attention_backward(const wl_attention_backward_params* params);
WL_API wl_status wl_attention_decode(const wl_attention_decode_params* params);
WL_API wl_status wl_attention_pages(const wl_attention_pages_params* params);
WL_API wl_status wl_attention_merge(const wl_attention_merge_params* params);
WL_API wl_status wl_page_write(const wl_page_write_params* params);

/* Bytes of exec.workspace that the call would need; 0 where the kernel needs none (the CPU). */
WL_API wl_status wl_attention_backward_workspace(const wl_attention_backward_params* params,
                                                 int64_t* bytes);
WL_API wl_status wl_attention_decode_workspace(const wl_attention_decode_params* params,
                                               int64_t* bytes);
WL_API wl_status wl_attention_pages_workspace(const wl_attention_pages_params* params,
                                              int64_t* bytes);

/* What a call may need beyond the plain case, as bits. */
typedef enum wl_attention_feature {
  WL_ATTENTION_WINDOW = 1 << 0,        /* a causal or window mask */
  WL_ATTENTION_SOFTCAP = 1 << 1,       /* capped logits */
  WL_ATTENTION_RAGGED = 1 << 2,        /* cu_seqlens */
  WL_ATTENTION_PAGED = 1 << 3,         /* keys and values in pages */
  WL_ATTENTION_GROUPED = 1 << 4,       /* hk other than h */
  WL_ATTENTION_VALUE_DIM = 1 << 5,     /* dv other than d */
  WL_ATTENTION_GRAD_LSE = 1 << 6,      /* grad_lse is given */
  WL_ATTENTION_CHANNEL_GRIDS = 1 << 7, /* keys quantized per channel */
} wl_attention_feature;

/* What a kernel choice depends on. */
typedef struct wl_attention_request {
  uint32_t struct_size;
  const char* op; /* "prefill", "backward", "decode", "pages", "merge", "page_write" */
  int32_t device, device_index, dtype;
  int64_t d, dv;
  uint64_t features;  /* bits of wl_attention_feature */
  const char* kernel; /* NULL or a forced name */
} wl_attention_request;

/* JSON: every kernel of the op with "taken": true or the reason it was refused. */
WL_API wl_status wl_attention_explain(const wl_attention_request* request, char* text,
                                      size_t capacity, size_t* needed);
/* JSON: every kernel there is, its needs, and whether it can run here. */
WL_API wl_status wl_attention_list_kernels(char* text, size_t capacity, size_t* needed);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_ATTENTION_H */
