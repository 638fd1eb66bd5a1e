// What is known to have happened before: for a block, a warp or a thread, the moment before which
// everything it did is known. Times are one clock of the whole launch, which ticks at each event
// that orders something, so a bound is a single number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace warploom::simt::emulator {

// Bounds by number, sorted; a missing one is zero: nothing known.
class bounds {
 public:
  void raise(uint32_t who, uint32_t before);
  void join(const bounds& other);
  uint32_t of(uint32_t who) const;
  bool empty() const { return entries_.empty(); }
  void clear() { entries_.clear(); }

 private:
  struct entry {
    uint32_t who, before;
  };
  std::vector<entry> entries_;
};

struct knowledge {
  bounds blocks, warps, threads;
  bool empty() const { return blocks.empty() && warps.empty() && threads.empty(); }
  void join(const knowledge& other) {
    blocks.join(other.blocks);
    warps.join(other.warps);
    threads.join(other.threads);
  }
  void clear() {
    blocks.clear();
    warps.clear();
    threads.clear();
  }
};

}  // namespace warploom::simt::emulator
