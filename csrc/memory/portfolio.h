// The strategies in turn, on the part that decides the plan's size.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/exact.h"
#include "memory/improve.h"
#include "memory/parts.h"

namespace warploom::memory {

// One part's own sequence of rounds: each strategy once, then exact and local search in turns for
// as long as it is asked.
class PartSolver {
 public:
  PartSolver(Part part, uint64_t seed);

  // Does one round, after which a height of `goal` (of the part alone) would be enough. Returns the
  // name of the strategy if the plan became better, else nullptr.
  const char* round(int64_t goal, int64_t& work);

  const Part& part() const { return part_; }
  const Offsets& offsets() const { return best_; }
  int64_t top() const { return part_.base + height_; }
  int64_t proven() const { return part_.base + bound_; }  // no plan of the part ends below
  bool finished() const { return height_ <= bound_; }

 private:
  Offsets attempt(int64_t goal, const char*& name, int64_t& work);
  Offsets search_exactly(bool tight, int64_t goal, int64_t& work);
  bool may_search_exactly() const;

  Part part_;
  uint64_t seed_;
  int rounds_ = 0;
  Offsets best_;
  int64_t height_;
  int64_t bound_;
  int64_t unit_;                           // heights of plans are multiples of it
  std::unique_ptr<ExactSearch> exact_[2];  // at the goal, and half way to it
  int64_t exact_capacity_[2] = {-1, -1};
  std::unique_ptr<LocalSearch> local_;
};

struct Limits {
  double seconds;
  int64_t work;
  int64_t goal;  // height that is enough
};

struct Outcome {
  Offsets offsets;
  int64_t height, bound, work;
  double seconds;
  size_t parts, folded;
  struct Step {
    double seconds;
    int64_t work, height;
    std::string strategy;
  };
  std::vector<Step> history;
};

Outcome plan(const Problem& problem, const Limits& limits, uint64_t seed);

}  // namespace warploom::memory
