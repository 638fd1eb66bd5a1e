// Queries go round, and what each rank computed for them goes straight home meanwhile.
#include "collectives/generators.h"

namespace warploom::collectives {

Schedule token_ring(const Topology& topology) {
  const int n = topology.ranks();
  Schedule s{"token_ring", "", WL_MOVES_Q, n, 1, {}, {}};
  const std::vector<int> cycle = ring_order(topology, false, "token_ring");
  for (int hop = 1; hop < n; ++hop) {
    for (int place = 0; place < n; ++place) {
      const int owner = cycle[place], reader = cycle[(place + hop) % n];
      topology.need_link(reader, owner, "token_ring");
      s.rounds.put(hop - 1, cycle[(place + hop - 1) % n], reader, owner);
      s.reduction.put(hop + 1, reader, owner, owner);
    }
  }
  return s;
}

}  // namespace warploom::collectives
