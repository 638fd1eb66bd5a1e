// The C entry points of topologies and schedules.
#include <algorithm>
#include <cstring>

#include "collectives/cost.h"
#include "collectives/generators.h"
#include "collectives/hamilton_cycles.h"
#include "collectives/handles.h"
#include "collectives/verify.h"

using namespace warploom::collectives;

namespace {

void check_same_ranks(const wl_topology* topology, const wl_schedule* schedule) {
  check_given(topology, "topology");
  check_given(schedule, "schedule");
  if (topology->value.ranks() != schedule->value.ranks) {
    invalid("the schedule is for ", schedule->value.ranks, " ranks: the topology has ",
            topology->value.ranks());
  }
}

}  // namespace

extern "C" {

wl_status wl_topology_create(const wl_topology_params* params, wl_topology** topology) {
  return guarded([&] {
    check_size(params);
    check_given(topology, "topology");
    *topology = new wl_topology{Topology(*params)};
  });
}

void wl_topology_destroy(wl_topology* topology) { delete topology; }

wl_status wl_schedule_create(const wl_topology* topology, const wl_schedule_params* params,
                             wl_schedule** schedule) {
  return guarded([&] {
    check_size(params);
    check_given(topology, "topology");
    check_given(schedule, "schedule");
    Schedule made = generate(topology->value, *params);
    made.rounds.seal();
    made.reduction.seal();
    *schedule = new wl_schedule{std::move(made)};
  });
}

wl_status wl_schedule_import(const wl_schedule_view* view, wl_schedule** schedule) {
  return guarded([&] {
    check_size(view);
    check_given(schedule, "schedule");
    if (view->ranks < 2) invalid("ranks is ", view->ranks, ": must be at least 2");
    if (view->parts < 1) invalid("parts is ", view->parts, ": must be at least 1");
    if (view->moves < WL_MOVES_KV || view->moves > WL_MOVES_HEADS) {
      invalid("moves is ", view->moves, ": must be 0 (kv), 1 (q) or 2 (heads)");
    }
    if (view->moves == WL_MOVES_HEADS && view->ranks % view->parts != 0) {
      invalid("parts is ", view->parts, ": with heads it must divide the ", view->ranks, " ranks");
    }
    Schedule made{
        view->kind ? view->kind : "",
        view->note ? view->note : "",
        wl_moves(view->moves),
        view->ranks,
        view->parts,
        Rounds::sealed(view->rounds, view->ends, view->transfers),
        Rounds::sealed(view->reduction_rounds, view->reduction_ends, view->reduction_transfers)};
    made.check_range();
    *schedule = new wl_schedule{std::move(made)};
  });
}

void wl_schedule_destroy(wl_schedule* schedule) { delete schedule; }

wl_status wl_schedule_read(const wl_schedule* schedule, wl_schedule_view* view) {
  return guarded([&] {
    check_given(schedule, "schedule");
    check_size(view);
    const Schedule& s = schedule->value;
    *view = {sizeof *view,
             s.kind.c_str(),
             s.note.c_str(),
             s.moves,
             s.ranks,
             s.parts,
             s.rounds.size(),
             s.rounds.ends(),
             s.rounds.transfers(),
             s.reduction.size(),
             s.reduction.ends(),
             s.reduction.transfers()};
  });
}

wl_status wl_hamiltonian_cycles(int32_t ranks, int32_t* cycles, int64_t capacity, int64_t* count,
                                const char** note) {
  return guarded([&] {
    check_given(count, "count");
    const Cycles& found = hamiltonian_cycles(ranks);
    *count = int64_t(found.cycles.size());
    if (note) *note = found.note.c_str();
    if (!cycles) return;
    if (capacity < *count * ranks) {
      invalid("capacity is ", capacity, ": the cycles have ", *count * ranks, " elements");
    }
    for (const auto& cycle : found.cycles) cycles = std::copy(cycle.begin(), cycle.end(), cycles);
  });
}

wl_status wl_schedule_verify(const wl_topology* topology, const wl_schedule* schedule) {
  return guarded([&] {
    check_given(topology, "topology");
    check_given(schedule, "schedule");
    verify(topology->value, schedule->value);
  });
}

wl_status wl_schedule_cost(const wl_topology* topology, const wl_schedule* schedule,
                           const wl_pass* pass, wl_cost* result) {
  return guarded([&] {
    check_same_ranks(topology, schedule);
    check_size(pass);
    check_size(result);
    check_pass(schedule->value, *pass);
    *result = cost(topology->value, schedule->value, *pass);
  });
}

wl_status wl_schedule_loads(const wl_topology* topology, const wl_schedule* schedule,
                            const wl_pass* pass, wl_load* result, int64_t capacity,
                            int64_t* count) {
  return guarded([&] {
    check_same_ranks(topology, schedule);
    check_size(pass);
    check_given(count, "count");
    check_pass(schedule->value, *pass);
    const std::vector<Resource>& resources = topology->value.resources();
    *count = int64_t(resources.size());
    if (!result) return;
    const std::vector<double> bytes = loads(topology->value, schedule->value, *pass);
    for (int64_t i = 0; i < std::min(capacity, *count); ++i) {
      result[i] = {{}, bytes[i], resources[i].bandwidth};
      std::strncpy(result[i].name, resources[i].name().c_str(), sizeof result[i].name - 1);
    }
  });
}

}  // extern "C"
