// Grouping by phase, as STWeaver does: requests that begin in one phase and end in one.
#pragma once

#include "memory/problem.h"

namespace warploom::memory {

// Each group is packed by itself, blocks of equal size side by side; one that fills its rectangle
// well is then placed as one block, the members of others one by one, all by falling size. Empty
// where no group is of use or a block has an alignment or an offset of its own.
Offsets place_groups(const Problem& problem, int64_t& work);

}  // namespace warploom::memory
