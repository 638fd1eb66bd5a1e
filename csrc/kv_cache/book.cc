#include "kv_cache/book.h"

#include <algorithm>

namespace warploom::kv_cache {
namespace {

using ll = long long;

}  // namespace

wl_status Book::check_layer(int64_t layer) const {
  if (layer >= 0 && layer < p_.layers) return WL_OK;
  return fail(WL_INVALID, "layer is %lld: must be from 0 to %lld", ll(layer), ll(p_.layers) - 1);
}

wl_status Book::find(int64_t id, Sequence** sequence) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) {
    return fail(WL_INVALID, "unknown sequence %lld: must be one that was added and is not freed",
                ll(id));
  }
  *sequence = &found->second;
  return WL_OK;
}

wl_status Book::find(int64_t layer, int64_t id, Row** row) {
  WL_RETURN_IF_ERROR(check_layer(layer));
  Sequence* sequence;
  WL_RETURN_IF_ERROR(find(id, &sequence));
  *row = &sequence->rows[layer];
  return WL_OK;
}

int64_t Book::add() {
  sequences_[next_id_].rows.resize(p_.layers);
  return next_id_++;
}

// The same pages, which now have one sequence more.
Book::Sequence Book::share(const Sequence& sequence) {
  for (const Row& row : sequence.rows) {
    for (int64_t at = 0; at < int64_t(row.pages.size()); ++at) {
      Page& page = pages_[row.pages[at]];
      ++page.refs;
      if (is_hot(row, at)) ++page.hot;
    }
  }
  return sequence;
}

void Book::leave(int32_t page, bool hot) {
  Page& p = pages_[page];
  const bool cools = hot && --p.hot == 0;
  if (--p.refs == 0) {
    release_page(page);
  } else if (cools) {
    cooled_.push_back(page);
  }
}

void Book::drop(Row& row) {
  for (int64_t at = 0; at < int64_t(row.pages.size()); ++at) {
    leave(row.pages[at], is_hot(row, at));
  }
}

wl_status Book::fork(int64_t id, int64_t* made) {
  Sequence* sequence;
  WL_RETURN_IF_ERROR(find(id, &sequence));
  Sequence copy = share(*sequence);
  sequences_.emplace(next_id_, std::move(copy));
  *made = next_id_++;
  return WL_OK;
}

wl_status Book::free(int64_t id) {
  Sequence* sequence;
  WL_RETURN_IF_ERROR(find(id, &sequence));
  abort();
  for (Row& row : sequence->rows) drop(row);
  sequences_.erase(id);
  chill();
  return WL_OK;
}

wl_status Book::reorder(std::span<const int64_t> ids, std::span<const int64_t> from) {
  abort();
  std::vector<Sequence*> all;
  ++stamp_;
  for (size_t n = 0; n < ids.size(); ++n) {
    Sequence* sequence;
    WL_RETURN_IF_ERROR(find(ids[n], &sequence));
    if (sequence->stamp == stamp_) {
      return fail(WL_INVALID, "sequence %lld is named twice: must differ from the others",
                  ll(ids[n]));
    }
    sequence->stamp = stamp_;
    all.push_back(sequence);
    if (from[n] < 0 || from[n] >= int64_t(ids.size())) {
      return fail(WL_INVALID, "index[%zu] is %lld: must be from 0 to %zu", n, ll(from[n]),
                  ids.size() - 1);
    }
  }
  std::vector<Sequence> made;
  for (const int64_t n : from) made.push_back(share(*all[n]));
  for (size_t n = 0; n < ids.size(); ++n) {
    for (Row& row : all[n]->rows) drop(row);
    *all[n] = std::move(made[n]);
  }
  chill();
  return WL_OK;
}

// Pages get the layer's width when the last sequence that wanted them in 16 bits lets go, and only
// then: those that have been cold since before `set_bits` wait for `shrink`.
void Book::chill() {
  for (const int32_t page : cooled_) {
    const Page& p = pages_[page];
    if (p.refs == 0 || p.hot > 0) continue;
    for (int64_t n = 0; n < 2 * p_.hk; ++n) {
      plan(int32_t(page * p_.hk * 2 + n), layers_[p.layer].bits[n % 2]);
    }
  }
  cooled_.clear();
}

// A block is listed once: codes that are taken for bfloat16, or halved twice, are garbage.
void Book::plan(int32_t block, int bits) {
  const int width = width_of(block);
  if (width <= bits) return;
  auto& blocks = width == 16 ? quantize_ : shrink_;
  auto& widths = width == 16 ? quantize_bits_ : shrink_bits_;
  if (listed_[block]) {
    int32_t& listed = widths[std::find(blocks.begin(), blocks.end(), block) - blocks.begin()];
    listed = std::min(listed, int32_t(bits));
    return;
  }
  listed_[block] = true;
  blocks.push_back(block);
  widths.push_back(bits);
}

