/* Quantized keys and values: groups of 8, 4 or 2 bit codes on nested grids, so that a cache shrinks
 * by rewriting its codes alone. docs/kv_cache_format.md is the format to the bit.
 *
 *   x ~ min + code * range / (2^bits - 1)      min and range are bfloat16, one of each to a group
 */
#ifndef WARPLOOM_KV_CACHE_H
#define WARPLOOM_KV_CACHE_H

#include "warploom/base.h"
#include "warploom/kv_pages.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A word of codes serves one group, at every width: group is a multiple of this. */
#define WL_KV_GROUP_MULTIPLE 16

/* x [n[0], n[1], n[2], d] is cut into groups of `group` along d. codes, min and range are
 * contiguous. An infinity, a NaN, or a group whose range is beyond bfloat16 is WL_INVALID, which
 * names the place; what codes, min and range hold is then undefined. */
typedef struct wl_kv_quantize_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype; /* wl_dtype of x */
  int32_t bits;  /* 8, 4, 2 */
  int64_t n[3], d, group;
  wl_strided x;   /* strides of the axes n */
  uint8_t* codes; /* [n0, n1, n2, d * bits / 8], at a multiple of 4 bytes */
  uint16_t* min;  /* bfloat16 [n0, n1, n2, d / group] */
  uint16_t* range;
} wl_kv_quantize_params;

/* The inverse: what rounds beyond the largest finite number of dtype becomes that number. */
typedef struct wl_kv_dequantize_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype; /* wl_dtype of x */
  int32_t bits;
  int64_t rows, d, group;
  const uint8_t* codes; /* [rows, d * bits / 8] */
  const uint16_t* min;  /* [rows, d / group] */
  const uint16_t* range;
  void* x; /* [rows, d] */
} wl_kv_dequantize_params;

typedef enum wl_kv_order {
  WL_KV_ROWS = 0,  /* words of one row follow each other */
  WL_KV_TILES = 1, /* words of 16 rows take turns: lines of 64 bytes */
} wl_kv_order;

/* Rewrites blocks of codes to a lower width. Block n lies at codes + index[n] * stride and moves to
 * out + index[n] * out_stride. In place (out == codes, out_stride == stride), its first
 * count * to / 8 bytes are the result; what is left of the wider codes is undefined. */
typedef struct wl_kv_shrink_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t order;    /* wl_kv_order */
  int32_t bits, to; /* 8 to 4 or 2, 4 to 2 */
  int64_t blocks;   /* how many are rewritten */
  int64_t pool;     /* how many there are */
  int64_t count;    /* codes in a block: a multiple of 16 (rows) or 256 (tiles) */
  uint8_t* codes;
  int64_t stride; /* bytes from block to block, a multiple of 4 */
  uint8_t* out;
  int64_t out_stride;
  const int32_t* index; /* [blocks], all different, 0 to pool - 1; NULL: 0, 1, 2, ... */
} wl_kv_shrink_params;

/* Writes row (i, j) of k and v to slot slots[i, j] of 16 bit blocks: page * P + offset; -1 skips
 * it. Values are rounded to bfloat16. A value that is not finite, or not below 2^127 (so that every
 * group has a grid), is WL_INVALID, which names it, skipped rows among them; nothing is written
 * then. */
typedef struct wl_kv_append_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype; /* of k and v */
  int64_t n[2];  /* rows */
  wl_kv_pages pages;
  wl_strided k, v;      /* [n0, n1, hk, d], [n0, n1, hk, dv]: strides of n0, n1, hk */
  const int64_t* slots; /* contiguous [n0, n1], all different but for -1 */
} wl_kv_append_params;

/* Blocks to fewer bits, where they lie: their codes stay at the block's start, what is left of the
 * block is undefined, and the tag tells the new width. Block (page * hk + head) * 2 + side is of
 * keys (side 0) or of values (side 1). quantize_pages takes blocks of 16 bits and writes their
 * grids, shrink_pages those of 8 and 4. quantize_pages: a block that holds an infinity, a NaN or a
 * group without a grid is WL_INVALID, which names it; that block stays as it was, and others may
 * have been quantized. */
typedef struct wl_kv_blocks_params {
  uint32_t struct_size;
  wl_exec exec;
  wl_kv_pages pages;
  int64_t count;
  const int32_t* blocks; /* [count], all different */
  const int32_t* bits;   /* [count]: 8, 4 or 2, less than the block's width */
} wl_kv_blocks_params;

/* What rows of pages stand for: k[n] and v[n] of slot slots[n], of any width. What rounds beyond
 * the largest finite number of dtype becomes that number. */
typedef struct wl_kv_gather_params {
  uint32_t struct_size;
  wl_exec exec;
  int32_t dtype; /* of k and v */
  int64_t count;
  wl_kv_pages pages;
  const int64_t* slots; /* [count] */
  void* k;              /* contiguous [count, hk, d] */
  void* v;              /* contiguous [count, hk, dv] */
} wl_kv_gather_params;

/* Turns pairs of channels of stored keys: (x, y) to (x cos - y sin, y cos + x sin), for the first
 * 2 * half channels. A 16 bit block is rounded to bfloat16 again; one of codes is quantized anew,
 * at its width. cos and sin may be any numbers: their product with a key must stay below 2^127. */
typedef struct wl_kv_rotate_params {
  uint32_t struct_size;
  wl_exec exec;
  wl_kv_pages pages;
  int64_t count;
  const int32_t* index; /* [count]: pages, all different */
  int64_t half;         /* pairs: at most d / 2 */
  int32_t interleaved;  /* 0: channels i and i + half are a pair; 1: 2 i and 2 i + 1 */
  const float* cos;     /* [count, P, half], strides of pages and positions below */
  const float* sin;
  int64_t page_stride, position_stride;
} wl_kv_rotate_params;

WL_API wl_status wl_kv_append(const wl_kv_append_params* params);
WL_API wl_status wl_kv_quantize_pages(const wl_kv_blocks_params* params);
WL_API wl_status wl_kv_shrink_pages(const wl_kv_blocks_params* params);
WL_API wl_status wl_kv_gather(const wl_kv_gather_params* params);
WL_API wl_status wl_kv_rotate(const wl_kv_rotate_params* params);
WL_API wl_status wl_kv_quantize(const wl_kv_quantize_params* params);
WL_API wl_status wl_kv_dequantize(const wl_kv_dequantize_params* params);
WL_API wl_status wl_kv_shrink(const wl_kv_shrink_params* params);

/* JSON: every kernel there is, its needs, and whether it can run here. */
WL_API wl_status wl_kv_list_kernels(char* text, size_t capacity, size_t* needed);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_KV_CACHE_H */
