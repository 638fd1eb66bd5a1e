// The C entry points of the books: checks of parameters, and what may run out of host memory.
#include <new>

#include "base/saturating.h"
#include "kv_cache/book.h"
#include "kv_cache/checks.h"
#include "warploom/kv_cache.h"

struct wl_kv_book {
  explicit wl_kv_book(const wl_kv_book_params& params) : book(params) {}
  warploom::kv_cache::Book book;
};

namespace warploom::kv_cache {
namespace {

wl_status check_width(const char* name, int32_t bits) {
  if (bits == 16 || bits == 8 || bits == 4 || bits == 2) return WL_OK;
  return fail(WL_INVALID, "%s is %d: must be 16, 8, 4 or 2", name, bits);
}

wl_status validate(const wl_kv_book_params* params) {
  if (!params) return fail(WL_INVALID, "params is NULL");
  const auto& p = *params;
  if (p.struct_size != sizeof p) {
    return fail(WL_INVALID, "struct_size is %u: this library's is %zu", p.struct_size, sizeof p);
  }
  for (const auto& [name, count] : {std::pair{"layers", p.layers}, std::pair{"hk", p.hk}}) {
    if (count >= 1 && count <= 1 << 20) continue;
    return fail(WL_INVALID, "%s is %lld: must be from 1 to 2^20", name, ll(count));
  }
  WL_RETURN_IF_ERROR(check_page_shape(p));
  for (const auto& [name, size] :
       {std::pair{"page", p.page}, std::pair{"d", p.d}, std::pair{"dv", p.dv}}) {
    if (size <= 1 << 24) continue;
    return fail(WL_INVALID, "%s is %lld: must be at most 2^24", name, ll(size));
  }
  WL_RETURN_IF_ERROR(check_width("key_bits", p.key_bits));
  WL_RETURN_IF_ERROR(check_width("value_bits", p.value_bits));
  for (const auto& [name, count] : {std::pair{"sink", p.sink}, std::pair{"window", p.window}}) {
    if (count >= 0 && count <= int64_t{1} << 40) continue;
    return fail(WL_INVALID, "%s is %lld: must be from 0 to 2^40", name, ll(count));
  }
  const int64_t most = quantum_bytes_of(p) << 29;  // a tag counts quanta in 29 bits
  if (p.arena_bytes < 0 || p.arena_bytes > most) {
    return fail(WL_INVALID, "arena_bytes is %lld: must be from 0 to %lld", ll(p.arena_bytes),
                ll(most));
  }
  if (uintptr_t(p.arena) % 64) {
    return fail(WL_INVALID, "arena is at %p: must be at a multiple of 64 bytes",
                static_cast<void*>(p.arena));
  }
  return WL_OK;
}

template <class Out>
wl_status check_out(const Out* out) {
  if (!out) return fail(WL_INVALID, "the result is NULL");
  if (out->struct_size == sizeof *out) return WL_OK;
  return fail(WL_INVALID, "struct_size is %u: this library's is %zu", out->struct_size,
              sizeof *out);
}

template <class Call>
wl_status guarded(wl_kv_book* book, const Call& call) {
  if (!book) return fail(WL_INVALID, "book is NULL");
  try {
    return call(book->book);
  } catch (const std::bad_alloc&) {
    return fail(WL_MEMORY, "host memory ran out in the books of a cache");
  }
}

}  // namespace
}  // namespace warploom::kv_cache

using namespace warploom;
using namespace warploom::kv_cache;

