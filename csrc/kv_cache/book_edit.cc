// What changes pages that are there: shrinking them, keeping some of their positions, making them a
// sequence's own; and pages that come from elsewhere.
#include <algorithm>

#include "kv_cache/book.h"

namespace warploom::kv_cache {
namespace {

using ll = long long;

}  // namespace

wl_status Book::shrink(int64_t layer, int64_t id, const int32_t* bits,
                       std::span<const int64_t> indices, std::span<const int64_t> heads,
                       bool shared) {
  abort();
  Row* row;
  WL_RETURN_IF_ERROR(find(layer, id, &row));
  const int64_t count = int64_t(row->pages.size());
  std::vector<bool> seen(count), chosen(p_.hk, heads.data() == nullptr);
  for (const int64_t head : heads) {
    if (head < 0 || head >= p_.hk) {
      return fail(WL_INVALID, "heads holds %lld: must be from 0 to %lld", ll(head), ll(p_.hk) - 1);
    }
    chosen[head] = true;
  }
  for (const int64_t at : indices) {
    if (at < 0 || at >= count) {
      return fail(WL_INVALID, "pages holds %lld: sequence %lld has pages 0 to %lld in layer %lld",
                  ll(at), ll(id), ll(count) - 1, ll(layer));
    }
    seen[at] = true;
  }
  for (int64_t at = 0; at < count; ++at) {
    if (indices.data() && !seen[at]) continue;
    const Page& page = pages_[row->pages[at]];
    if (page.hot > 0 || (page.refs > 1 && !shared)) continue;
    for (int64_t head = 0; head < p_.hk; ++head) {
      if (!chosen[head]) continue;
      for (int side = 0; side < 2; ++side) {
        plan(block_of(row->pages[at], head, side), bits[side]);
      }
    }
  }
  // New pages lie below older ones: the other way round, memory is mostly read upwards.
  for (auto* list : {&quantize_, &quantize_bits_, &shrink_, &shrink_bits_}) {
    std::reverse(list->begin(), list->end());
  }
  return WL_OK;
}

wl_status Book::rebuild(int64_t layer, int64_t id, int64_t length, const int32_t* source,
                        const int32_t* widths) {
  abort();
  Row* row;
  WL_RETURN_IF_ERROR(find(layer, id, &row));
  if (length < 0 || length > row->length) {
    return fail(WL_INVALID, "length is %lld: must be from 0 to %lld", ll(length), ll(row->length));
  }
  const int64_t count = (length + p_.page - 1) / p_.page, had = int64_t(row->pages.size());
  Demand demand;
  Units now{};
  int64_t before = -1;
  for (int64_t at = 0; at < count; ++at) {
    if (source[at] < 0) continue;
    if (source[at] <= before || source[at] >= had) {
      return fail(WL_INVALID, "source[%lld] is %d: must be from %lld to %lld, or -1", ll(at),
                  source[at], ll(before + 1), ll(had - 1));
    }
    before = source[at];
  }
  // Beside the pages that are there: those go when all is written, so that nothing is lost before.
  const int64_t cold = cold_of(length), whole = units_of(16);
  for (int64_t at = 0; at < count; ++at) {
    if (source[at] >= 0) continue;
    ++demand.pages;
    const Units units = units_of_page();
    for (int c = 0; c < classes_; ++c) {
      now[c] += units[c];
      demand.peak[c] = std::max(demand.peak[c], now[c]);
    }
    if (at >= cold || at < sink_pages()) continue;
    for (int64_t n = 0; n < 2 * p_.hk; ++n) {
      now[class_of(int(n % 2))] -= whole - units_of(widths[at * p_.hk * 2 + n]);
    }
  }
  WL_RETURN_IF_ERROR(make_room(demand, "the rebuild"));

  writing_ = {};
  writing_.made.length = length;
  writing_.made.cold = cold;
  for (int64_t at = 0; at < count; ++at) {
    writing_.made.pages.push_back(source[at] < 0 ? -1 : row->pages[source[at]]);
  }
  writing_.layer = layer;
  writing_.targets = {row};
  writing_.rebuilding = true;
  writing_.widths.assign(widths, widths + count * p_.hk * 2);
  first_ = rows_ = 0;
  return WL_OK;
}

void Book::count_page(Demand& demand, const int32_t* widths) const {
  ++demand.pages;
  for (int64_t n = 0; n < 2 * p_.hk; ++n) {
    demand.peak[class_of(int(n % 2))] += units_of(widths[n]);
  }
}

// Pages for a sequence that has none in this layer; what they hold is copied from elsewhere.
wl_status Book::place(int64_t layer, int64_t id, int64_t length, const int32_t* widths) {
  abort();
  Row* row;
  WL_RETURN_IF_ERROR(find(layer, id, &row));
  if (row->length > 0) {
    return fail(WL_INVALID, "sequence %lld has %lld positions in layer %lld: must have none",
                ll(id), ll(row->length), ll(layer));
  }
  const int64_t count = (length + p_.page - 1) / p_.page;
  Demand demand;
  for (int64_t at = 0; at < count; ++at) count_page(demand, widths + at * p_.hk * 2);
  WL_RETURN_IF_ERROR(make_room(demand, "the copy"));
  row->length = length;
  row->cold = cold_of(length);
  for (int64_t at = 0; at < count; ++at) {
    row->pages.push_back(take_page(layer, widths + at * p_.hk * 2));
    pages_[row->pages.back()].hot = is_hot(*row, at);
  }
  return WL_OK;
}

// Copies of the pages that others share, for a sequence that is to write to all of its own.
wl_status Book::own(int64_t layer, int64_t id) {
  abort();
  Row* row;
  WL_RETURN_IF_ERROR(find(layer, id, &row));
  const auto widths_of = [&](int32_t page) {
    std::vector<int32_t> widths;
    for (int64_t n = 0; n < 2 * p_.hk; ++n) {
      widths.push_back(width_of(int32_t(page * p_.hk * 2 + n)));
    }
    return widths;
  };
  Demand demand;
  for (const int32_t page : row->pages) {
    if (pages_[page].refs > 1) count_page(demand, widths_of(page).data());
  }
  WL_RETURN_IF_ERROR(make_room(demand, "the copy of shared pages"));
  for (int64_t at = 0; at < int64_t(row->pages.size()); ++at) {
    const int32_t old = row->pages[at];
    if (pages_[old].refs == 1) continue;
    const int32_t page = take_page(layer, widths_of(old).data());
    copy_page(old, page);
    pages_[page].hot = is_hot(*row, at);
    row->pages[at] = page;
    leave(old, pages_[page].hot > 0);
  }
  chill();
  return WL_OK;
}

}  // namespace warploom::kv_cache
