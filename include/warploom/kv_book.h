/* The books of a cache of quantized pages: sequences, the pages that they share, and where the
 * blocks of pages lie. Host memory alone, and nothing of a kernel: the book says which slots and
 * blocks the ops of wl_kv_* are to write, and is told when they have.
 *
 * One arena of bytes holds a cache. Tags and grids of pages (wl_kv_pages) lie at its start and grow
 * with the number of pages; blocks lie from its end downwards. Pages of all layers are numbered
 * together. A book is for one thread at a time.
 */
#ifndef WARPLOOM_KV_BOOK_H
#define WARPLOOM_KV_BOOK_H

#include "warploom/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wl_kv_book wl_kv_book;

typedef struct wl_kv_book_params {
  uint32_t struct_size;
  int64_t layers, hk, page, d, dv;
  int64_t key_group, value_group;
  int32_t keys_per_channel;
  int32_t key_bits, value_bits; /* width of blocks that left sink and window: 16, 8, 4, 2 */
  int64_t sink, window;         /* first and last positions of a sequence that stay in 16 bits */
  int64_t arena_bytes;
  uint8_t* arena; /* host memory, where the book moves bytes itself; NULL: it lists the moves */
} wl_kv_book_params;

/* arena[from, from + bytes) to arena[to, to + bytes), which may overlap; in order. */
typedef struct wl_kv_move {
  int64_t from, to, bytes;
} wl_kv_move;

/* What the ops have to do, and where the arrays of wl_kv_pages lie in the arena. Pointers are valid
 * until the next call. */
typedef struct wl_kv_book_view {
  uint32_t struct_size;
  int64_t capacity;               /* pages that tags and grids have room for */
  int64_t quantum_bytes;          /* of tags */
  int64_t key_grids, value_grids; /* bytes from the arena's start; tags lie at 0 */
  const int32_t* tags;            /* [capacity, hk, 2]: a copy in host memory */
  int64_t tags_version;           /* changes when the book wrote tags */
  const wl_kv_move* moves;
  int64_t move_count;
  const int64_t* slots; /* of the piece: page * P + offset for each of its rows */
  int64_t slot_count;
  int64_t target, first,
      rows; /* the piece: which sequence (-1: all), from which row on, how many */
  const int32_t *quantize, *quantize_bits; /* blocks (page * hk + head) * 2 + values, 16 bits now */
  int64_t quantize_count;
  const int32_t *shrink, *shrink_bits; /* blocks of 8 or 4 bits now */
  int64_t shrink_count;
  int64_t missing; /* bytes that the last append or rebuild lacked */
} wl_kv_book_view;

typedef struct wl_kv_book_row {
  uint32_t struct_size;
  int64_t length;
  int64_t cold; /* pages before this one left the window */
  const int32_t* pages;
  int64_t page_count;
} wl_kv_book_row;

typedef struct wl_kv_book_usage {
  uint32_t struct_size;
  int64_t pages;          /* different ones */
  int64_t block_bytes;    /* of their blocks */
  int64_t metadata_bytes; /* of their tags and grids */
  int64_t free_bytes;     /* of blocks that could still be made; the same for every layer */
  int64_t reserved_bytes; /* room of tags and grids of pages to come */
  int64_t moved_bytes;    /* that have been moved to bring free ones together */
  int64_t sequences;
} wl_kv_book_usage;

WL_API wl_status wl_kv_book_create(const wl_kv_book_params* params, wl_kv_book** book);
WL_API void wl_kv_book_destroy(wl_kv_book* book);

WL_API wl_status wl_kv_book_add(wl_kv_book* book, int64_t* sequence);
WL_API wl_status wl_kv_book_fork(wl_kv_book* book, int64_t sequence, int64_t* made);
/* May leave blocks to quantize: of pages that only this sequence wanted in 16 bits. */
WL_API wl_status wl_kv_book_free(wl_kv_book* book, int64_t sequence);
/* sequences[n] becomes what sequences[from[n]] was. */
WL_API wl_status wl_kv_book_reorder(wl_kv_book* book, const int64_t* sequences, const int64_t* from,
                                    int64_t b);

