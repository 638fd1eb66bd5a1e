// One part of everybody's data round each of arc-disjoint Hamiltonian cycles, so that every link
// carries one chunk in every round (TASP, arXiv 2509.26541).
#include "collectives/generators.h"
#include "collectives/hamilton_cycles.h"

namespace warploom::collectives {

Schedule hamilton(const Topology& topology) {
  const int n = topology.ranks();
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      if (i != j) topology.need_link(i, j, "hamilton");
    }
  }
  const auto& [cycles, note] = hamiltonian_cycles(n);
  Schedule s{"hamilton", note, WL_MOVES_KV, n, int(cycles.size()), {}, {}};
  for (int part = 0; part < s.parts; ++part) ride(s, cycles[part], part, 0, 1);
  return s;
}

}  // namespace warploom::collectives
