// Blocks of one size class in slabs of eight units: a 2 bit block is one unit, a 16 bit block a
// whole slab. A block is an aligned power of two of units, so that a shrink leaves it where it
// starts and frees the rest, and any free units can be brought together by moving what lies between
// them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace warploom::kv_cache {

constexpr int kUnits = 8;
constexpr int units_of(int bits) { return bits / 2; }

class Slabs {
 public:
  // Tells of every block that is moved: whose it is, where it was and is, and its units.
  using Mover = std::function<void(int32_t owner, int64_t from, int64_t to, int units)>;

  Slabs(int64_t slabs, Mover mover);

  int64_t free_units() const { return free_; }

  // The first unit of a block; moves others where no room lies together. At least `units` are free.
  int64_t take(int units, int32_t owner);

  // Whether a block of so many units starts at `unit` and is this owner's.
  bool holds(int64_t unit, int units, int32_t owner) const {
    return owner_[unit] == owner && size_[unit] == units;
  }

  // Keeps the first `keep` units of the block that starts at `unit`; 0: none.
  void shrink(int64_t unit, int keep);

  // Takes the last slabs out of use, so that `slabs` are left. What lies in them moves: as many
  // units must be free as go.
  void withdraw(int64_t slabs);

 private:
  static constexpr int32_t kNobody = -1;

  void set(int64_t slab, uint8_t occupied);
  int64_t find(int units) const;
  int64_t clear(int units);
  void evacuate(int64_t first, int units);
  void put(int64_t unit, int units, int32_t owner);

  Mover mover_;
  int64_t slabs_, free_;
  std::vector<uint8_t> occupied_;         // of each slab, a bit to a unit
  std::vector<int32_t> owner_;            // of the block that starts at a unit
  std::vector<uint8_t> size_;             // its units
  std::vector<int64_t> next_, previous_;  // slabs of equal occupancy are a list
  std::array<int64_t, 256> first_of_;
};

}  // namespace warploom::kv_cache