/* Plans s more positions of b different sequences in a layer; WL_MEMORY where they do not fit, and
 * then nothing has changed. wl_kv_book_next gives the first piece. */
WL_API wl_status wl_kv_book_append(wl_kv_book* book, int64_t layer, const int64_t* sequences,
                                   int64_t b, int64_t s);
/* Gives a sequence of a layer other pages: source[n] is the place of one that it has, or -1 for one
 * to write, of widths[n, hk, 2]. WL_MEMORY where those to write do not fit beside what is there.
 * The sequence changes when wl_kv_book_next has no more pieces, and is what it was until then. */
WL_API wl_status wl_kv_book_rebuild(wl_kv_book* book, int64_t layer, int64_t sequence,
                                    int64_t length, const int32_t* source, const int32_t* widths);
/* Gives a sequence that has none in a layer new pages of widths [pages, hk, 2], to be filled from
 * elsewhere; WL_MEMORY where they do not fit. */
WL_API wl_status wl_kv_book_place(wl_kv_book* book, int64_t layer, int64_t sequence, int64_t length,
                                  const int32_t* widths);
/* Copies the pages of a sequence that others share, so that it may be written to; WL_MEMORY where
 * they do not fit. */
WL_API wl_status wl_kv_book_own(wl_kv_book* book, int64_t layer, int64_t sequence);
/* The next piece of an append or a rebuild; *more is 0 when there is none. */
WL_API wl_status wl_kv_book_next(wl_kv_book* book, int32_t* more);
/* The piece was written: lengths grow, and pages that left the window wait to be quantized. */
WL_API wl_status wl_kv_book_commit(wl_kv_book* book);
/* The piece was not written: the pages it would have had are free again, the rest of the append is
 * forgotten, and the sequence of a rebuild is what it was. */
WL_API wl_status wl_kv_book_abort(wl_kv_book* book);

/* Lists the blocks of pages at `indices` of a sequence (NULL: of all its pages) and of `heads`
 * (NULL: all) that are wider than `bits`, keys and values. Pages that a sequence wants in 16 bits
 * stay, and so do those that sequences share unless `shared`. */
WL_API wl_status wl_kv_book_shrink(wl_kv_book* book, int64_t layer, int64_t sequence,
                                   const int32_t* bits, const int64_t* indices, int64_t index_count,
                                   const int64_t* heads, int64_t head_count, int32_t shared);
/* Listed blocks have their new widths: what they no longer need is free. */
WL_API wl_status wl_kv_book_settle(wl_kv_book* book);
/* An op failed: the listed blocks that `tags` [capacity, hk, 2] gives fewer bits have them, the
 * others stay as they are, and nothing is listed any more. NULL: the tags in the book's arena; a
 * book without one takes no block as done. */
WL_API wl_status wl_kv_book_settle_done(wl_kv_book* book, const int32_t* tags);
/* The listed moves were made. */
WL_API wl_status wl_kv_book_moved(wl_kv_book* book);

WL_API wl_status wl_kv_book_set_bits(wl_kv_book* book, int64_t layer, const int32_t* bits);
/* table [b, columns]: pages of each sequence, then -1; lengths [b]. */
WL_API wl_status wl_kv_book_tables(wl_kv_book* book, int64_t layer, const int64_t* sequences,
                                   int64_t b, int32_t* table, int64_t columns, int32_t* lengths);
WL_API wl_status wl_kv_book_row_of(wl_kv_book* book, int64_t layer, int64_t sequence,
                                   wl_kv_book_row* row);
/* Of one layer, or of all: -1. */
WL_API wl_status wl_kv_book_usage_of(wl_kv_book* book, int64_t layer, wl_kv_book_usage* usage);
/* Counts everything anew: WL_INVALID says what does not agree. */
WL_API wl_status wl_kv_book_check(wl_kv_book* book);
WL_API wl_status wl_kv_book_read(wl_kv_book* book, wl_kv_book_view* view);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_KV_BOOK_H */