// Nothing is to be done to a page that is gone: its blocks' bytes may be another's.
void Book::unlist(int32_t page) {
  const auto drop_from = [&](std::vector<int32_t>& blocks, std::vector<int32_t>& bits) {
    size_t kept = 0;
    for (size_t n = 0; n < blocks.size(); ++n) {
      if (blocks[n] / (2 * p_.hk) == page) {
        listed_[blocks[n]] = false;
        continue;
      }
      blocks[kept] = blocks[n];
      bits[kept++] = bits[n];
    }
    blocks.resize(kept);
    bits.resize(kept);
  };
  drop_from(quantize_, quantize_bits_);
  drop_from(shrink_, shrink_bits_);
}

void Book::narrow(int32_t block, int bits) {
  const int32_t side = block % 2;
  const int64_t unit = unit_of(block);
  Layer& layer = layers_[pages_[block / (2 * p_.hk)].layer];
  layer.units[side] -= units_of(width_of(block)) - units_of(bits);
  slabs_[class_of(side)].shrink(unit, units_of(bits));
  set_tag(block, unit, bits);
}

void Book::settle() {
  const auto apply = [&](std::vector<int32_t>& blocks, std::vector<int32_t>& bits) {
    for (size_t n = 0; n < blocks.size(); ++n) {
      narrow(blocks[n], bits[n]);
      listed_[blocks[n]] = false;
    }
    blocks.clear();
    bits.clear();
  };
  apply(quantize_, quantize_bits_);
  apply(shrink_, shrink_bits_);
}

// The ops failed. A block whose tag they wrote has its codes; the others are what they were.
void Book::settle_done(const int32_t* tags) {
  if (!tags) tags = p_.arena ? reinterpret_cast<const int32_t*>(p_.arena) : tags_.data();
  const auto apply = [&](std::vector<int32_t>& blocks, std::vector<int32_t>& bits) {
    for (const int32_t block : blocks) {
      const int width = 2 << (tags[block] & 3);
      if (width < width_of(block)) narrow(block, width);
      listed_[block] = false;
    }
    blocks.clear();
    bits.clear();
  };
  apply(quantize_, quantize_bits_);
  apply(shrink_, shrink_bits_);
}

wl_status Book::set_bits(int64_t layer, const int32_t* bits) {
  WL_RETURN_IF_ERROR(check_layer(layer));
  layers_[layer].bits = {bits[0], bits[1]};
  return WL_OK;
}

wl_status Book::tables(int64_t layer, std::span<const int64_t> ids, int32_t* table, int64_t columns,
                       int32_t* lengths) {
  for (size_t n = 0; n < ids.size(); ++n) {
    Row* row;
    WL_RETURN_IF_ERROR(find(layer, ids[n], &row));
    if (int64_t(row->pages.size()) > columns) {
      return fail(WL_INVALID, "columns is %lld: sequence %lld has %zu pages", ll(columns),
                  ll(ids[n]), row->pages.size());
    }
    int32_t* end = std::copy(row->pages.begin(), row->pages.end(), table + n * columns);
    std::fill(end, table + (n + 1) * columns, -1);
    lengths[n] = int32_t(row->length);
  }
  return WL_OK;
}

wl_status Book::row_of(int64_t layer, int64_t id, wl_kv_book_row* out) {
  Row* row;
  WL_RETURN_IF_ERROR(find(layer, id, &row));
  out->length = row->length;
  out->cold = row->cold;
  out->pages = row->pages.data();
  out->page_count = int64_t(row->pages.size());
  return WL_OK;
}

wl_status Book::usage(int64_t layer, wl_kv_book_usage* out) const {
  if (layer != -1) WL_RETURN_IF_ERROR(check_layer(layer));
  out->pages = out->block_bytes = out->free_bytes = 0;
  for (int64_t n = 0; n < p_.layers; ++n) {
    if (layer != -1 && layer != n) continue;
    out->pages += layers_[n].pages;
    for (int side = 0; side < 2; ++side) {
      out->block_bytes += layers_[n].units[side] * unit_bytes_[side];
    }
  }
  out->metadata_bytes = out->pages * page_metadata();
  for (int c = 0; c < classes_; ++c) out->free_bytes += slabs_[c].free_units() * unit_bytes_[c];
  out->reserved_bytes = metadata_bytes(capacity_);
  out->moved_bytes = moved_bytes_;
  out->sequences = int64_t(sequences_.size());
  return WL_OK;
}

