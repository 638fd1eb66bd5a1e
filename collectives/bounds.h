// What no schedule that moves the same data can beat.
#pragma once

#include <string>

#include "collectives/schedule.h"
#include "collectives/topology.h"

namespace warploom::collectives {

struct Bound {
  double seconds = 0;
  std::string reason;
};

// Of the bandwidths alone. For many sets of ranks: what must leave the set, over everything that
// leads out of it. Where one bus carries all: everything that must be delivered, over the bus.
Bound lower_bound(const Topology& topology, const Schedule& schedule, const wl_pass& pass);

}  // namespace warploom::collectives
