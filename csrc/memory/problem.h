// What the strategies work on: blocks in units of the alignment, times cut into slots.
#pragma once

#include <cstdint>
#include <vector>

#include "warploom/memory.h"

namespace warploom::memory {

struct Block {
  int64_t size;        // in units, at least 1
  int32_t begin, end;  // slots [begin, end)
  int32_t group;
  int64_t alignment;  // in units
  int64_t fixed;      // a given offset in units, or -1
  int32_t length() const { return end - begin; }
  double area() const { return double(size) * length(); }
};

// A slot is a time at which the set of held blocks is largest: between two slots some block begins
// and some other has ended. Two blocks are held together exactly if they share a slot.
struct Problem {
  std::vector<Block> blocks;
  int32_t slots = 0;
  bool plain = true;  // no block has an alignment or an offset of its own

  int64_t count() const { return int64_t(blocks.size()); }
};

using Offsets = std::vector<int64_t>;  // [blocks], in units

// The problem of some blocks alone, its slots made anew: block i is blocks[chosen[i]].
Problem subproblem(const Problem& whole, const std::vector<int32_t>& chosen);

// Bytes held in each slot, in units.
std::vector<int64_t> load(const Problem& problem);

// No plan is smaller: the maximum load, or where a given offset ends.
int64_t lower_bound(const Problem& problem);

// Where the highest block ends.
int64_t height(const Problem& problem, const Offsets& offsets);

// A problem as its caller states it, checked, requests of no bytes left out.
struct Input {
  explicit Input(const wl_memory_problem& given);
  Problem problem;
  std::vector<int64_t> request;  // of each block
  int64_t unit;                  // bytes
  int64_t peak_time;
};

}  // namespace warploom::memory
