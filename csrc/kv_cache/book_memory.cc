// The arena: where blocks, tags and grids lie.
#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kv_cache/book.h"

namespace warploom::kv_cache {
namespace {

using ll = long long;

// Blocks of a page lie apart, so reading one cache touches far more pages of memory than a plain
// array of its size: fewer, larger ones are asked for.
void advise_large_pages(uint8_t* arena, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kLarge = 2 << 20;
  const uintptr_t first = (uintptr_t(arena) + kLarge - 1) / kLarge * kLarge;
  const uintptr_t last = (uintptr_t(arena) + bytes) / kLarge * kLarge;
  if (arena && first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace

// A slot is the slab of a 16 bit block. Where keys and values differ in size, it is one of each,
// and they take nothing from each other.
Book::Book(const wl_kv_book_params& params) : p_(params) {
  const std::array<int64_t, 2> units = {p_.page * p_.d / 4, p_.page * p_.dv / 4};  // 2 bit blocks
  classes_ = p_.d == p_.dv ? 1 : 2;
  quantum_bytes_ = quantum_bytes_of(p_);
  unit_bytes_ = units;
  for (int side = 0; side < 2; ++side) unit_quanta_[side] = units[side] / quantum_bytes_;
  offset_quanta_ = {0, kUnits * unit_quanta_[0]};
  slot_quanta_ = kUnits * unit_quanta_[0] + (classes_ == 2 ? kUnits * unit_quanta_[1] : 0);
  quanta_ = p_.arena_bytes / quantum_bytes_;
  const int64_t key_grids =
      p_.keys_per_channel ? p_.page / p_.key_group * p_.d : p_.d / p_.key_group * p_.page;
  key_grid_bytes_ = key_grids * 4;
  value_grid_bytes_ = p_.dv / p_.value_group * p_.page * 4;
  slots_ = slots_beside(0);
  for (int c = 0; c < classes_; ++c) {
    slabs_.emplace_back(slots_, [this](int32_t block, int64_t, int64_t to, int size) {
      relocate(block, to, size);
    });
  }
  advise_large_pages(p_.arena, p_.arena_bytes);
  layers_.resize(p_.layers, Layer{{p_.key_bits, p_.value_bits}});
}

int64_t Book::slots_beside(int64_t metadata) const {
  return std::max<int64_t>(quanta_ * quantum_bytes_ - metadata, 0) /
         (slot_quanta_ * quantum_bytes_);
}

int64_t Book::quantum_of(int side, int64_t unit) const {
  const int c = class_of(side);
  return quanta_ - (unit / kUnits + 1) * slot_quanta_ + offset_quanta_[c] +
         unit % kUnits * unit_quanta_[c];
}

int64_t Book::unit_of(int32_t block) const {
  const int c = class_of(block % 2);
  const int64_t quantum = tags_[block] >> 2, slot = (quanta_ - 1 - quantum) / slot_quanta_;
  const int64_t within = quantum - (quanta_ - (slot + 1) * slot_quanta_) - offset_quanta_[c];
  return slot * kUnits + within / unit_quanta_[c];
}

void Book::set_tag(int32_t block, int64_t unit, int width) {
  const int32_t tag =
      unit < 0 ? WL_KV_NO_BLOCK
               : int32_t(quantum_of(block % 2, unit) * 4 + std::countr_zero(unsigned(width)) - 1);
  tags_[block] = tag;
  if (p_.arena) std::memcpy(p_.arena + int64_t{block} * 4, &tag, 4);
}

void Book::move_bytes(int64_t from, int64_t to, int64_t bytes) {
  if (p_.arena) {
    std::memmove(p_.arena + to, p_.arena + from, bytes);
  } else {
    moves_.push_back({from, to, bytes});
  }
}

// Another place for a block, of the same width.
void Book::relocate(int32_t block, int64_t to, int units) {
  const int64_t from = int64_t{tags_[block] >> 2} * quantum_bytes_;
  set_tag(block, to, width_of(block));
  ++tags_version_;
  const int64_t bytes = units * unit_bytes_[class_of(block % 2)];
  move_bytes(from, int64_t{tags_[block] >> 2} * quantum_bytes_, bytes);
  moved_bytes_ += bytes;
}

Book::Units Book::units_of_page() const {
  const int64_t units = p_.hk * kUnits;
  return classes_ == 1 ? Units{2 * units, 0} : Units{units, units};
}

bool Book::room_for_a_page() const {
  const Units needed = units_of_page();
  for (int c = 0; c < classes_; ++c) {
    if (slabs_[c].free_units() < needed[c]) return false;
  }
  return true;
}

// Room for tags and grids of the pages that are demanded, and the certainty that their blocks fit.
wl_status Book::make_room(const Demand& demand, const char* what) {
  missing_ = 0;
  const int64_t wanted = std::max<int64_t>(
      int64_t(pages_.size()) + demand.pages - int64_t(free_pages_.size()), int64_t(pages_.size()));
  const auto lacking = [&](int64_t capacity) {
    const int64_t lost = std::max<int64_t>(slots_ - slots_beside(metadata_bytes(capacity)), 0);
    int64_t bytes = 0;
    for (int c = 0; c < classes_; ++c) {
      const int64_t free = slabs_[c].free_units() - lost * kUnits;
      bytes += std::max<int64_t>(demand.peak[c] - free, 0) * unit_bytes_[c];
    }
    return bytes;
  };
  // Generously where that fits: growing copies all tags and grids.
  const int64_t generous = wanted + wanted / 8 + 16;
  const bool grows = wanted > capacity_;
  const int64_t capacity = !grows ? capacity_ : lacking(generous) == 0 ? generous : wanted;
  missing_ = lacking(capacity);
  if (missing_ > 0) {
    return fail(WL_MEMORY, "pages exhausted: %s lacks %lld bytes, and nothing of it is applied",
                what, ll(missing_));
  }
  if (grows) grow(capacity);
  return WL_OK;
}

void Book::grow(int64_t capacity) {
  const int64_t slots = std::min(slots_, slots_beside(metadata_bytes(capacity)));
  if (slots < slots_) {
    for (Slabs& slabs : slabs_) slabs.withdraw(slots);
    slots_ = slots;
  }
  move_bytes(value_grids_at(capacity_), value_grids_at(capacity),
             capacity_ * p_.hk * value_grid_bytes_);
  move_bytes(key_grids_at(capacity_), key_grids_at(capacity), capacity_ * p_.hk * key_grid_bytes_);
  capacity_ = capacity;
  tags_.resize(capacity * p_.hk * 2, WL_KV_NO_BLOCK);
  listed_.resize(tags_.size(), false);
  if (p_.arena) std::memcpy(p_.arena, tags_.data(), tags_.size() * 4);
  ++tags_version_;
}

// A page that one sequence has, and wants in 16 bits; of other widths [hk, 2] if they are given.
int32_t Book::take_page(int64_t layer, const int32_t* widths) {
  int32_t page;
  if (free_pages_.empty()) {
    page = int32_t(pages_.size());
    pages_.push_back({});
  } else {
    page = free_pages_.back();
    free_pages_.pop_back();
  }
  pages_[page] = {int32_t(layer), 1, 1};
  ++layers_[layer].pages;
  for (int64_t head = 0; head < p_.hk; ++head) {
    for (int side = 0; side < 2; ++side) {
      const int32_t block = block_of(page, head, side);
      const int width = widths ? widths[head * 2 + side] : 16;
      set_tag(block, slabs_[class_of(side)].take(units_of(width), block), width);
      layers_[layer].units[side] += units_of(width);
    }
  }
  ++tags_version_;
  return page;
}

void Book::release_page(int32_t page) {
  unlist(page);
  Layer& layer = layers_[pages_[page].layer];
  for (int64_t head = 0; head < p_.hk; ++head) {
    for (int side = 0; side < 2; ++side) {
      const int32_t block = block_of(page, head, side);
      slabs_[class_of(side)].shrink(unit_of(block), 0);
      layer.units[side] -= units_of(width_of(block));
      set_tag(block, -1, 16);
    }
  }
  --layer.pages;
  pages_[page].refs = pages_[page].hot = 0;
  free_pages_.push_back(page);
  ++tags_version_;
}

// Blocks, of equal widths, and grids.
void Book::copy_page(int32_t from, int32_t to) {
  for (int64_t head = 0; head < p_.hk; ++head) {
    for (int side = 0; side < 2; ++side) {
      const int32_t source = block_of(from, head, side), target = block_of(to, head, side);
      move_bytes(int64_t{tags_[source] >> 2} * quantum_bytes_,
                 int64_t{tags_[target] >> 2} * quantum_bytes_,
                 units_of(width_of(source)) * unit_bytes_[class_of(side)]);
    }
  }
  const int64_t keys = p_.hk * key_grid_bytes_, values = p_.hk * value_grid_bytes_;
  move_bytes(key_grids_at(capacity_) + from * keys, key_grids_at(capacity_) + to * keys, keys);
  move_bytes(value_grids_at(capacity_) + from * values, value_grids_at(capacity_) + to * values,
             values);
}

}  // namespace warploom::kv_cache
