// Which addresses are taken during which slots: placing a block and finding the gap that fits best
// cost about the logarithm of the number of slots, however many blocks there are.
#pragma once

#include <cstdint>
#include <vector>

namespace warploom::memory {

struct Range {
  int64_t low, high;  // [low, high)
};

// Disjoint ranges in order; touching ones are joined, so that a tight pack is few ranges.
class RangeSet {
 public:
  void add(Range range);
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

// A binary tree over the slots. A node knows the addresses that some block takes during all of its
// slots (`whole`), and those that some block takes during any of them (`any`).
class Occupied {
 public:
  explicit Occupied(int32_t slots);

  void add(int32_t begin, int32_t end, Range range);

  // Addresses that are taken in some slot of [begin, end): disjoint, in order; valid until the next
  // call.
  const std::vector<Range>& taken(int32_t begin, int32_t end);

  // How many ranges the last call of taken() was made of.
  int64_t looked_at() const { return looked_at_; }

 private:
  struct Node {
    RangeSet whole, any;
  };
  int32_t leaves_;
  std::vector<Node> nodes_;  // 1 is the root, 2n and 2n + 1 the children of n
  std::vector<Range> found_;
  int64_t looked_at_ = 0;
};

enum class Fit { best, lowest };

// The offset for `size` among taken ranges: in the gap that leaves least (best), or the lowest.
int64_t fitting_offset(const std::vector<Range>& taken, int64_t size, int64_t alignment, Fit fit);

}  // namespace warploom::memory
