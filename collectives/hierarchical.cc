// Nodes of several ranks. Every chunk crosses to each other node once, to the rank in the same
// place (a rail), which passes it on inside its node: no card and no link carries more than it
// must. The parts follow each other, so that the links inside a node work while the cards do.
#include "collectives/error.h"
#include "collectives/generators.h"

namespace warploom::collectives {
Schedule hierarchical(const Topology& topology, int parts) {
  const int n = topology.ranks(), u = topology.nodes(), m = topology.ranks_per_node();
  if (u < 2) {
    invalid("kind is 'hierarchical': it needs nodes, and the topology (", topology.name(),
            ") has none: use 'direct'");
  }
  // By default a rank takes in no more in a step than one rank's whole data: up to 2m - 1 chunks.
  Schedule s{"hierarchical", "", WL_MOVES_KV, n, parts ? parts : 2 * m, {}, {}};
  const auto rank = [&](int node, int place) { return node * m + place; };
  for (int part = 0; part < s.parts; ++part) {
    for (int away = 1; away < u; ++away) {
      const int64_t crossing = int64_t(part) * (u - 1) + away - 1;
      for (int owner = 0; owner < n; ++owner) {
        const int home = owner / m, place = owner % m, other = (home + away) % u;
        const int chunk = owner * s.parts + part, relay = rank(other, place);
        if (away == 1) {  // inside its own node while the first copy crosses
          for (int step = 1; step < m; ++step) {
            const int neighbour = rank(home, (place + step) % m);
            s.rounds.put(crossing, owner, neighbour, chunk);
            s.reduction.put(crossing + 2, neighbour, owner, chunk);
          }
        }
        s.rounds.put(crossing, owner, relay, chunk);
        for (int step = 1; step < m; ++step) {
          const int neighbour = rank(other, (place + step) % m);
          s.rounds.put(crossing + 1, relay, neighbour, chunk);
          s.reduction.put(crossing + 3, neighbour, relay, chunk);
        }
        s.reduction.put(crossing + 4, relay, owner, chunk);
      }
    }
  }
  return s;
}

}  // namespace warploom::collectives
