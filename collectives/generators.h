// One generator a kind. All throw Invalid where the topology lacks a link that they need.
#pragma once

#include <vector>

#include "collectives/schedule.h"
#include "collectives/topology.h"

namespace warploom::collectives {

// `parts` 0 is the kind's own choice.
Schedule ring(const Topology& topology, int parts);
Schedule bidirectional(const Topology& topology);
Schedule hamilton(const Topology& topology);
Schedule direct(const Topology& topology, int parts);
Schedule hierarchical(const Topology& topology, int parts);
Schedule token_ring(const Topology& topology);
// Heads inside groups of `group` neighbours, keys round the groups; Ulysses is one group of all.
Schedule hybrid(const Topology& topology, int group);
Schedule ulysses(const Topology& topology);

// Any of them by name.
Schedule generate(const Topology& topology, const wl_schedule_params& params);

// A cycle through all ranks over links (each linked back, if both_ways), the slowest of which is as
// fast as a bounded search found.
std::vector<int> ring_order(const Topology& topology, bool both_ways, const char* kind);

// Sends part `part` of every owner round `cycle`, its hop h (from 0) in round first + h * stride,
// and lets the gradients ride two rounds behind, home at last.
void ride(Schedule& schedule, const std::vector<int>& cycle, int part, int64_t first,
          int64_t stride);

}  // namespace warploom::collectives
