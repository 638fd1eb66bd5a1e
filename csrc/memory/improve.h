// Local search over orders: what ends too high is placed earlier the next time.
#pragma once

#include <vector>

#include "memory/problem.h"
#include "memory/random.h"

namespace warploom::memory {

class LocalSearch {
 public:
  // Starts from the order in which `offsets` lie.
  LocalSearch(const Problem& problem, const Offsets& offsets, uint64_t seed);

  // One new plan: the blocks that end above `goal` come earlier than in the best order so far, some
  // others change places at random. A plan that is no higher, or not so wide at its top, becomes
  // the one to start from.
  Offsets round(int64_t goal, int64_t& work);

 private:
  struct Cost {
    int64_t height;
    double above;  // area above the goal
    auto operator<=>(const Cost&) const = default;
  };
  Cost cost(const Offsets& offsets, int64_t goal) const;

  const Problem& problem_;
  Random random_;
  std::vector<double> rank_;  // [blocks], of the order to start from
  Offsets offsets_;
};

}  // namespace warploom::memory
