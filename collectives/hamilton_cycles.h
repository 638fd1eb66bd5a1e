// Arc-disjoint directed Hamiltonian cycles of the complete directed graph.
#pragma once

#include <string>
#include <vector>

namespace warploom::collectives {

struct Cycles {
  std::vector<std::vector<int>> cycles;  // vertices in order, from 0
  std::string note;                      // why they are not n - 1, or ""
};

// n - 1 cycles, which use every arc once; n - 2 for n = 4 and 6, where no more exist (Tillson
// 1980). Throws Invalid for n < 2. The same for every call and machine.
const Cycles& hamiltonian_cycles(int n);

}  // namespace warploom::collectives
