// Simulated annealing over orders of the vertices. The cost of an order is the number of cycles
// that none of its arcs belongs to; a move swaps two neighbouring runs of vertices, which keeps the
// direction of every arc but the three where the runs meet.
#include "collectives/rainbow_path.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>

namespace warploom::collectives {
namespace {

// SplitMix64: the standard library's distributions differ between implementations.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return uint32_t((z ^ (z >> 31)) >> 32);
  }
  int below(int limit) { return int((uint64_t(next()) * uint64_t(limit)) >> 32); }

 private:
  uint64_t state_;
};

class Search {
 public:
  explicit Search(int k) : arcs_(k), length_(2 * k + 1), random_(uint64_t(k)), used_(2 * k) {
    path_.resize(length_);
    std::iota(path_.begin(), path_.end(), 0);
    for (int i = 0; i + 1 < length_; ++i) ++used_[colour(i, i + 1)];
    missing_ = int(std::count(used_.begin(), used_.end(), 0));
  }

  std::vector<int> run() {
    while (missing_ > 0) step();
    return path_;
  }

 private:
  // Of the arc that leads from one place of the path to another; -1 beyond an end.
  int colour(int from, int to) const {
    if (from < 0 || to >= length_) return -1;
    return arcs_.cycle(path_[from], path_[to]);
  }

  int drop(int colour) { return colour >= 0 && --used_[colour] == 0; }
  int take(int colour) { return colour >= 0 && used_[colour]++ == 0; }

  // Swaps the runs [a, b) and [b, c), unless chance refuses a worse result.
  void step() {
    int a = random_.below(length_ + 1), b = random_.below(length_ + 1),
        c = random_.below(length_ + 1);
    if (a > b) std::swap(a, b);
    if (b > c) std::swap(b, c);
    if (a > b) std::swap(a, b);
    if (a == b || b == c) return;
    const int before[] = {colour(a - 1, a), colour(b - 1, b), colour(c - 1, c)};
    const int after[] = {colour(a - 1, b), colour(c - 1, a), colour(b - 1, c)};
    int change = 0;
    for (const int each : before) change += drop(each);
    for (const int each : after) change -= take(each);
    // A worse order is taken with a chance of kWorse / 2^32 for each cycle lost.
    bool refused = false;
    for (int lost = 0; lost < change && !refused; ++lost) refused = random_.next() >= kWorse;
    if (refused) {
      for (const int each : after) drop(each);
      for (const int each : before) take(each);
      return;
    }
    missing_ += change;
    std::rotate(path_.begin() + a, path_.begin() + b, path_.begin() + c);
  }

  static constexpr uint32_t kWorse = uint32_t(0.02 * 4294967296.0);

  WaleckiArcs arcs_;
  int length_, missing_ = 0;
  Random random_;
  std::vector<int> path_, used_;
};

}  // namespace

std::vector<int> walecki_cycle(int k, int index) {
  std::vector<int> cycle{2 * k};
  for (int step = 0; step < 2 * k; ++step) {
    const int offset = step % 2 ? (step + 1) / 2 : -step / 2;
    cycle.push_back((index + offset + 2 * k) % (2 * k));
  }
  return cycle;
}

WaleckiArcs::WaleckiArcs(int k) : k_(k), start_(2 * k) {
  const std::vector<int> cycle = walecki_cycle(k, 0);
  for (int i = 1; i + 1 < int(cycle.size()); ++i) {
    start_[(cycle[i + 1] - cycle[i] + 2 * k) % (2 * k)] = cycle[i];
  }
}

int WaleckiArcs::cycle(int source, int target) const {
  const int ring = 2 * k_;
  if (source == ring) return target;
  if (target == ring) return (source + k_) % ring;
  return (source - start_[(target - source + ring) % ring] + ring) % ring;
}

std::vector<int> rainbow_path(int k) { return Search(k).run(); }

}  // namespace warploom::collectives