extern "C" {

wl_status wl_kv_book_create(const wl_kv_book_params* params, wl_kv_book** book) {
  WL_RETURN_IF_ERROR(kv_cache::validate(params));
  if (!book) return fail(WL_INVALID, "book is NULL");
  try {
    *book = new wl_kv_book(*params);
    return WL_OK;
  } catch (const std::bad_alloc&) {
    return fail(WL_MEMORY, "host memory ran out in the books of a cache");
  }
}

void wl_kv_book_destroy(wl_kv_book* book) { delete book; }

wl_status wl_kv_book_add(wl_kv_book* book, int64_t* sequence) {
  return guarded(book, [&](Book& b) {
    *sequence = b.add();
    return WL_OK;
  });
}

wl_status wl_kv_book_fork(wl_kv_book* book, int64_t sequence, int64_t* made) {
  return guarded(book, [&](Book& b) { return b.fork(sequence, made); });
}

wl_status wl_kv_book_free(wl_kv_book* book, int64_t sequence) {
  return guarded(book, [&](Book& b) { return b.free(sequence); });
}

wl_status wl_kv_book_reorder(wl_kv_book* book, const int64_t* sequences, const int64_t* from,
                             int64_t b) {
  return guarded(book,
                 [&](Book& the) { return the.reorder({sequences, size_t(b)}, {from, size_t(b)}); });
}

wl_status wl_kv_book_append(wl_kv_book* book, int64_t layer, const int64_t* sequences, int64_t b,
                            int64_t s) {
  return guarded(book, [&](Book& the) { return the.append(layer, {sequences, size_t(b)}, s); });
}

wl_status wl_kv_book_rebuild(wl_kv_book* book, int64_t layer, int64_t sequence, int64_t length,
                             const int32_t* source, const int32_t* widths) {
  return guarded(book, [&](Book& b) { return b.rebuild(layer, sequence, length, source, widths); });
}

wl_status wl_kv_book_place(wl_kv_book* book, int64_t layer, int64_t sequence, int64_t length,
                           const int32_t* widths) {
  return guarded(book, [&](Book& b) { return b.place(layer, sequence, length, widths); });
}

wl_status wl_kv_book_own(wl_kv_book* book, int64_t layer, int64_t sequence) {
  return guarded(book, [&](Book& b) { return b.own(layer, sequence); });
}

wl_status wl_kv_book_next(wl_kv_book* book, int32_t* more) {
  return guarded(book, [&](Book& b) {
    bool found = false;
    const wl_status status = b.next(&found);
    *more = found;
    return status;
  });
}

wl_status wl_kv_book_commit(wl_kv_book* book) {
  return guarded(book, [&](Book& b) {
    b.commit();
    return WL_OK;
  });
}

wl_status wl_kv_book_abort(wl_kv_book* book) {
  return guarded(book, [&](Book& b) {
    b.abort();
    return WL_OK;
  });
}

wl_status wl_kv_book_shrink(wl_kv_book* book, int64_t layer, int64_t sequence, const int32_t* bits,
                            const int64_t* indices, int64_t index_count, const int64_t* heads,
                            int64_t head_count, int32_t shared) {
  return guarded(book, [&](Book& b) {
    return b.shrink(layer, sequence, bits, {indices, size_t(index_count)},
                    {heads, size_t(head_count)}, shared != 0);
  });
}

wl_status wl_kv_book_settle(wl_kv_book* book) {
  return guarded(book, [&](Book& b) {
    b.settle();
    return WL_OK;
  });
}

wl_status wl_kv_book_settle_done(wl_kv_book* book, const int32_t* tags) {
  return guarded(book, [&](Book& b) {
    b.settle_done(tags);
    return WL_OK;
  });
}

wl_status wl_kv_book_moved(wl_kv_book* book) {
  return guarded(book, [&](Book& b) {
    b.moved();
    return WL_OK;
  });
}

wl_status wl_kv_book_set_bits(wl_kv_book* book, int64_t layer, const int32_t* bits) {
  WL_RETURN_IF_ERROR(check_width("key bits", bits[0]));
  WL_RETURN_IF_ERROR(check_width("value bits", bits[1]));
  return guarded(book, [&](Book& b) { return b.set_bits(layer, bits); });
}

wl_status wl_kv_book_tables(wl_kv_book* book, int64_t layer, const int64_t* sequences, int64_t b,
                            int32_t* table, int64_t columns, int32_t* lengths) {
  return guarded(book, [&](Book& the) {
    return the.tables(layer, {sequences, size_t(b)}, table, columns, lengths);
  });
}

wl_status wl_kv_book_row_of(wl_kv_book* book, int64_t layer, int64_t sequence,
                            wl_kv_book_row* row) {
  WL_RETURN_IF_ERROR(check_out(row));
  return guarded(book, [&](Book& b) { return b.row_of(layer, sequence, row); });
}

wl_status wl_kv_book_usage_of(wl_kv_book* book, int64_t layer, wl_kv_book_usage* usage) {
  WL_RETURN_IF_ERROR(check_out(usage));
  return guarded(book, [&](Book& b) { return b.usage(layer, usage); });
}

wl_status wl_kv_book_check(wl_kv_book* book) {
  return guarded(book, [&](Book& b) { return b.check(); });
}

wl_status wl_kv_book_read(wl_kv_book* book, wl_kv_book_view* view) {
  WL_RETURN_IF_ERROR(check_out(view));
  return guarded(book, [&](Book& b) {
    b.view(view);
    return WL_OK;
  });
}
}
