// The order of ranks on a ring. Where links differ, the slowest one sets the pace, so the cycle
// whose slowest link is fastest is looked for: thresholds by bisection, a depth-first search for
// each.
#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "collectives/error.h"
#include "collectives/generators.h"

namespace warploom::collectives {
namespace {

constexpr int64_t kMostVisits = 100000;  // of the depth-first search, for each threshold

class CycleSearch {
 public:
  CycleSearch(int n, std::vector<double> bandwidth) : n_(n), bandwidth_(std::move(bandwidth)) {}

  // A Hamiltonian cycle over links of at least `least`; empty if none was found.
  std::vector<int> find(double least) {
    least_ = least;
    visits_ = 0;
    visited_.assign(n_, 0);
    order_ = {0};
    visited_[0] = 1;
    if (!extend()) order_.clear();
    return order_;
  }

  bool exhausted() const { return visits_ >= kMostVisits; }
  double at(int i, int j) const { return bandwidth_[size_t(i) * n_ + j]; }

 private:
  bool linked(int i, int j) const { return at(i, j) > 0 && at(i, j) >= least_; }

  int onward(int i) const {
    int count = 0;
    for (int j = 0; j < n_; ++j) count += !visited_[j] && linked(i, j);
    return count;
  }

  bool extend() {
    if (++visits_ >= kMostVisits) return false;
    const int end = order_.back();
    if (int(order_.size()) == n_) return linked(end, 0);
    // Ranks with the fewest ways on first: they are the hardest to reach later.
    std::vector<std::pair<int, int>> next;
    for (int j = 0; j < n_; ++j) {
      if (!visited_[j] && linked(end, j)) next.emplace_back(onward(j), j);
    }
    std::sort(next.begin(), next.end());
    for (const auto& [ways, j] : next) {
      visited_[j] = 1;
      order_.push_back(j);
      if (extend()) return true;
      order_.pop_back();
      visited_[j] = 0;
    }
    return false;
  }

  int n_;
  std::vector<double> bandwidth_;
  double least_ = 0;
  int64_t visits_ = 0;
  std::vector<char> visited_;
  std::vector<int> order_;
};

}  // namespace

std::vector<int> ring_order(const Topology& topology, bool both_ways, const char* kind) {
  const int n = topology.ranks();
  std::vector<int> identity(n);
  std::iota(identity.begin(), identity.end(), 0);
  // Shared ports make every order alike, and the ranks of a node are numbered together.
  if (!topology.exclusive()) return identity;

  std::vector<double> bandwidth(size_t(n) * n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      double& value = bandwidth[size_t(i) * n + j];
      if (i != j) value = topology.bandwidth(i, j);
      if (i != j && both_ways) value = std::min(value, topology.bandwidth(j, i));
    }
  }
  CycleSearch search(n, bandwidth);
  double reachable = std::numeric_limits<double>::infinity();  // no cycle can be faster than this
  double natural = reachable;
  for (int i = 0; i < n; ++i) {
    double out = 0, in = 0;
    for (int j = 0; j < n; ++j) {
      out = std::max(out, search.at(i, j));
      in = std::max(in, search.at(j, i));
    }
    reachable = std::min({reachable, out, in});
    natural = std::min(natural, search.at(i, (i + 1) % n));
  }
  if (natural > 0 && natural >= reachable) return identity;

  std::vector<double> thresholds;
  for (const double value : bandwidth) {
    if (value > natural && value <= reachable) thresholds.push_back(value);
  }
  std::sort(thresholds.begin(), thresholds.end());
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  std::vector<int> best = natural > 0 ? identity : search.find(0);
  if (best.empty()) {
    invalid("kind is '", kind, "': it needs a cycle through all ranks, ",
            both_ways ? "linked both ways, " : "", "and ",
            search.exhausted() ? "none was found" : "there is none", " in the topology (",
            topology.name(), ")");
  }
  for (size_t low = 0, high = thresholds.size(); low < high;) {
    const size_t middle = (low + high) / 2;
    std::vector<int> order = search.find(thresholds[middle]);
    if (order.empty()) {
      high = middle;
    } else {
      best = std::move(order);
      low = middle + 1;
    }
  }
  return best;
}

}  // namespace warploom::collectives
