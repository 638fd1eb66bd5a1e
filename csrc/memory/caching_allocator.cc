#include "memory/caching_allocator.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "memory/error.h"

namespace warploom::memory {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
constexpr int64_t kMostCapacity = int64_t(1) << 46;

int64_t up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

AllocatorSettings::AllocatorSettings(const wl_memory_allocator& given)
    : capacity(given.capacity ? given.capacity : kMostCapacity),
      allowed(-1),
      max_split(given.max_split_size ? given.max_split_size : kNoLimit),
      max_rounding(given.max_non_split_rounding ? given.max_non_split_rounding : kLargeSegment),
      collect_above(given.garbage_collection_threshold),
      expandable(given.expandable_segments != 0) {
  if (capacity < 0 || capacity > kMostCapacity) {
    invalid("capacity is ", capacity, " bytes: must be at most ", kMostCapacity);
  }
  const double fraction = given.memory_fraction;
  if (!(fraction >= 0 && fraction <= 1)) {
    invalid("memory_fraction is ", fraction, ": must be above 0 and at most 1");
  }
  if (fraction > 0) allowed = int64_t(fraction * double(capacity));
  if (max_split < kLargeSegment || max_rounding < kLargeSegment) {
    invalid("max_split_size is ", given.max_split_size, ", max_non_split_rounding is ",
            given.max_non_split_rounding, ": must be at least ", kLargeSegment);
  }
  if (!(collect_above >= 0 && collect_above < 1)) {
    invalid("garbage_collection_threshold is ", collect_above, ": must be above 0 and below 1");
  }
  if (collect_above > 0 && allowed < 0) {
    invalid("garbage_collection_threshold is ", collect_above,
            ": acts only under a memory_fraction, which is not given");
  }
  for (int i = 0; i < WL_MEMORY_ROUNDINGS; ++i) {
    divisions[i] = given.roundup_power2_divisions[i];
    if (divisions[i] < 0 || divisions[i] & (divisions[i] - 1)) {
      invalid("roundup_power2_divisions[", i, "] is ", divisions[i],
              ": must be 0 or a power of two");
    }
  }
}

int64_t AllocatorSettings::rounded(int64_t size) const {
  if (size < kLeastBlock) return kLeastBlock;
  // Intervals are the powers of two from 1 MiB on; the first and the last reach to the ends.
  const int power = std::bit_width(uint64_t(size)) - 1;
  const int64_t parts = divisions[std::clamp(power - 20, 0, WL_MEMORY_ROUNDINGS - 1)];
  if (parts == 0 || size <= kLeastBlock * parts) return up(size, kLeastBlock);
  if (parts == 1) return size;  // PyTorch then rounds to nothing, not even to 512 bytes
  return up(size, (int64_t(1) << power) / parts);
}

int64_t segment_size(int64_t rounded) {
  if (rounded <= kSmallRequest) return kSmallSegment;
  if (rounded < kOwnSegment) return kLargeSegment;
  return up(rounded, kSegmentUnit);
}

CachingAllocator::CachingAllocator(const AllocatorSettings& settings,
                                   const wl_memory_requests& requests, EventLog& log)
    : settings_(settings),
      arena_(requests.arena),
      log_(log),
      held_(size_t(requests.count), nullptr),
      given_addresses_(requests.segments, requests.segments + requests.segment_count) {
  for (const int64_t address : given_addresses_) {
    next_address_ = std::max(next_address_, address + kMostCapacity);
  }
  std::reverse(given_addresses_.begin(), given_addresses_.end());
}

bool CachingAllocator::allocate(int64_t request, int64_t size, int32_t stream, int32_t pool) {
  const int64_t rounded = settings_.rounded(size);
  Lane& lane = this->lane(pool, stream, rounded <= kSmallRequest);
  Chunk* chunk = search(lane, rounded);
  if (!chunk) {
    if (settings_.collect_above > 0) return_old_segments();
    chunk = from_device(lane, rounded);
    if (!chunk && return_oversize(lane, rounded)) chunk = from_device(lane, rounded);
    if (!chunk) {
      empty_cache();
      ++retries_;
      chunk = from_device(lane, rounded);
    }
  }
  if (!chunk) {
    log(WL_MEMORY_OOM, 0, rounded, stream);
    return false;
  }
  if (splits(*chunk, rounded)) insert(cut(chunk, rounded));
  chunk->state = State::held;
  chunk->asked = size;
  held_[size_t(request)] = chunk;
  allocated_ += chunk->size;
  log(WL_MEMORY_ALLOC, chunk->address, size, stream);
  return true;
}

void CachingAllocator::let_go(int64_t request, bool waits) {
  Chunk* chunk = held_[size_t(request)];
  chunk->state = State::waiting;
  if (waits) waiting_.emplace(chunk->address, request);
  allocated_ -= chunk->size;
  log(WL_MEMORY_FREE_REQUESTED, chunk->address, chunk->asked, chunk->lane->stream);
}

void CachingAllocator::complete(int64_t request) {
  Chunk* chunk = held_[size_t(request)];
  if (!chunk) return;
  held_[size_t(request)] = nullptr;
  waiting_.erase(chunk->address);
  log(WL_MEMORY_FREE_COMPLETED, chunk->address, chunk->asked, chunk->lane->stream);
  make_idle(chunk);
}

void CachingAllocator::empty_cache() {
  // Waits for all streams first.
  while (!waiting_.empty()) complete(waiting_.begin()->second);
  for (const bool small : {false, true}) {
    std::vector<Chunk*> whole, expandable;
    for (auto& [key, lane] : lanes_) {
      if (lane.pool != 0 || lane.small != small) continue;
      for (const Idle& idle : lane.idle) {
        if (idle.chunk->range) {
          expandable.push_back(idle.chunk);
        } else if (idle.chunk->whole()) {
          whole.push_back(idle.chunk);
        }
      }
    }
    for (Chunk* chunk : whole) return_segment(chunk);
    for (Chunk* chunk : expandable) unmap(chunk);
  }
}

CachingAllocator::Lane& CachingAllocator::lane(int32_t pool, int32_t stream, bool small) {
  const auto [place, added] = lanes_.try_emplace({pool, stream, small});
  if (added) {
    place->second.pool = pool;
    place->second.stream = stream;
    place->second.small = small;
  }
  return place->second;
}

// The smallest idle block that is large enough, the lowest of equal ones.
CachingAllocator::Chunk* CachingAllocator::search(Lane& lane, int64_t size) {
  if (settings_.collect_above > 0 && lane.pool == 0 && !lane.small) ++searches_;
  auto place = lane.idle.lower_bound({size, 0, nullptr});
  if (place == lane.idle.end()) return nullptr;
  if (settings_.expandable) {
    // Where a block can grow, what counts is the size that it can have.
    const auto reach = [](const Chunk* chunk) {
      const Chunk* after = chunk->after;
      return chunk->size + (after && !after->mapped ? after->size : 0);
    };
    for (auto next = std::next(place);
         next != lane.idle.end() && reach(next->chunk) < reach(place->chunk); ++next) {
      place = next;
    }
  }
  Chunk* chunk = place->chunk;
  if (size < settings_.max_split && chunk->size >= settings_.max_split) return nullptr;
  if (size >= settings_.max_split && chunk->size - size >= settings_.max_rounding) return nullptr;
  lane.idle.erase(place);
  return chunk;
}

CachingAllocator::Chunk* CachingAllocator::from_device(Lane& lane, int64_t size) {
  const int64_t segment = segment_size(size);
  if (settings_.allowed >= 0 && arena_ + reserved_ + segment > settings_.allowed) return nullptr;
  return settings_.expandable ? expand(lane, size) : new_segment(lane, segment);
}

CachingAllocator::Chunk* CachingAllocator::new_segment(Lane& lane, int64_t size) {
  if (size > settings_.capacity - arena_ - reserved_) return nullptr;
  int64_t address;
  if (given_addresses_.empty()) {
    address = new_addresses(size, kSegmentUnit);
  } else {
    address = given_addresses_.back();
    given_addresses_.pop_back();
  }
  Chunk* chunk = new_chunk(lane, address, size);
  ++segments_;
  took(size);
  log(WL_MEMORY_SEGMENT_ALLOC, chunk->address, size, lane.stream);
  return chunk;
}

// A run of idle and unmapped chunks is mapped until the request fits. What was mapped before memory
// ran out stays mapped and idle.
CachingAllocator::Chunk* CachingAllocator::expand(Lane& lane, int64_t size) {
  Chunk* chunk = place_to_expand(lane, size);
  if (!chunk->mapped) {
    chunk = map(chunk, std::min(chunk->size, size));
    if (!chunk) return nullptr;
  }
  while (chunk->size < size) {
    chunk = map(chunk->after, std::min(size - chunk->size, chunk->after->size));
    if (!chunk) return nullptr;
  }
  erase(chunk);
  return chunk;
}

// The lowest address from which idle and unmapped chunks are long enough together, in new addresses
// if there is none.
CachingAllocator::Chunk* CachingAllocator::place_to_expand(Lane& lane, int64_t size) {
  for (const auto& [address, unmapped] : lane.unmapped) {
    Chunk* first = unmapped;
    if (first->before && first->before->state == State::idle) first = first->before;
    int64_t bytes = 0;
    for (const Chunk* c = first; c && c->state == State::idle && bytes < size; c = c->after) {
      bytes += c->size;
    }
    if (bytes >= size) return first;
  }
  const int64_t page = lane.page();
  const int64_t reach = up(settings_.capacity + settings_.capacity / 8, page);
  ranges_.push_back({new_addresses(reach, page), reach, page});
  Chunk* chunk = new_chunk(lane, ranges_.back().address, reach);
  chunk->range = &ranges_.back();
  chunk->mapped = false;
  ++segments_;
  insert(chunk);
  return chunk;
}

// Maps the pages at the beginning of an unmapped chunk that hold so many bytes; returns the idle
// chunk that they are part of now, or nullptr without memory.
CachingAllocator::Chunk* CachingAllocator::map(Chunk* chunk, int64_t size) {
  const int64_t bytes = up(size, chunk->range->page);
  if (bytes > settings_.capacity - arena_ - reserved_) return nullptr;
  erase(chunk);
  if (bytes < chunk->size) insert(cut(chunk, bytes));
  chunk->mapped = true;
  took(bytes);
  log(WL_MEMORY_SEGMENT_MAP, chunk->address, bytes, chunk->lane->stream);
  join_neighbours(chunk);
  insert(chunk);
  return chunk;
}

// Gives back the pages that lie whole inside an idle chunk.
void CachingAllocator::unmap(Chunk* chunk) {
  const Range& range = *chunk->range;
  const int64_t begin = range.address + up(chunk->address - range.address, range.page);
  const int64_t last = chunk->address + chunk->size - range.address;
  const int64_t end = range.address + last / range.page * range.page;
  if (begin >= end) return;
  erase(chunk);
  if (begin > chunk->address) {
    Chunk* rest = cut(chunk, begin - chunk->address);
    insert(chunk);
    chunk = rest;
  }
  if (end < chunk->address + chunk->size) insert(cut(chunk, end - chunk->address));
  chunk->mapped = false;
  gave_back(chunk->size);
  log(WL_MEMORY_SEGMENT_UNMAP, chunk->address, chunk->size, chunk->lane->stream);
  join_neighbours(chunk);
  if (chunk->whole()) {  // nothing is left of the segment but addresses
    --segments_;
    drop(chunk);
  } else {
    insert(chunk);
  }
}

// With a max_split_size: returns one oversize block that is large enough, or else as many of the
// largest as make up the request. False: they do not.
bool CachingAllocator::return_oversize(Lane& lane, int64_t size) {
  // Blocks of expandable segments are no segments that could be returned.
  if (settings_.max_split == kNoLimit || settings_.expandable) return false;
  const int64_t target = std::max(size, settings_.max_split);
  const auto enough = lane.idle.lower_bound({target, 0, nullptr});
  if (enough != lane.idle.end()) {
    return_segment(enough->chunk);
    return true;
  }
  int64_t returned = 0;
  while (returned < target && !lane.idle.empty()) {
    Chunk* largest = lane.idle.rbegin()->chunk;
    if (largest->size < settings_.max_split) break;
    returned += largest->size;
    return_segment(largest);
  }
  return returned >= target;
}

// Garbage collection: whole segments idle for longer than the average, again and again until
// enough is returned or no more are.
void CachingAllocator::return_old_segments() {
  const int64_t threshold = int64_t(settings_.collect_above * double(settings_.allowed));
  const int64_t target = arena_ + reserved_ - threshold;
  if (target <= 0) return;
  std::vector<Chunk*> whole;
  int64_t ages = 0;
  for (auto& [key, lane] : lanes_) {
    if (lane.pool != 0 || lane.small) continue;
    for (const Idle& idle : lane.idle) {
      if (idle.chunk->range || !idle.chunk->whole()) continue;
      whole.push_back(idle.chunk);
      ages += searches_ - idle.chunk->born;
    }
  }
  int64_t returned = 0;
  bool more = true;
  while (returned < target && more && !whole.empty()) {
    const double average = double(ages) / double(whole.size());
    std::vector<Chunk*> young;
    for (Chunk* chunk : whole) {
      const int64_t age = searches_ - chunk->born;
      if (double(age) < average) {
        young.push_back(chunk);
        continue;
      }
      ages -= age;
      returned += chunk->size;
      return_segment(chunk);
    }
    more = young.size() < whole.size();
    whole.swap(young);
  }
}

void CachingAllocator::return_segment(Chunk* chunk) {
  erase(chunk);
  gave_back(chunk->size);
  --segments_;
  log(WL_MEMORY_SEGMENT_FREE, chunk->address, chunk->size, chunk->lane->stream);
  drop(chunk);
}

bool CachingAllocator::splits(const Chunk& chunk, int64_t size) const {
  const int64_t rest = chunk.size - size;
  if (chunk.lane->small || settings_.expandable) return rest >= kLeastBlock;
  return size < settings_.max_split && rest > kSmallRequest;
}

void CachingAllocator::make_idle(Chunk* chunk) {
  chunk->state = State::idle;
  join_neighbours(chunk);
  insert(chunk);
}

void CachingAllocator::join_neighbours(Chunk* chunk) {
  join(chunk, chunk->before);
  join(chunk, chunk->after);
}

// Takes in an idle neighbour, if both have memory behind them or neither does.
void CachingAllocator::join(Chunk* chunk, Chunk* neighbour) {
  if (!neighbour || neighbour->state != State::idle || neighbour->mapped != chunk->mapped) return;
  erase(neighbour);
  if (neighbour == chunk->before) {
    chunk->address = neighbour->address;
    chunk->before = neighbour->before;
    if (chunk->before) chunk->before->after = chunk;
  } else {
    chunk->after = neighbour->after;
    if (chunk->after) chunk->after->before = chunk;
  }
  chunk->size += neighbour->size;
  drop(neighbour);
}

void CachingAllocator::insert(Chunk* chunk) {
  if (!chunk->mapped) {
    chunk->lane->unmapped.emplace(chunk->address, chunk);
    return;
  }
  chunk->born = searches_;
  chunk->lane->idle.insert({chunk->size, chunk->address, chunk});
}

void CachingAllocator::erase(Chunk* chunk) {
  if (chunk->mapped) {
    chunk->lane->idle.erase({chunk->size, chunk->address, chunk});
  } else {
    chunk->lane->unmapped.erase(chunk->address);
  }
}

CachingAllocator::Chunk* CachingAllocator::new_chunk(Lane& lane, int64_t address, int64_t size) {
  Chunk* chunk;
  if (spare_.empty()) {
    chunk = &storage_.emplace_back();
  } else {
    chunk = spare_.back();
    spare_.pop_back();
  }
  *chunk = {address, size, nullptr, nullptr, &lane, nullptr, State::idle, true, 0, 0};
  return chunk;
}

// Leaves the chunk its first bytes; returns the rest, which is like it and in no list.
CachingAllocator::Chunk* CachingAllocator::cut(Chunk* chunk, int64_t size) {
  Chunk* rest = new_chunk(*chunk->lane, chunk->address + size, chunk->size - size);
  rest->range = chunk->range;
  rest->mapped = chunk->mapped;
  rest->before = chunk;
  rest->after = chunk->after;
  if (rest->after) rest->after->before = rest;
  chunk->after = rest;
  chunk->size = size;
  return rest;
}

void CachingAllocator::drop(Chunk* chunk) { spare_.push_back(chunk); }

int64_t CachingAllocator::new_addresses(int64_t size, int64_t alignment) {
  const int64_t address = up(next_address_, alignment);
  if (size > std::numeric_limits<int64_t>::max() / 2 - address) {
    invalid("requests: need more than 2^62 addresses together; give a smaller capacity");
  }
  next_address_ = address + size;
  return address;
}

void CachingAllocator::took(int64_t size) {
  reserved_ += size;
  reserved_peak_ = std::max(reserved_peak_, reserved_);
  ++device_allocs_;
}

void CachingAllocator::gave_back(int64_t size) {
  reserved_ -= size;
  ++device_frees_;
}

void CachingAllocator::log(wl_memory_action action, int64_t address, int64_t size, int32_t stream) {
  log_.add(action, address, size, stream, arena_ + reserved_, arena_allocated + allocated_);
}

}  // namespace warploom::memory
