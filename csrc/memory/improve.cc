#include "memory/improve.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "memory/greedy.h"

namespace warploom::memory {
namespace {

std::vector<int32_t> by_rank(const std::vector<double>& rank) {
  std::vector<int32_t> order(rank.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return rank[a] != rank[b] ? rank[a] < rank[b] : a < b; });
  return order;
}

}  // namespace

LocalSearch::LocalSearch(const Problem& problem, const Offsets& offsets, uint64_t seed)
    : problem_(problem), random_(seed), rank_(problem.blocks.size()), offsets_(offsets) {
  std::vector<double> lows(offsets.begin(), offsets.end());
  const std::vector<int32_t> order = by_rank(lows);
  for (size_t place = 0; place < order.size(); ++place) rank_[order[place]] = double(place);
}

Offsets LocalSearch::round(int64_t goal, int64_t& work) {
  std::vector<double> rank = rank_;
  const double count = double(rank.size());
  const double noise = count * std::pow(0.5, 2 + double(random_.below(8)));
  const uint64_t every = 1 + random_.below(16);  // one in so many of the others moves
  for (size_t i = 0; i < rank.size(); ++i) {
    if (offsets_[i] + problem_.blocks[i].size > goal) {
      rank[i] *= random_.uniform();
    } else if (random_.below(every) == 0) {
      rank[i] += noise * (random_.uniform() - 0.5);
    }
  }
  const std::vector<int32_t> order = by_rank(rank);
  Offsets offsets = settled(problem_, place(problem_, order, Fit::lowest, work), work);
  if (cost(offsets, goal) <= cost(offsets_, goal)) {
    for (size_t place = 0; place < order.size(); ++place) rank_[order[place]] = double(place);
    offsets_ = offsets;
  }
  return offsets;
}

LocalSearch::Cost LocalSearch::cost(const Offsets& offsets, int64_t goal) const {
  Cost cost{0, 0};
  for (size_t i = 0; i < offsets.size(); ++i) {
    const Block& b = problem_.blocks[i];
    const int64_t top = offsets[i] + b.size;
    cost.height = std::max(cost.height, top);
    cost.above += double(std::clamp<int64_t>(top - goal, 0, b.size)) * b.length();
  }
  return cost;
}

}  // namespace warploom::memory
