#include "memory/occupied.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace warploom::memory {

void RangeSet::add(Range range) {
  auto first = std::lower_bound(ranges_.begin(), ranges_.end(), range.low,
                                [](const Range& r, int64_t low) { return r.high < low; });
  if (first == ranges_.end() || first->low > range.high) {
    ranges_.insert(first, range);
    return;
  }
  first->low = std::min(first->low, range.low);
  first->high = std::max(first->high, range.high);
  auto last = first + 1;
  while (last != ranges_.end() && last->low <= first->high) {
    first->high = std::max(first->high, last->high);
    ++last;
  }
  ranges_.erase(first + 1, last);
}

Occupied::Occupied(int32_t slots)
    : leaves_(int32_t(std::bit_ceil(uint32_t(std::max(slots, 1))))), nodes_(2 * size_t(leaves_)) {}

void Occupied::add(int32_t begin, int32_t end, Range range) {
  // From the leaves upwards: the nodes that [begin, end) is made of, then all above them.
  uint32_t left = uint32_t(begin + leaves_), right = uint32_t(end + leaves_);
  const uint32_t first = left, last = right - 1;
  uint32_t touched_left = 0, touched_right = 0;  // the lowest nodes of the two sides
  for (; left < right; left /= 2, right /= 2) {
    if (left & 1) {
      nodes_[left].whole.add(range);
      nodes_[left].any.add(range);
      if (!touched_left) touched_left = left;
      ++left;
    }
    if (right & 1) {
      --right;
      nodes_[right].whole.add(range);
      nodes_[right].any.add(range);
      if (!touched_right) touched_right = right;
    }
  }
  // Above the first and the last slot; where both ways meet, once.
  uint32_t a = first / 2, b = last / 2;
  while (a) {
    nodes_[a].any.add(range);
    if (a != b) nodes_[b].any.add(range);
    a /= 2, b /= 2;
  }
}

const std::vector<Range>& Occupied::taken(int32_t begin, int32_t end) {
  found_.clear();
  const auto gather = [&](const RangeSet& set) {
    found_.insert(found_.end(), set.ranges().begin(), set.ranges().end());
  };
  uint32_t left = uint32_t(begin + leaves_), right = uint32_t(end + leaves_);
  uint32_t a = left / 2, b = (right - 1) / 2;
  for (; left < right; left /= 2, right /= 2) {
    if (left & 1) gather(nodes_[left++].any);
    if (right & 1) gather(nodes_[--right].any);
  }
  while (a) {
    gather(nodes_[a].whole);
    if (a != b) gather(nodes_[b].whole);
    a /= 2, b /= 2;
  }
  looked_at_ = int64_t(found_.size());
  std::sort(found_.begin(), found_.end(),
            [](const Range& x, const Range& y) { return x.low < y.low; });
  size_t kept = 0;
  for (const Range& range : found_) {
    if (kept && found_[kept - 1].high >= range.low) {
      found_[kept - 1].high = std::max(found_[kept - 1].high, range.high);
    } else {
      found_[kept++] = range;
    }
  }
  found_.resize(kept);
  return found_;
}

int64_t fitting_offset(const std::vector<Range>& taken, int64_t size, int64_t alignment, Fit fit) {
  const auto aligned = [&](int64_t offset) {
    return (offset + alignment - 1) / alignment * alignment;
  };
  int64_t low = 0, best = -1, least = std::numeric_limits<int64_t>::max();
  for (const Range& range : taken) {
    const int64_t offset = aligned(low), left = range.low - offset - size;
    if (left >= 0 && left < least) {
      best = offset, least = left;
      if (fit == Fit::lowest || left == 0) break;
    }
    low = range.high;
  }
  return best >= 0 ? best : aligned(low);
}

}  // namespace warploom::memory