wl_status Book::check() const {
  std::vector<Page> counted(pages_.size(), Page{-1, 0, 0});
  for (const auto& [id, sequence] : sequences_) {
    for (int64_t layer = 0; layer < p_.layers; ++layer) {
      const Row& row = sequence.rows[layer];
      if (int64_t(row.pages.size()) != (row.length + p_.page - 1) / p_.page) {
        return fail(WL_INVALID, "sequence %lld has %zu pages for %lld positions in layer %lld",
                    ll(id), row.pages.size(), ll(row.length), ll(layer));
      }
      for (int64_t at = 0; at < int64_t(row.pages.size()); ++at) {
        Page& page = counted[row.pages[at]];
        page.layer = int32_t(layer);
        ++page.refs;
        page.hot += is_hot(row, at);
      }
    }
  }
  for (const int32_t page : writing_.written) {  // of a rebuild under way: nobody's yet
    counted[page] = {int32_t(writing_.layer), 1, pages_[page].hot};
  }
  Units units{};
  std::vector<Layer> layers(p_.layers);
  int64_t used = 0;
  for (size_t id = 0; id < pages_.size(); ++id) {
    const Page &here = pages_[id], &there = counted[id];
    if (here.refs != there.refs ||
        (here.refs && (here.hot != there.hot || here.layer != there.layer))) {
      return fail(WL_INVALID, "page %zu has %d sequences, %d in 16 bits: counted %d and %d", id,
                  here.refs, here.hot, there.refs, there.hot);
    }
    used += here.refs > 0;
    for (int64_t n = 0; n < 2 * p_.hk; ++n) {
      const int32_t block = int32_t(id * p_.hk * 2 + n);
      if ((tags_[block] >= 0) != (here.refs > 0)) {
        return fail(WL_INVALID, "page %zu has %d sequences and tag %d", id, here.refs,
                    tags_[block]);
      }
      if (here.refs == 0) continue;
      const int side = int(n % 2), width = width_of(block);
      units[class_of(side)] += units_of(width);
      layers[here.layer].units[side] += units_of(width);
      if (!slabs_[class_of(side)].holds(unit_of(block), units_of(width), block)) {
        return fail(WL_INVALID, "page %zu, block %lld: its place is not booked as its own", id,
                    ll(n));
      }
    }
    if (here.refs > 0) ++layers[here.layer].pages;
  }
  for (int64_t n = 0; n < p_.layers; ++n) {
    if (layers[n].pages == layers_[n].pages && layers[n].units == layers_[n].units) continue;
    return fail(WL_INVALID,
                "layer %lld has %lld pages, %lld and %lld units: counted %lld, %lld and %lld",
                ll(n), ll(layers_[n].pages), ll(layers_[n].units[0]), ll(layers_[n].units[1]),
                ll(layers[n].pages), ll(layers[n].units[0]), ll(layers[n].units[1]));
  }
  for (int c = 0; c < classes_; ++c) {
    if (units[c] + slabs_[c].free_units() == slots_ * kUnits) continue;
    return fail(WL_INVALID, "%lld units are used and %lld free: must be %lld", ll(units[c]),
                ll(slabs_[c].free_units()), ll(slots_ * kUnits));
  }
  if (used + int64_t(free_pages_.size()) == int64_t(pages_.size())) return WL_OK;
  return fail(WL_INVALID, "%lld pages are used and %zu free: must be %zu", ll(used),
              free_pages_.size(), pages_.size());
}

void Book::view(wl_kv_book_view* out) const {
  out->capacity = capacity_;
  out->quantum_bytes = quantum_bytes_;
  out->key_grids = key_grids_at(capacity_);
  out->value_grids = value_grids_at(capacity_);
  out->tags = tags_.data();
  out->tags_version = tags_version_;
  out->moves = moves_.data();
  out->move_count = int64_t(moves_.size());
  out->slots = piece_slots_.data();
  out->slot_count = int64_t(piece_slots_.size());
  out->target = target_;
  out->first = first_;
  out->rows = rows_;
  out->quantize = quantize_.data();
  out->quantize_bits = quantize_bits_.data();
  out->quantize_count = int64_t(quantize_.size());
  out->shrink = shrink_.data();
  out->shrink_bits = shrink_bits_.data();
  out->shrink_count = int64_t(shrink_.size());
  out->missing = missing_;
}

}  // namespace warploom::kv_cache
