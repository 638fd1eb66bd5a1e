// Filling valleys: the lowest place of the skyline takes the block that suits it best.
#pragma once

#include "memory/problem.h"

namespace warploom::memory {

enum class Prefer { length, area, size };

// Again and again the lowest stretch of the skyline takes, of the blocks whose life lies inside it,
// the longest (or that of most area or size); where none does, it is raised to its lower neighbour.
// Gives up, with an empty result, where that would take more than `most_work`, or where a block has
// an alignment or an offset of its own. Adds to `work`.
Offsets fill_valleys(const Problem& problem, Prefer prefer, int64_t most_work, int64_t& work);

}  // namespace warploom::memory
