// Odd n = 2k + 1: Walecki's cycles, each way round.
//
// Even n: Walecki's n - 2 cycles on the first n - 1 vertices, and a Hamiltonian path on those that
// takes one arc from each. Every cycle gives its arc a -> b away and takes a -> last -> b instead;
// the path, closed through the last vertex, is the missing cycle.
#include "collectives/hamilton_cycles.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "collectives/error.h"
#include "collectives/rainbow_path.h"

namespace warploom::collectives {
namespace {

constexpr int kMostRanks = 256;  // the search for even n takes some seconds there

std::vector<std::vector<int>> odd(int n) {
  std::vector<std::vector<int>> cycles;
  for (int i = 0; i < n - 1; ++i) cycles.push_back(walecki_cycle((n - 1) / 2, i));
  return cycles;
}

std::vector<std::vector<int>> even(int n) {
  const int k = (n - 2) / 2, last = n - 1;
  std::vector<std::vector<int>> cycles = odd(n - 1);
  const std::vector<int> path = rainbow_path(k);
  const WaleckiArcs arcs(k);
  for (size_t i = 0; i + 1 < path.size(); ++i) {
    std::vector<int>& cycle = cycles[arcs.cycle(path[i], path[i + 1])];
    cycle.insert(std::find(cycle.begin(), cycle.end(), path[i]) + 1, last);
  }
  cycles.push_back(path);
  cycles.back().push_back(last);
  return cycles;
}

// Of 4 and 6 vertices: undirected cycles without a common edge, each way round.
std::vector<std::vector<int>> small(int n) {
  std::vector<std::vector<int>> cycles{{0, 1, 2, 3}};
  if (n == 6) cycles = {{0, 1, 2, 3, 4, 5}, {0, 2, 4, 1, 5, 3}};
  for (int i = 0; i < (n - 2) / 2; ++i) {
    cycles.push_back(cycles[i]);
    std::reverse(cycles.back().begin(), cycles.back().end());
  }
  return cycles;
}

Cycles find(int n) {
  if (n == 2) return {{{0, 1}}, ""};
  if (n == 4 || n == 6) {
    return {small(n),
            say("the ", n * (n - 1), " arcs between ", n, " ranks cannot be divided into ", n - 1,
                " Hamiltonian cycles (no number but 4 and 6 has this; Tillson 1980):", " ", n - 2,
                " cycles are used, and ", n, " arcs stay idle")};
  }
  return {n % 2 ? odd(n) : even(n), ""};
}

}  // namespace

const Cycles& hamiltonian_cycles(int n) {
  if (n < 2 || n > kMostRanks) invalid("ranks is ", n, ": must be 2 to ", kMostRanks);
  static std::mutex mutex;
  static std::map<int, Cycles> found;
  const std::lock_guard lock(mutex);
  const auto known = found.find(n);
  return known != found.end() ? known->second : found.emplace(n, find(n)).first->second;
}

}  // namespace warploom::collectives
