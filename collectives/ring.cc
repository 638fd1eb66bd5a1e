// Chunks that go round cycles: plain ring, and both ways at once.
#include <algorithm>

#include "collectives/error.h"
#include "collectives/generators.h"

namespace warploom::collectives {

void ride(Schedule& s, const std::vector<int>& cycle, int part, int64_t first, int64_t stride) {
  const int n = s.ranks;
  for (int hop = 0; hop < n; ++hop) {
    for (int place = 0; place < n; ++place) {  // the owner's place on the cycle
      const int source = cycle[(place + hop) % n], target = cycle[(place + hop + 1) % n];
      const int chunk = cycle[place] * s.parts + part;
      const int64_t round = first + hop * stride;
      if (hop < n - 1) s.rounds.put(round, source, target, chunk);
      // The rank after hop h - 1 adds its part of the gradient and passes the sum on.
      if (hop > 0) s.reduction.put(round - stride + 2, source, target, chunk);
    }
  }
}

Schedule ring(const Topology& topology, int parts) {
  Schedule s{"ring", "", WL_MOVES_KV, topology.ranks(), parts ? parts : 1, {}, {}};
  const std::vector<int> cycle = ring_order(topology, false, "ring");
  for (int part = 0; part < s.parts; ++part) ride(s, cycle, part, part, s.parts);
  return s;
}

Schedule bidirectional(const Topology& topology) {
  const int n = topology.ranks();
  std::vector<int> cycle = ring_order(topology, true, "bidirectional");
  // Two ranks have one link each way: there is no second way round.
  Schedule s{"bidirectional", "", WL_MOVES_KV, n, n == 2 ? 1 : 2, {}, {}};
  if (n == 2) s.note = "between 2 ranks there is one way round: this is the plain ring";
  for (int part = 0; part < s.parts; ++part) {
    ride(s, cycle, part, 0, 1);
    std::reverse(cycle.begin(), cycle.end());
  }
  return s;
}

}  // namespace warploom::collectives
