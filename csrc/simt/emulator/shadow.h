// For every 16 bytes of memory, which bytes hold a value and which accesses a later one must be
// ordered after.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "simt/target.h"

namespace warploom::simt::emulator {

enum class mark : uint8_t { read, write, atomic_read, atomic_write, pending };

// Who made an access: a thread; several lanes of a warp, as in a fragment load; several warps.
enum class group : uint8_t { thread, warp, block };

// One access that still matters, or several of one kind by a group: then the time is the latest.
struct trace {
  uint32_t time;
  uint32_t thread : 27;  // number in the launch, of the group's first thread
  group by : 2;
  mark kind : 3;
  uint16_t bytes;  // of the 16
  uint16_t place;  // see places
};
static_assert(sizeof(trace) == 12);

struct cell {
  static constexpr int near = 4;
  uint16_t valid;
  uint16_t count;
  uint32_t far;  // 1 + index of the list that holds the traces beyond the near ones
  trace traces[near];
};

// Lists for the few cells with more than cell::near traces.
class far_traces {
 public:
  trace& at(cell& c, int i) {
    return i < cell::near ? c.traces[i] : lists_[c.far - 1][static_cast<size_t>(i - cell::near)];
  }
  void add(cell& c, const trace& t);
  void remove(cell& c, int i);  // the last takes its place
  void drop(cell& c) {          // the cell's memory is gone
    if (c.far != 0) free_.push_back(c.far - 1);
    c.far = c.count = 0;
  }
  void clear() {
    used_ = 0;
    free_.clear();
  }

 private:
  std::vector<std::vector<trace>> lists_;
  std::vector<uint32_t> free_;
  size_t used_ = 0;
};

// Cells of global memory, by address; traces of an earlier launch are dropped when met.
class global_shadow {
 public:
  cell& at(const void* p);
  void declare(const char* low, const char* high, bool written);
  const char* first_unwritten(const char* low, const char* high);
  void forget();
  void new_launch() { ++launch_; }

 private:
  static constexpr uintptr_t page_bytes = 4096;
  struct page {
    uint32_t launch = 0;
    cell cells[page_bytes / 16] = {};
  };
  page& find(uintptr_t number);

  struct cached {
    uintptr_t number = ~uintptr_t{0};
    page* p = nullptr;
  };
  std::unordered_map<uintptr_t, std::unique_ptr<page>> pages_;
  cached cache_[256];
  uint32_t launch_ = 1;
};

// Places in the source by small numbers.
class places {
 public:
  uint16_t number(site at);
  site of(uint16_t number) const { return known_[number]; }

 private:
  struct cached {
    const char* file = nullptr;
    uint32_t line = 0, column = 0;
    uint16_t number = 0;
  };
  cached cache_[1024];
  std::vector<site> known_;
};

}  // namespace warploom::simt::emulator
