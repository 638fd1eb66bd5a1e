#include "memory/skyline.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <queue>

namespace warploom::memory {
namespace {

// Blocks that are not placed, by begin. Finds, of those inside [begin, end), the one of most worth.
class Candidates {
 public:
  Candidates(const Problem& problem, Prefer prefer)
      : blocks_(problem.blocks), order_(problem.blocks.size()) {
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = int32_t(i);
    std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
      return std::pair(blocks_[a].begin, a) < std::pair(blocks_[b].begin, b);
    });
    leaves_ = std::bit_ceil(std::max<size_t>(order_.size(), 1));
    nodes_.resize(2 * leaves_);
    for (size_t i = 0; i < order_.size(); ++i) {
      const Block& b = blocks_[order_[i]];
      const double worth = prefer == Prefer::length ? b.length() + double(b.size) * 1e-15
                           : prefer == Prefer::area ? b.area()
                                                    : double(b.size) + b.length() * 1e-9;
      nodes_[leaves_ + i] = {b.end, worth};
    }
    for (size_t n = leaves_ - 1; n > 0; --n) pull(n);
  }

  // The place of the best block, -1 where there is none.
  int64_t best(int32_t begin, int32_t end, int64_t& work) {
    const auto less = [&](int32_t i, int32_t slot) { return blocks_[i].begin < slot; };
    const auto low = std::lower_bound(order_.begin(), order_.end(), begin, less) - order_.begin();
    const auto high = std::lower_bound(order_.begin(), order_.end(), end, less) - order_.begin();
    low_ = size_t(low), high_ = size_t(high), end_ = end;
    found_ = -1, worth_ = -1;
    search(1, 0, leaves_, work);
    return found_;
  }

  int32_t take(int64_t place) {
    size_t n = leaves_ + size_t(place);
    nodes_[n] = {};
    for (n /= 2; n > 0; n /= 2) pull(n);
    return order_[size_t(place)];
  }

 private:
  struct Node {
    int32_t least_end = std::numeric_limits<int32_t>::max();
    double worth = -1;
  };

  void pull(size_t n) {
    nodes_[n] = {std::min(nodes_[2 * n].least_end, nodes_[2 * n + 1].least_end),
                 std::max(nodes_[2 * n].worth, nodes_[2 * n + 1].worth)};
  }

  void search(size_t n, size_t from, size_t to, int64_t& work) {
    if (to <= low_ || from >= high_ || nodes_[n].least_end > end_ || nodes_[n].worth <= worth_) {
      return;
    }
    ++work;
    if (n >= leaves_) {
      found_ = int64_t(n - leaves_), worth_ = nodes_[n].worth;
      return;
    }
    const size_t middle = (from + to) / 2;
    const bool left_first = nodes_[2 * n].worth >= nodes_[2 * n + 1].worth;
    if (left_first) search(2 * n, from, middle, work);
    search(2 * n + 1, middle, to, work);
    if (!left_first) search(2 * n, from, middle, work);
  }

  const std::vector<Block>& blocks_;
  std::vector<int32_t> order_;
  size_t leaves_;
  std::vector<Node> nodes_;
  size_t low_ = 0, high_ = 0;
  int32_t end_ = 0;
  int64_t found_ = -1;
  double worth_ = -1;
};

}  // namespace

Offsets fill_valleys(const Problem& problem, Prefer prefer, int64_t most_work, int64_t& work) {
  if (!problem.plain) return {};
  Offsets offsets(problem.blocks.size(), -1);
  Candidates candidates(problem, prefer);
  struct Stretch {
    int32_t end;
    int64_t height;
  };
  std::map<int32_t, Stretch> skyline{{0, {problem.slots, 0}}};  // by begin
  using Entry = std::pair<int64_t, int32_t>;                    // height, begin
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> lowest;
  lowest.push({0, 0});
  const int64_t start = work;
  size_t left = problem.blocks.size();
  while (left > 0) {
    if (work - start > most_work) return {};
    const auto [height, begin] = lowest.top();
    lowest.pop();
    const auto here = skyline.find(begin);
    if (here == skyline.end() || here->second.height != height) continue;  // gone or raised
    const int32_t end = here->second.end;
    const auto next = std::next(here);
    if (next != skyline.end() && next->second.height == height) {  // one stretch
      here->second.end = next->second.end;
      skyline.erase(next);
      lowest.push({height, begin});
      continue;
    }
    if (here != skyline.begin() && std::prev(here)->second.height == height) {
      const auto before = std::prev(here);
      before->second.end = end;
      lowest.push({height, before->first});
      skyline.erase(here);
      continue;
    }
    work += 8;
    const int64_t place = candidates.best(begin, end, work);
    if (place < 0) {
      int64_t raised = std::numeric_limits<int64_t>::max();
      if (here != skyline.begin()) raised = std::prev(here)->second.height;
      if (next != skyline.end()) raised = std::min(raised, next->second.height);
      here->second.height = raised;
      lowest.push({raised, begin});
      continue;
    }
    const int32_t chosen = candidates.take(place);
    const Block& block = problem.blocks[chosen];
    offsets[chosen] = height;
    --left;
    skyline.erase(here);
    const auto lay = [&](int32_t from, int32_t to, int64_t top) {
      if (from == to) return;
      skyline[from] = {to, top};
      lowest.push({top, from});
    };
    lay(begin, block.begin, height);
    lay(block.begin, block.end, height + block.size);
    lay(block.end, end, height);
  }
  return offsets;
}

}  // namespace warploom::memory
