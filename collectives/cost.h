// How long a schedule takes, by a model of latency, per-message work and bandwidth.
#pragma once

#include <vector>

#include "collectives/schedule.h"
#include "collectives/topology.h"

namespace warploom::collectives {

// Throws Invalid for numbers that are negative or not finite.
void check_pass(const Schedule& schedule, const wl_pass& pass);

// Bytes of one transfer of `rounds` or of `reduction`.
double out_bytes(const Schedule& schedule, const wl_pass& pass, const wl_transfer& transfer);
double home_bytes(const Schedule& schedule, const wl_pass& pass, const wl_transfer& transfer);

// Bytes over each resource of the topology in a whole pass.
std::vector<double> loads(const Topology& topology, const Schedule& schedule, const wl_pass& pass);

wl_cost cost(const Topology& topology, const Schedule& schedule, const wl_pass& pass);

}  // namespace warploom::collectives
