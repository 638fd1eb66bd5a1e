// Appends, and the pages that a rebuild writes: planned as a whole, applied piece by piece, so that
// pages are quantized as soon as they may be and their bytes serve the next ones.
#include <algorithm>

#include "kv_cache/book.h"

namespace warploom::kv_cache {

// The same walk as next_of_append's, in numbers: a page is taken when its first position is
// written, and gives bytes back once it and the positions after it have left the window.
Book::Demand Book::demand_of_append(int64_t layer, const std::vector<Row*>& rows, int64_t s) const {
  Demand demand;
  Units now{};
  std::unordered_map<int32_t, int32_t> left, cooled;  // of shared pages, by rows before this one
  const auto& bits = layers_[layer].bits;
  const auto give_back = [&](int side, int width) {
    now[class_of(side)] -= units_of(width) - units_of(std::min(width, bits[side]));
  };
  for (const Row* row : rows) {
    const int64_t end = row->length + s, had = int64_t(row->pages.size());
    int64_t copied = -1;
    for (int64_t at = row->length / p_.page; at * p_.page < end; ++at) {
      const int64_t from = std::max(row->length, at * p_.page);
      const int64_t to = std::min(end, (at + 1) * p_.page);
      bool takes = at >= had;
      if (!takes && pages_[row->pages[at]].refs > 1 &&
          pages_[row->pages[at]].refs - left[row->pages[at]]++ > 1) {
        takes = true;
        copied = at;
      }
      if (takes) {
        ++demand.pages;
        const Units units = units_of_page();
        for (int c = 0; c < classes_; ++c) {
          now[c] += units[c];
          demand.all[c] += units[c];
          demand.peak[c] = std::max(demand.peak[c], now[c]);
        }
      }
      for (int64_t n = std::max(cold_of(from), sink_pages()); n < cold_of(to); ++n) {
        const bool fresh = n >= had || n == copied;
        const int32_t page = fresh ? -1 : row->pages[n];
        if (!fresh && pages_[page].hot > 1 && pages_[page].hot - cooled[page]++ > 1) continue;
        for (int64_t head = 0; head < p_.hk; ++head) {
          for (int side = 0; side < 2; ++side) {
            give_back(side, fresh ? 16 : width_of(block_of(page, head, side)));
          }
        }
      }
    }
  }
  return demand;
}

wl_status Book::append(int64_t layer, std::span<const int64_t> ids, int64_t s) {
  using ll = long long;
  abort();
  missing_ = 0;
  WL_RETURN_IF_ERROR(check_layer(layer));
  if (s < 0) return fail(WL_INVALID, "s is %lld: must not be negative", ll(s));
  writing_.targets.clear();
  ++stamp_;
  for (const int64_t id : ids) {
    Sequence* sequence;
    WL_RETURN_IF_ERROR(find(id, &sequence));
    if (sequence->stamp == stamp_) {
      return fail(WL_INVALID, "sequence %lld is named twice: must differ from the others", ll(id));
    }
    sequence->stamp = stamp_;
    writing_.targets.push_back(&sequence->rows[layer]);
  }
  // A step within pages that are there needs nothing looked at.
  bool fits = true;
  for (const Row* row : writing_.targets) {
    const int64_t open = row->length % p_.page;
    fits = fits && open && open + s < p_.page && pages_[row->pages.back()].refs == 1;
  }
  if (!fits) {
    const Demand demand = demand_of_append(layer, writing_.targets, s);
    WL_RETURN_IF_ERROR(make_room(demand, "the append"));
    fits = true;
    for (int c = 0; c < classes_; ++c) fits = fits && slabs_[c].free_units() >= demand.all[c];
  }
  writing_.layer = layer;
  writing_.s = s;
  writing_.target = s > 0 ? 0 : ids.size();
  writing_.done = 0;
  writing_.whole = fits;
  writing_.rebuilding = false;
  return WL_OK;
}

// Pages for positions [from, to) of a row, and their slots.
void Book::reserve(Row* row, int64_t from, int64_t to) {
  while (from < to) {
    const int64_t at = from / p_.page, end = std::min(to, (at + 1) * p_.page);
    const int32_t old = at < int64_t(row->pages.size()) ? row->pages[at] : -1;
    int32_t page = old;
    bool cools = false;
    if (old < 0 || pages_[old].refs > 1) {
      page = take_page(writing_.layer);
      if (old >= 0) {
        copy_page(old, page);
        --pages_[old].refs;
        cools = --pages_[old].hot == 0;
      }
      reserved_.push_back({row, at, page, old, cools});
    }
    for (; from < end; ++from) piece_slots_.push_back(page * p_.page + from % p_.page);
  }
}

bool Book::next_of_append() {
  if (writing_.target >= writing_.targets.size()) return false;
  if (writing_.whole) {
    for (Row* row : writing_.targets) {
      reserve(row, row->length, row->length + writing_.s);
      extents_.push_back({row, row->length + writing_.s});
    }
    target_ = -1, first_ = 0, rows_ = writing_.s;
    writing_.target = writing_.targets.size();
    return true;
  }
  Row* row = writing_.targets[writing_.target];
  const int64_t end = row->length + writing_.s - writing_.done;
  int64_t to = row->length;
  while (to < end) {
    const int64_t at = to / p_.page;
    const bool there = at < int64_t(row->pages.size()) && pages_[row->pages[at]].refs == 1;
    if (!there && !room_for_a_page()) break;
    const int64_t until = std::min(end, (at + 1) * p_.page);
    reserve(row, to, until);
    to = until;
  }
  extents_.push_back({row, to});
  target_ = int64_t(writing_.target), first_ = writing_.done, rows_ = to - row->length;
  writing_.done += rows_;
  if (to == end) {
    ++writing_.target;
    writing_.done = 0;
  }
  return true;
}

// The next hole of what the row becomes; `done` counts places, and `first_` rows that were written
// before. Without holes the row becomes it.
bool Book::next_of_rebuild() {
  Row& made = writing_.made;
  while (writing_.done < int64_t(made.pages.size()) && made.pages[writing_.done] >= 0) {
    ++writing_.done;
  }
  const int64_t at = writing_.done;
  if (at == int64_t(made.pages.size())) {
    install();
    return false;
  }
  first_ += rows_;
  target_ = 0, rows_ = 0;
  if (!room_for_a_page()) return true;
  const int32_t page = take_page(writing_.layer);
  reserved_.push_back({&made, at, page, -1, false});
  rows_ = std::min(p_.page, made.length - at * p_.page);
  for (int64_t n = 0; n < rows_; ++n) piece_slots_.push_back(page * p_.page + n);
  return true;
}

void Book::install() {
  Row& row = *writing_.targets[0];
  Row& made = writing_.made;
  for (const int32_t page : writing_.written) {  // counted below, with those that stay
    pages_[page].refs = pages_[page].hot = 0;
  }
  for (int64_t at = 0; at < int64_t(made.pages.size()); ++at) {
    Page& page = pages_[made.pages[at]];
    ++page.refs;
    if (is_hot(made, at)) ++page.hot;
  }
  drop(row);
  row = std::move(made);
  writing_.written.clear();
  chill();
}

wl_status Book::next(bool* more) {
  reserved_.clear();
  extents_.clear();
  piece_slots_.clear();
  *more = writing_.rebuilding ? next_of_rebuild() : next_of_append();
  if (*more && rows_ == 0) {
    return fail(WL_INVALID, "the piece before was not settled: must be, for its bytes to be free");
  }
  if (!*more) writing_ = {};
  return WL_OK;
}

void Book::commit() {
  for (const Reserved& r : reserved_) {
    if (r.at == int64_t(r.row->pages.size())) {
      r.row->pages.push_back(r.page);
    } else {
      r.row->pages[r.at] = r.page;
    }
    if (r.cools) cooled_.push_back(r.old);
    if (!writing_.rebuilding) continue;
    writing_.written.push_back(r.page);
    if (is_hot(*r.row, r.at)) continue;
    pages_[r.page].hot = 0;
    for (int64_t n = 0; n < 2 * p_.hk; ++n) {
      plan(int32_t(r.page * p_.hk * 2 + n), writing_.widths[r.at * p_.hk * 2 + n]);
    }
  }
  for (const Extent& e : extents_) extend(*e.row, e.length);
  reserved_.clear();
  extents_.clear();
  chill();
}

void Book::abort() {
  for (auto r = reserved_.rbegin(); r != reserved_.rend(); ++r) {
    release_page(r->page);
    if (r->old >= 0) {
      ++pages_[r->old].refs;
      ++pages_[r->old].hot;
    }
  }
  for (const int32_t page : writing_.written) release_page(page);
  reserved_.clear();
  extents_.clear();
  writing_ = {};
}

void Book::extend(Row& row, int64_t length) {
  row.length = length;
  const int64_t cold = cold_of(length);
  for (int64_t at = std::max(row.cold, sink_pages()); at < cold; ++at) {
    if (--pages_[row.pages[at]].hot == 0) cooled_.push_back(row.pages[at]);
  }
  row.cold = std::max(row.cold, cold);
}

}  // namespace warploom::kv_cache
