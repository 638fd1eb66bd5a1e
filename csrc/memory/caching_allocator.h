// A model of PyTorch's caching allocator for one device: its decisions, with no memory behind them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "warploom/memory_simulation.h"

namespace warploom::memory {

constexpr int64_t kMiB = int64_t(1) << 20;
constexpr int64_t kLeastBlock = 512;
constexpr int64_t kSmallRequest = kMiB;  // the largest that is served from small segments
constexpr int64_t kSmallSegment = 2 * kMiB;
constexpr int64_t kLargeSegment = 20 * kMiB;  // for requests below kOwnSegment
constexpr int64_t kOwnSegment = 10 * kMiB;    // requests from here on get segments of their size
constexpr int64_t kSegmentUnit = 2 * kMiB;    // of which that size is a multiple

struct AllocatorSettings {
  explicit AllocatorSettings(const wl_memory_allocator& given);

  int64_t capacity;
  int64_t allowed;    // by the memory fraction, or -1
  int64_t max_split;  // larger blocks are never split nor given to smaller requests
  int64_t max_rounding;
  double collect_above;  // 0, or the share of `allowed` from which old segments are returned
  int64_t divisions[WL_MEMORY_ROUNDINGS];
  bool expandable;

  int64_t rounded(int64_t size) const;
};

// Bytes that are asked of the device for a rounded request that no cached block serves.
int64_t segment_size(int64_t rounded);

// Writes what happens, as far as there is room, and counts all of it.
struct EventLog {
  wl_memory_event* out = nullptr;
  int64_t capacity = 0;
  int64_t count = 0;
  int64_t time = 0, request = -1;

  void add(wl_memory_action action, int64_t address, int64_t size, int32_t stream, int64_t reserved,
           int64_t allocated) {
    if (count < capacity) {
      out[count] = {time, request, int32_t(action), stream, address, size, reserved, allocated};
    }
    ++count;
  }
};

// Blocks are known by the number of the request that holds them. Blocks of a pool and stream serve
// that pool and stream alone; small and large requests have lists of their own.
class CachingAllocator {
 public:
  // The arena is memory that others have taken and hold: it counts in the log and the limits.
  CachingAllocator(const AllocatorSettings& settings, const wl_memory_requests& requests,
                   EventLog& log);

  // False: out of memory.
  bool allocate(int64_t request, int64_t size, int32_t stream, int32_t pool);
  // The owner lets go; with `waits` other streams may still be at work, else complete() follows.
  void let_go(int64_t request, bool waits);
  void complete(int64_t request);  // its bytes may be given away; nothing if they were already
  void empty_cache();

  int64_t reserved() const { return reserved_; }
  int64_t reserved_peak() const { return reserved_peak_; }
  int64_t allocated() const { return allocated_; }
  int64_t segments() const { return segments_; }
  int64_t device_allocs() const { return device_allocs_; }
  int64_t device_frees() const { return device_frees_; }
  int64_t retries() const { return retries_; }

  int64_t arena_allocated = 0;  // bytes held in the arena, for the log

 private:
  struct Range;
  struct Lane;
  enum class State { idle, held, waiting };

  // A piece of a segment; its neighbours are the pieces before and after it there.
  struct Chunk {
    int64_t address, size;
    Chunk *before, *after;
    Lane* lane;
    Range* range;  // of an expandable segment, else nullptr
    State state;
    bool mapped;    // has memory behind its addresses
    int64_t asked;  // bytes
    int64_t born;   // searches there had been when it became idle
    bool whole() const { return !before && !after; }
  };
  struct Range {  // addresses of an expandable segment
    int64_t address, size, page;
  };
  struct Idle {
    int64_t size, address;
    Chunk* chunk;
    bool operator<(const Idle& other) const {
      return std::tie(size, address) < std::tie(other.size, other.address);
    }
  };
  struct Lane {
    int32_t pool, stream;
    bool small;
    std::set<Idle> idle;                 // mapped, by size and address
    std::map<int64_t, Chunk*> unmapped;  // by address
    int64_t page() const { return small ? kSmallSegment : kLargeSegment; }
  };

  Lane& lane(int32_t pool, int32_t stream, bool small);
  Chunk* search(Lane& lane, int64_t size);
  Chunk* from_device(Lane& lane, int64_t size);
  Chunk* new_segment(Lane& lane, int64_t size);
  Chunk* expand(Lane& lane, int64_t size);
  Chunk* place_to_expand(Lane& lane, int64_t size);
  Chunk* map(Chunk* chunk, int64_t size);
  void unmap(Chunk* chunk);
  bool return_oversize(Lane& lane, int64_t size);
  void return_old_segments();
  void return_segment(Chunk* chunk);
  bool splits(const Chunk& chunk, int64_t size) const;
  void make_idle(Chunk* chunk);
  void join_neighbours(Chunk* chunk);
  void join(Chunk* chunk, Chunk* neighbour);
  void insert(Chunk* chunk);
  void erase(Chunk* chunk);
  Chunk* new_chunk(Lane& lane, int64_t address, int64_t size);
  Chunk* cut(Chunk* chunk, int64_t size);
  void drop(Chunk* chunk);
  int64_t new_addresses(int64_t size, int64_t alignment);
  void took(int64_t size);
  void gave_back(int64_t size);
  void log(wl_memory_action action, int64_t address, int64_t size, int32_t stream);

  const AllocatorSettings settings_;
  const int64_t arena_;
  EventLog& log_;
  std::map<std::tuple<int32_t, int32_t, bool>, Lane> lanes_;
  std::deque<Chunk> storage_;
  std::vector<Chunk*> spare_;
  std::deque<Range> ranges_;
  std::vector<Chunk*> held_;              // [requests]
  std::map<int64_t, int64_t> waiting_;    // requests, by address
  int64_t searches_ = 0;                  // for large blocks of the default pool
  std::vector<int64_t> given_addresses_;  // of new segments, the next one last
  int64_t next_address_ = int64_t(1) << 40;
  int64_t reserved_ = 0, reserved_peak_ = 0, allocated_ = 0, segments_ = 0;
  int64_t device_allocs_ = 0, device_frees_ = 0, retries_ = 0;
};

}  // namespace warploom::memory
