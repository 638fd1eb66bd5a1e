// A Hamiltonian path that takes one arc from each of Walecki's directed cycles.
#pragma once

#include <vector>

namespace warploom::collectives {

// Walecki's zigzag cycle number `index` of the `2k` on the vertices 0 .. 2k, the last of which is
// the hub: hub, i, i + 1, i - 1, i + 2, ..., i + k (mod 2k). Cycle i + k is cycle i backwards, so
// the 2k of them use every arc between the 2k + 1 vertices once.
std::vector<int> walecki_cycle(int k, int index);

class WaleckiArcs {
 public:
  explicit WaleckiArcs(int k);
  // The number of the one cycle with this arc.
  int cycle(int source, int target) const { return cycle_[source * vertices_ + target]; }
  // Where a cycle goes from a vertex.
  int next(int cycle, int source) const { return next_[cycle * vertices_ + source]; }

 private:
  int vertices_;
  std::vector<int> cycle_;  // [source, target]
  std::vector<int> next_;   // [cycle, source]
};

// The vertices of such a path, for k >= 3; found by a seeded search, the same every time.
std::vector<int> rainbow_path(int k);

}  // namespace warploom::collectives
