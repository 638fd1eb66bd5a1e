// Every owner sends to everybody itself: nothing is forwarded, and gradients come straight home.
#include "collectives/generators.h"

namespace warploom::collectives {

Schedule direct(const Topology& topology, int parts) {
  const int n = topology.ranks();
  Schedule s{"direct", "", WL_MOVES_KV, n, parts ? parts : n - 1, {}, {}};
  for (int distance = 1; distance < n; ++distance) {
    for (int owner = 0; owner < n; ++owner) {
      const int other = (owner + distance) % n;
      topology.need_link(owner, other, "direct");
      topology.need_link(other, owner, "direct");
      for (int part = 0; part < s.parts; ++part) {
        s.rounds.put(part, owner, other, owner * s.parts + part);
        s.reduction.put(part + 2, other, owner, owner * s.parts + part);
      }
    }
  }
  return s;
}

}  // namespace warploom::collectives
