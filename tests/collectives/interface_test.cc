// The C interface of collectives/, as a program without Python uses it, and what it says when it is
// used wrongly. Under the sanitizers this also walks through every generator.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "warploom/collectives.h"

namespace {

int failures = 0;
#define EXPECT(condition)                                                                  \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      ++failures;                                                                          \
      std::printf("%d: not %s (last error: %s)\n", __LINE__, #condition, wl_last_error()); \
    }                                                                                      \
  } while (0)

bool said(const char* words) { return std::strstr(wl_last_error(), words) != nullptr; }

wl_topology_params params_of(const char* shape, int ranks) {
  wl_topology_params p{};
  p.struct_size = sizeof p;
  p.shape = shape;
  p.ranks = ranks;
  p.bandwidth = 64e9;
  p.latency = 3e-6;
  p.nodes = 2;
  p.inter_bandwidth = 8e9;
  return p;
}

wl_topology* topology_of(const char* shape, int ranks) {
  const wl_topology_params p = params_of(shape, ranks);
  wl_topology* topology = nullptr;
  EXPECT(wl_topology_create(&p, &topology) == WL_OK);
  return topology;
}

wl_schedule* schedule_of(const wl_topology* topology, const char* kind, int group = 0) {
  const wl_schedule_params p{sizeof p, kind, 0, group};
  wl_schedule* schedule = nullptr;
  EXPECT(wl_schedule_create(topology, &p, &schedule) == WL_OK);
  return schedule;
}

void every_kind() {
  for (int ranks = 2; ranks <= 16; ++ranks) {
    for (const char* shape : {"full_mesh", "switch", "bus", "nodes"}) {
      if (std::string(shape) == "nodes" && ranks % 2) continue;
      wl_topology* topology = topology_of(shape, ranks);
      for (const char* kind : {"ring", "bidirectional", "hamilton", "direct", "hierarchical",
                               "ulysses", "hybrid", "token_ring"}) {
        if (std::string(kind) == "hierarchical" && std::string(shape) != "nodes") continue;
        if (std::string(kind) == "hybrid" && (ranks % 2 || ranks == 2)) continue;
        wl_schedule* schedule = schedule_of(topology, kind, ranks / 2);
        EXPECT(wl_schedule_verify(topology, schedule) == WL_OK);
        const wl_pass pass{sizeof pass, 1e6, 1e6, 2e6, 1e-3, nullptr};
        wl_cost cost{};
        cost.struct_size = sizeof cost;
        EXPECT(wl_schedule_cost(topology, schedule, &pass, &cost) == WL_OK);
        EXPECT(cost.busiest_seconds >= cost.bound_seconds * (1 - 1e-9));
        int64_t count = 0;
        EXPECT(wl_schedule_loads(topology, schedule, &pass, nullptr, 0, &count) == WL_OK);
        std::vector<wl_load> loads(count);
        EXPECT(wl_schedule_loads(topology, schedule, &pass, loads.data(), count, &count) == WL_OK);
        EXPECT(loads.back().bandwidth > 0 && loads.back().name[0] != 0);
        wl_schedule_destroy(schedule);
      }
      wl_topology_destroy(topology);
    }
  }
}

// A schedule is read, copied and damaged.
void import() {
  wl_topology* topology = topology_of("full_mesh", 5);
  wl_schedule* ring = schedule_of(topology, "ring");
  wl_schedule_view view{};
  view.struct_size = sizeof view;
  EXPECT(wl_schedule_read(ring, &view) == WL_OK);
  EXPECT(view.rounds == 4 && view.ends[3] == 20 && view.reduction_rounds == 6);
  wl_schedule* copy = nullptr;
  EXPECT(wl_schedule_import(&view, &copy) == WL_OK);
  EXPECT(wl_schedule_verify(topology, copy) == WL_OK);
  wl_schedule_destroy(copy);

  std::vector<wl_transfer> transfers(view.transfers, view.transfers + view.ends[3]);
  std::swap(transfers[0], transfers[5]);  // of rounds 0 and 1
  view.transfers = transfers.data();
  EXPECT(wl_schedule_import(&view, &copy) == WL_OK);
  EXPECT(wl_schedule_verify(topology, copy) == WL_INVALID && said("round 0"));
  wl_schedule_destroy(copy);

  transfers[7].target = 5;
  EXPECT(wl_schedule_import(&view, &copy) == WL_INVALID && said("round 1") && said("among 5"));
  view.transfers = nullptr;
  EXPECT(wl_schedule_import(&view, &copy) == WL_INVALID && said("transfers is NULL"));
  view.ends = nullptr;
  EXPECT(wl_schedule_import(&view, &copy) == WL_INVALID && said("ends is NULL"));
  view.rounds = -1;
  EXPECT(wl_schedule_import(&view, &copy) == WL_INVALID && said("rounds is -1"));
  view.moves = 3;
  EXPECT(wl_schedule_import(&view, &copy) == WL_INVALID && said("moves is 3"));
  wl_schedule_destroy(ring);
  wl_topology_destroy(topology);
}

void wrong_arguments() {
  wl_topology* topology = nullptr;
  EXPECT(wl_topology_create(nullptr, &topology) == WL_INVALID && said("params is NULL"));
  wl_topology_params p = params_of("full_mesh", 4);
  p.struct_size = 8;
  EXPECT(wl_topology_create(&p, &topology) == WL_INVALID && said("struct_size is 8"));
  p = params_of("matrix", 4);
  EXPECT(wl_topology_create(&p, &topology) == WL_INVALID && said("matrix is NULL"));
  p = params_of("torus", 4);
  EXPECT(wl_topology_create(&p, &topology) == WL_INVALID && said("shape is 'torus'"));
  p = params_of("nodes", 5);
  EXPECT(wl_topology_create(&p, &topology) == WL_INVALID && said("nodes is 2"));

  topology = topology_of("full_mesh", 4);
  wl_schedule* schedule = nullptr;
  wl_schedule_params kind{sizeof kind, "ring", -1, 0};
  EXPECT(wl_schedule_create(topology, &kind, &schedule) == WL_INVALID && said("parts is -1"));
  EXPECT(wl_schedule_create(nullptr, &kind, &schedule) == WL_INVALID && said("topology is NULL"));
  wl_topology_destroy(topology);

  int64_t count = 0;
  const char* note = nullptr;
  EXPECT(wl_hamiltonian_cycles(4, nullptr, 0, &count, &note) == WL_OK && count == 2);
  EXPECT(std::strstr(note, "Tillson") != nullptr);
  std::vector<int32_t> cycles(8 * 7);
  EXPECT(wl_hamiltonian_cycles(8, cycles.data(), 55, &count, nullptr) == WL_INVALID && said("55"));
  EXPECT(wl_hamiltonian_cycles(8, cycles.data(), 56, &count, nullptr) == WL_OK && count == 7);
  EXPECT(wl_hamiltonian_cycles(1, nullptr, 0, &count, nullptr) == WL_INVALID && said("ranks is 1"));
}

}  // namespace

int main() {
  every_kind();
  import();
  wrong_arguments();
  std::printf("%s: %d failures\n", failures ? "FAILED" : "ok", failures);
  return failures ? 1 : 0;
}
