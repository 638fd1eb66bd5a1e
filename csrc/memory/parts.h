// Cutting a problem into parts that can be solved apart.
#pragma once

#include <vector>

#include "memory/problem.h"

namespace warploom::memory {

struct Part {
  Problem problem;
  std::vector<int32_t> blocks;  // of the whole problem
  int64_t base = 0;             // below it lies what is held throughout the part
  int64_t bound = 0;            // lower bound of the part alone
};

struct Parts {
  std::vector<Part> parts;   // no two alike
  std::vector<Part> copies;  // without their problem: each is solved as parts[like[i]] is
  std::vector<size_t> like;
  Offsets offsets;  // of the whole problem's blocks that are in no part, else -1
};

// Nothing is lost by these cuts: times that no block lives across part a problem, and a block that
// is held throughout lies at the bottom, below everything. Both are done again and again. Parts
// that repeat another, as the iterations of a training run do, are folded into one.
//
// With `tolerance` above 0, problems are also cut at times when little is held: blocks that live
// across lie together below the rest, where that takes at most so much.
Parts cut(const Problem& whole, int64_t tolerance);

}  // namespace warploom::memory
