// The proof that a schedule is right. It shares nothing with the generators but the schedule's
// form.
#pragma once

#include "collectives/schedule.h"
#include "collectives/topology.h"

namespace warploom::collectives {

// Throws Invalid with the first step, rank and chunk at fault.
void verify(const Topology& topology, const Schedule& schedule);

}  // namespace warploom::collectives
