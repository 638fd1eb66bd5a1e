#include "collectives/bounds.h"

#include <algorithm>
#include <vector>

#include "collectives/error.h"

namespace warploom::collectives {
namespace {

constexpr int kMostRanksForAllSets = 10;

using Set = std::vector<char>;  // of ranks: is it in?

// Bytes that must leave a set of ranks.
struct Crossing {
  double out = 0;   // of what its members own, all that others need, once
  double home = 0;  // of its contributions to what others own, summed on the way
};

class Search {
 public:
  Search(const Topology& topology, const Schedule& schedule, const wl_pass& pass)
      : topology_(topology), s_(schedule), pass_(pass), n_(schedule.ranks) {}

  Bound run() {
    const int m = topology_.ranks_per_node();
    for (int rank = 0; rank < n_; ++rank) both_ways(range(rank, rank + 1), say("rank ", rank));
    between(1, "between ranks");
    if (topology_.nodes() > 1) {
      for (int node = 0; node < topology_.nodes(); ++node) {
        both_ways(range(node * m, (node + 1) * m), say("node ", node));
      }
      between(m, "between nodes");
    }
    for (int end = 2; end < n_ - 1; ++end) both_ways(range(0, end), say("ranks 0 to ", end - 1));
    for (int bits = 1; n_ <= kMostRanksForAllSets && bits + 1 < 1 << n_; ++bits) {
      Set in(n_);
      std::string name = "out of ranks";
      for (int rank = 0; rank < n_; ++rank) {
        in[rank] = bits >> rank & 1;
        if (in[rank]) name += say(" ", rank);
      }
      leave(in, name);
    }
    return best_;
  }

 private:
  Set range(int begin, int end) const {
    Set in(n_);
    std::fill(in.begin() + begin, in.begin() + end, 1);
    return in;
  }

  static Set complement(Set in) {
    for (char& each : in) each = !each;
    return in;
  }

  void both_ways(const Set& in, const std::string& name) {
    leave(in, "out of " + name);
    leave(complement(in), "into " + name);
  }

  void leave(const Set& in, const std::string& name) {
    const Crossing bytes = crossing(in);
    const double bandwidth = capacity([&](int i, int j) { return in[i] && !in[j]; });
    take((bytes.out + bytes.home) / bandwidth, name);
  }

  // Every group takes in what it needs, and gives out its contributions.
  void between(int group, const std::string& name) {
    double bytes = 0;
    for (int begin = 0; begin < n_; begin += group) {
      const Set in = range(begin, begin + group);
      bytes += crossing(complement(in)).out + crossing(in).home;
    }
    take(bytes / capacity([&](int i, int j) { return i / group != j / group; }), name);
  }

  // Bytes per second of all ways between certain pairs. Each way takes a first resource on the
  // sender's side and a last one on the receiver's, and both are shared: the smaller of their sums,
  // at most.
  template <class Wanted>
  double capacity(const Wanted& wanted) const {
    std::vector<char> first(topology_.resources().size()), last(first);
    for (int i = 0; i < n_; ++i) {
      for (int j = 0; j < n_; ++j) {
        const Path& path = topology_.path(i, j);
        if (!path.linked() || !wanted(i, j)) continue;
        first[*path.begin()] = 1;
        last[*(path.end() - 1)] = 1;
      }
    }
    double out = 0, into = 0;
    for (size_t r = 0; r < first.size(); ++r) {
      if (first[r]) out += topology_.resources()[r].bandwidth;
      if (last[r]) into += topology_.resources()[r].bandwidth;
    }
    return std::min(out, into);
  }

  Crossing crossing(const Set& in) const {
    Crossing bytes;
    if (s_.moves != WL_MOVES_HEADS) {
      for (int owner = 0; owner < n_; ++owner) {
        (in[owner] ? bytes.out : bytes.home) += in[owner] ? pass_.out_bytes : pass_.home_bytes;
      }
      return bytes;
    }
    std::vector<char> read_outside(s_.parts);
    for (int rank = 0; rank < n_; ++rank) {
      if (!in[rank]) read_outside[rank % s_.parts] = 1;
    }
    for (int chunk = 0; chunk < s_.chunks(); ++chunk) {
      const int owner = s_.owner(chunk), part = s_.part(chunk);
      const int answers = owner / s_.parts * s_.parts + part;  // the rank that has its queries
      const double share = pass_.shares ? pass_.shares[part] : 1.0 / s_.parts;
      if (in[owner] && !in[answers]) {
        bytes.out += pass_.out_bytes * share;
      } else if (in[owner] && read_outside[part]) {
        bytes.out += pass_.relay_bytes * share;
      } else if (!in[owner] && in[answers]) {
        bytes.home += pass_.home_bytes * share;
      }
    }
    return bytes;
  }

  void take(double seconds, const std::string& reason) {
    if (seconds > best_.seconds * (1 + 1e-12)) best_ = {seconds, reason};
  }

  const Topology& topology_;
  const Schedule& s_;
  const wl_pass& pass_;
  int n_;
  Bound best_;
};

}  // namespace

Bound lower_bound(const Topology& topology, const Schedule& schedule, const wl_pass& pass) {
  return Search(topology, schedule, pass).run();
}

}  // namespace warploom::collectives
