// A sequence of requests through the caching allocator, and before it through a plan's arena.
#include <algorithm>
#include <limits>
#include <map>
#include <new>
#include <vector>

#include "base/status.h"
#include "memory/caching_allocator.h"
#include "memory/error.h"

using namespace warploom;
using namespace warploom::memory;

namespace {

constexpr int64_t kMostBytes = int64_t(1) << 60;

enum class What : int32_t { let_go, complete, empty_cache, allocate };

struct Step {
  int64_t time;
  What what;
  int64_t request;
  bool operator<(const Step& other) const {
    if (time != other.time) return time < other.time;
    // Letting go and completing at one time are one call of free.
    const bool mine = what >= What::empty_cache, others = other.what >= What::empty_cache;
    if (mine != others) return others;
    if (mine && what != other.what) return what < other.what;
    if (request != other.request) return request < other.request;
    return what < other.what;
  }
};

void check(const wl_memory_requests& given) {
  if (given.count < 0 || given.arena < 0 || given.empty_caches < 0 || given.segment_count < 0) {
    invalid("count is ", given.count, ", arena is ", given.arena, ", empty_caches is ",
            given.empty_caches, ", segment_count is ", given.segment_count, ": must be at least 0");
  }
  if (given.count && (!given.size || !given.alloc || !given.free)) {
    invalid("size, alloc or free is NULL");
  }
  if (given.empty_caches && !given.empty_cache) invalid("empty_cache is NULL");
  if (given.segment_count && !given.segments) invalid("segments is NULL");
  for (int64_t i = 0; i < given.segment_count; ++i) {
    if (given.segments[i] < 0 || given.segments[i] > kMostBytes) {
      invalid("segments[", i, "] is ", given.segments[i], ": must be 0 to ", kMostBytes);
    }
  }
  for (int64_t i = 0; i < given.count; ++i) {
    if (given.size[i] < 0 || given.size[i] > kMostBytes) {
      invalid("size of request ", i, " is ", given.size[i], ": must be 0 to ", kMostBytes);
    }
    if (given.free[i] <= given.alloc[i]) {
      invalid("free of request ", i, " is ", given.free[i], ": must be after its alloc, ",
              given.alloc[i]);
    }
    if (given.requested &&
        (given.requested[i] <= given.alloc[i] || given.requested[i] > given.free[i])) {
      invalid("requested of request ", i, " is ", given.requested[i], ": must be after its alloc, ",
              given.alloc[i], ", and at most its free, ", given.free[i]);
    }
    if (given.offset && (given.offset[i] < -1 ||
                         (given.offset[i] >= 0 && given.offset[i] > given.arena - given.size[i]))) {
      invalid("offset of request ", i, " is ", given.offset[i], ": must be -1, or leave its ",
              given.size[i], " bytes room in an arena of ", given.arena);
    }
  }
}

// Requests of no bytes take nothing and have no steps, as in PyTorch.
std::vector<Step> steps_of(const wl_memory_requests& given) {
  std::vector<Step> steps;
  steps.reserve(size_t(3 * given.count + given.empty_caches));
  for (int64_t i = 0; i < given.count; ++i) {
    if (given.size[i] == 0) continue;
    steps.push_back({given.alloc[i], What::allocate, i});
    steps.push_back({given.requested ? given.requested[i] : given.free[i], What::let_go, i});
    steps.push_back({given.free[i], What::complete, i});
  }
  for (int64_t i = 0; i < given.empty_caches; ++i) {
    steps.push_back({given.empty_cache[i], What::empty_cache, i});
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

// Which bytes of the arena are held.
class Arena {
 public:
  bool take(int64_t offset, int64_t size) {
    const auto after = held_.lower_bound(offset);
    if (after != held_.end() && after->first < offset + size) return false;
    if (after != held_.begin() && std::prev(after)->second > offset) return false;
    held_.emplace_hint(after, offset, offset + size);
    return true;
  }
  void give(int64_t offset) { held_.erase(offset); }

 private:
  std::map<int64_t, int64_t> held_;  // begin and end
};

class Simulation {
 public:
  Simulation(const wl_memory_requests& given, const AllocatorSettings& settings,
             wl_memory_simulation& result, EventLog& log)
      : given_(given),
        settings_(settings),
        result_(result),
        log_(log),
        allocator_(settings, given, log),
        place_(size_t(given.count), Place::none) {}

  void run() {
    const std::vector<Step> steps = steps_of(given_);
    log_.time = steps.empty() ? 0 : steps.front().time;
    result_.oom_request = -1;
    take_arena();
    for (const Step& step : steps) {
      log_.time = step.time;
      log_.request = step.what == What::empty_cache ? -1 : step.request;
      const int64_t before = allocator_.device_allocs();
      if (!execute(step)) {
        result_.oom_request = step.request;
        result_.oom = now();
        break;
      }
      measure(allocator_.device_allocs() > before);
    }
    finish();
  }

 private:
  enum class Place : char { none, arena, cache };

  void take_arena() {
    if (given_.arena == 0) return;
    const int64_t limit = settings_.allowed < 0 ? settings_.capacity
                                                : std::min(settings_.capacity, settings_.allowed);
    if (given_.arena > limit) {
      invalid("arena is ", given_.arena, " bytes: the device allows ", limit, ", which is ",
              given_.arena - limit, " less");
    }
    log_.add(WL_MEMORY_SEGMENT_ALLOC, 0, given_.arena, 0, given_.arena, 0);
    measure(false);  // that nothing is in it yet is no waste
  }

  bool execute(const Step& step) {
    const int64_t i = step.request;
    switch (step.what) {
      case What::allocate:
        return allocate(i);
      case What::let_go:
        let_go(i);
        return true;
      case What::complete:
        complete(i);
        return true;
      case What::empty_cache:
        allocator_.empty_cache();
        return true;
    }
    return true;
  }

  int32_t stream(int64_t i) const { return given_.stream ? given_.stream[i] : 0; }

  bool allocate(int64_t i) {
    const int64_t size = given_.size[i];
    if (given_.offset && given_.offset[i] >= 0) {
      if (arena_.take(given_.offset[i], size)) {
        place_[size_t(i)] = Place::arena;
        allocator_.arena_allocated += size;
        requested_ += size;
        ++result_.in_arena;
        log_arena(WL_MEMORY_ALLOC, i);
        return true;
      }
      ++result_.conflicts;
    }
    if (!allocator_.allocate(i, size, stream(i), given_.pool ? given_.pool[i] : 0)) return false;
    place_[size_t(i)] = Place::cache;
    requested_ += size;
    return true;
  }

  void let_go(int64_t i) {
    requested_ -= given_.size[i];
    if (place_[size_t(i)] == Place::arena) {
      allocator_.arena_allocated -= given_.size[i];
      log_arena(WL_MEMORY_FREE_REQUESTED, i);
    } else {
      allocator_.let_go(i, given_.requested && given_.requested[i] < given_.free[i]);
    }
  }

  void complete(int64_t i) {
    if (place_[size_t(i)] == Place::arena) {
      arena_.give(given_.offset[i]);
      log_arena(WL_MEMORY_FREE_COMPLETED, i);
    } else {
      allocator_.complete(i);
    }
  }

  void log_arena(wl_memory_action action, int64_t i) {
    log_.add(action, given_.offset[i], given_.size[i], stream(i), now().reserved, now().allocated);
  }

  wl_memory_moment now() const {
    return {log_.time, given_.arena + allocator_.reserved(),
            allocator_.arena_allocated + allocator_.allocated()};
  }

  void measure(bool took) {
    const wl_memory_moment moment = now();
    // What an allocation mapped and gave back before it ended counts as well.
    const int64_t reserved = given_.arena + allocator_.reserved_peak();
    if (reserved > result_.reserved_peak.reserved) {
      result_.reserved_peak = {moment.time, reserved, moment.allocated};
    }
    if (moment.allocated > result_.allocated_peak.allocated) result_.allocated_peak = moment;
    const auto unused = [](const wl_memory_moment& m) { return m.reserved - m.allocated; };
    if (took && unused(moment) > unused(result_.worst)) result_.worst = moment;
    result_.requested_peak = std::max(result_.requested_peak, requested_);
    result_.segments_peak =
        std::max(result_.segments_peak, allocator_.segments() + (given_.arena > 0));
  }

  void finish() {
    result_.last = now();
    result_.device_allocs = allocator_.device_allocs() + (given_.arena > 0);
    result_.device_frees = allocator_.device_frees();
    result_.retries = allocator_.retries();
    result_.events = log_.count;
  }

  const wl_memory_requests& given_;
  const AllocatorSettings& settings_;
  wl_memory_simulation& result_;
  EventLog& log_;
  CachingAllocator allocator_;
  Arena arena_;
  std::vector<Place> place_;
  int64_t requested_ = 0;
};

template <class Struct>
void check_size(const Struct* given, const char* name) {
  if (!given) invalid(name, " is NULL");
  if (given->struct_size != sizeof *given) {
    invalid("struct_size of ", name, " is ", given->struct_size, ": this library's is ",
            sizeof *given);
  }
}

}  // namespace

extern "C" wl_status wl_memory_simulate(const wl_memory_requests* requests,
                                        const wl_memory_allocator* allocator,
                                        wl_memory_simulation* result, wl_memory_event* log,
                                        int64_t capacity) {
  try {
    check_size(requests, "requests");
    check_size(allocator, "allocator");
    check_size(result, "result");
    if (capacity < 0) invalid("capacity of log is ", capacity, ": must be at least 0");
    check(*requests);
    const AllocatorSettings settings(*allocator);
    EventLog events{log, log ? capacity : 0};
    *result = {};
    result->struct_size = sizeof *result;
    Simulation(*requests, settings, *result, events).run();
    return WL_OK;
  } catch (const Invalid& error) {
    return fail_text(WL_INVALID, error.what());
  } catch (const std::bad_alloc&) {
    return fail(WL_MEMORY, "out of memory");
  }
}
