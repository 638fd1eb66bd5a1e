// A local search over orders of the vertices. The cost of an order is the number of cycles that
// none of its arcs belongs to. A move puts an arc of such a cycle in, by swapping two neighbouring
// runs of vertices: that keeps the direction of every arc but the three where the runs meet.
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
    place_ = path_;
    for (int i = 0; i + 1 < length_; ++i) ++used_[colour(i, i + 1)];
    missing_ = int(std::count(used_.begin(), used_.end(), 0));
  }

  // Ends for every k that hamiltonian_cycles() allows: the seed fixes the search, and all were run.
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

  // Brings the ends of a random arc of a random missing cycle together.
  void step() {
    int wanted = random_.below(missing_);
    int cycle = 0;
    while (used_[cycle] > 0 || wanted-- > 0) ++cycle;
    const int from = random_.below(length_);
    const int to = place_[arcs_.next(cycle, path_[from])];
    if (to > from) {
      swap(from + 1, to, to + 1 + random_.below(length_ - to));
    } else {
      swap(to, to + 1 + random_.below(from - to), from + 1);
    }
  }

  // Swaps the runs [a, b) and [b, c), unless chance refuses a worse order.
  void swap(int a, int b, int c) {
    const int before[] = {colour(a - 1, a), colour(b - 1, b), colour(c - 1, c)};
    const int after[] = {colour(a - 1, b), colour(c - 1, a), colour(b - 1, c)};
    int worse = 0;
    for (const int each : before) worse += drop(each);
    for (const int each : after) worse -= take(each);
    bool refused = false;
    for (int i = 0; i < worse && !refused; ++i) refused = random_.next() >= kAccept;
    if (refused) {
      for (const int each : after) drop(each);
      for (const int each : before) take(each);
      return;
    }
    missing_ += worse;
    std::rotate(path_.begin() + a, path_.begin() + b, path_.begin() + c);
    for (int i = a; i < c; ++i) place_[path_[i]] = i;
  }

  // Of 2^32: the chance to accept one more missing cycle.
  static constexpr uint32_t kAccept = uint32_t(0.0005 * 4294967296.0);

  WaleckiArcs arcs_;
  int length_, missing_ = 0;
  Random random_;
  std::vector<int> path_, place_, used_;
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

WaleckiArcs::WaleckiArcs(int k)
    : vertices_(2 * k + 1), cycle_(vertices_ * vertices_), next_(2 * k * vertices_) {
  for (int index = 0; index < 2 * k; ++index) {
    const std::vector<int> cycle = walecki_cycle(k, index);
    for (int i = 0; i < vertices_; ++i) {
      const int source = cycle[i], target = cycle[(i + 1) % vertices_];
      cycle_[source * vertices_ + target] = index;
      next_[index * vertices_ + source] = target;
    }
  }
}

std::vector<int> rainbow_path(int k) { return Search(k).run(); }

}  // namespace warploom::collectives
