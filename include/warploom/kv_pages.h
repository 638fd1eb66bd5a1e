/* The pages of one layer of a quantized cache, as arrays: what attention reads, and what the ops of
 * wl_kv_* write. docs/kv_cache_format.md is the layout to the bit.
 *
 * A page holds P positions. For each key/value head it has two blocks, keys and values, each of a
 * width of its own: 2, 4 or 8 bit codes, or bfloat16 (width 16). Blocks lie anywhere in a pool; a
 * tag says where, and of which width.
 */
#ifndef WARPLOOM_KV_PAGES_H
#define WARPLOOM_KV_PAGES_H

#include "warploom/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A tag is quantum * 4 + log2(width / 2): the block starts at byte quantum * quantum_bytes of the
 * pool. */
#define WL_KV_NO_BLOCK (-1) /* the tag of a block that is not there */

typedef struct wl_kv_pages {
  int64_t pages;                  /* how many there are */
  int64_t page;                   /* P, positions of a page: a multiple of 16 */
  int64_t hk, d, dv;              /* key/value heads, head dims of keys and values */
  int64_t key_group, value_group; /* values that share a grid: multiples of 16 */
  int32_t keys_per_channel;       /* 0: key groups lie along d; 1: along the positions of a page */
  uint8_t* pool;                  /* at a multiple of 64 bytes */
  int64_t pool_bytes;
  int64_t quantum_bytes; /* a multiple of 64: blocks start at multiples of it */
  int32_t* tags;         /* [pages, hk, 2]: of keys, then of values */
  uint16_t* key_grids;   /* bfloat16 [pages, hk, d / key_group, 2, P]: min, then range;
                          * per channel [pages, hk, P / key_group, 2, d] */
  uint16_t* value_grids; /* bfloat16 [pages, hk, dv / value_group, 2, P] */
} wl_kv_pages;

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_KV_PAGES_H */
