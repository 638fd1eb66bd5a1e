// The C entry points of topologies and schedules.
#include "collectives/generators.h"
#include "collectives/handles.h"
#include "collectives/verify.h"

using namespace warploom::collectives;

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
    *schedule = new wl_schedule(generate(topology->value, *params));
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
    *schedule = new wl_schedule(Schedule{
        view->kind ? view->kind : "", view->note ? view->note : "", wl_moves(view->moves),
        view->ranks, view->parts, Rounds::from(view->rounds, view->ends, view->transfers),
        Rounds::from(view->reduction_rounds, view->reduction_ends, view->reduction_transfers)});
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
             schedule->ends.data(),
             schedule->transfers.data(),
             s.reduction.size(),
             schedule->reduction_ends.data(),
             schedule->reduction_transfers.data()};
  });
}

wl_status wl_schedule_verify(const wl_topology* topology, const wl_schedule* schedule) {
  return guarded([&] {
    check_given(topology, "topology");
    check_given(schedule, "schedule");
    verify(topology->value, schedule->value);
  });
}

}  // extern "C"
