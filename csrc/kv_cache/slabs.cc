#include "kv_cache/slabs.h"

#include <algorithm>
#include <bit>

namespace warploom::kv_cache {
namespace {

constexpr int kSizes = 4;  // 1, 2, 4 and 8 units

constexpr uint8_t run(int first, int units) { return uint8_t(((1 << units) - 1) << first); }

// Where a block of each size goes in a slab of each occupancy: into the smallest free run, so that
// larger ones stay whole. And which occupancies have room, the fullest first.
struct Places {
  int8_t at[kSizes][256];  // -1: nowhere
  std::array<std::vector<uint8_t>, kSizes> order;

  Places() {
    for (int size = 0; size < kSizes; ++size) {
      for (int occupied = 0; occupied < 256; ++occupied) {
        at[size][occupied] = place(occupied, 1 << size);
        if (at[size][occupied] >= 0) order[size].push_back(uint8_t(occupied));
      }
      std::stable_sort(order[size].begin(), order[size].end(),
                       [](uint8_t a, uint8_t b) { return std::popcount(a) > std::popcount(b); });
    }
  }

  static int8_t place(int occupied, int units) {
    int best = -1, smallest = 2 * kUnits;
    for (int first = 0; first < kUnits; first += units) {
      if (occupied & run(first, units)) continue;
      int around = units;  // the free aligned run that this one is part of
      while (around < kUnits && !(occupied & run(first / (2 * around) * 2 * around, 2 * around))) {
        around *= 2;
      }
      if (around < smallest) best = first, smallest = around;
    }
    return int8_t(best);
  }
};

const Places kPlaces;

int size_index(int units) { return std::countr_zero(unsigned(units)); }

}  // namespace

Slabs::Slabs(int64_t slabs, Mover mover)
    : mover_(std::move(mover)),
      slabs_(slabs),
      free_(slabs * kUnits),
      occupied_(slabs, 0),
      owner_(slabs * kUnits, kNobody),
      size_(slabs * kUnits, 0),
      next_(slabs),
      previous_(slabs) {
  first_of_.fill(-1);
  if (slabs > 0) first_of_[0] = 0;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    next_[slab] = slab + 1 < slabs ? slab + 1 : -1;
    previous_[slab] = slab - 1;
  }
}

// Moves a slab to the list of its new occupancy.
void Slabs::set(int64_t slab, uint8_t occupied) {
  const auto unlink = [&] {
    if (previous_[slab] >= 0) next_[previous_[slab]] = next_[slab];
    if (next_[slab] >= 0) previous_[next_[slab]] = previous_[slab];
    int64_t& first = first_of_[occupied_[slab]];
    if (first == slab) first = next_[slab];
  };
  unlink();
  free_ += std::popcount(occupied_[slab]) - std::popcount(occupied);
  occupied_[slab] = occupied;
  int64_t& first = first_of_[occupied];
  next_[slab] = first;
  previous_[slab] = -1;
  if (first >= 0) previous_[first] = slab;
  first = slab;
}

int64_t Slabs::find(int units) const {
  const int size = size_index(units);
  for (const uint8_t occupied : kPlaces.order[size]) {
    const int64_t slab = first_of_[occupied];
    if (slab >= 0) return slab * kUnits + kPlaces.at[size][occupied];
  }
  return -1;
}

void Slabs::put(int64_t unit, int units, int32_t owner) {
  owner_[unit] = owner;
  size_[unit] = uint8_t(units);
}

int64_t Slabs::take(int units, int32_t owner) {
  int64_t unit = find(units);
  if (unit >= 0) {
    const int64_t slab = unit / kUnits;
    set(slab, occupied_[slab] | run(unit % kUnits, units));
  } else {
    unit = clear(units);
  }
  put(unit, units, owner);
  return unit;
}

// A run of units, taken, out of which blocks were moved: the one with the least in it. No block is
// larger than the run or fills it, since a unit of it is free.
int64_t Slabs::clear(int units) {
  int64_t best = -1;
  int least = units;
  for (int occupied = 0; occupied < 256; ++occupied) {
    if (first_of_[occupied] < 0) continue;
    for (int first = 0; first < kUnits; first += units) {
      const int live = std::popcount(uint8_t(occupied & run(first, units)));
      if (live < least) best = first_of_[occupied] * kUnits + first, least = live;
    }
  }
  evacuate(best, units);
  return best;
}

// Moves the blocks of a run elsewhere and leaves all of it taken.
void Slabs::evacuate(int64_t first, int units) {
  const int64_t slab = first / kUnits;
  set(slab, occupied_[slab] | run(first % kUnits, units));
  for (int size = units; size >= 1; size /= 2) {
    for (int64_t from = first; from < first + units; from += size) {
      if (owner_[from] == kNobody || size_[from] != size) continue;
      const int32_t owner = owner_[from];
      const int64_t to = take(size, owner);
      mover_(owner, from, to, size);
      put(from, 0, kNobody);
    }
  }
}

void Slabs::shrink(int64_t unit, int keep) {
  const int64_t slab = unit / kUnits;
  const int first = int(unit % kUnits), units = size_[unit];
  const int freed = run(first, units) & ~run(first, keep);
  put(unit, keep, keep ? owner_[unit] : kNobody);
  set(slab, uint8_t(occupied_[slab] & ~freed));
}

void Slabs::withdraw(int64_t slabs) {
  // All of them stop serving before anything moves, so that nothing moves into them.
  std::vector<uint8_t> live;
  for (int64_t slab = slabs; slab < slabs_; ++slab) {
    live.push_back(occupied_[slab]);
    set(slab, 0xff);
  }
  for (int64_t slab = slabs; slab < slabs_; ++slab) {
    if (live[slab - slabs]) evacuate(slab * kUnits, kUnits);
  }
  slabs_ = slabs;
}

}  // namespace warploom::kv_cache
