// Placing blocks one after another, in some order.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "memory/occupied.h"
#include "memory/problem.h"

namespace warploom::memory {

enum class Order { size, length, area, load, begin };

// Blocks by a falling key (`begin`: a rising one); ties by the other keys, then by number. `load`:
// by the most bytes held at a time during the block's life, then by size.
std::vector<int32_t> ordered(const Problem& problem, Order order);

// Places the blocks in that order, those with given offsets before all others. Adds to `work`, and
// gives up, with an empty result, where that would be more than `most_work`.
Offsets place(const Problem& problem, const std::vector<int32_t>& order, Fit fit, int64_t& work,
              int64_t most_work = std::numeric_limits<int64_t>::max());

// Lets every block fall as far as it can, the lowest first; none rises.
Offsets settled(const Problem& problem, const Offsets& offsets, int64_t& work);

}  // namespace warploom::memory
