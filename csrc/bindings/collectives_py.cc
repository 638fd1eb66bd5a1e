// warploom._core's topologies and schedules: owners of the C interface's handles. Transfers leave
// and arrive as bytes: int32 [transfers, 3] and int64 [rounds], for numpy to look at.
#include "warploom/collectives.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

struct Destroy {
  void operator()(wl_topology* topology) const { wl_topology_destroy(topology); }
  void operator()(wl_schedule* schedule) const { wl_schedule_destroy(schedule); }
};

struct Topology {
  std::unique_ptr<wl_topology, Destroy> handle;
};

struct Schedule {
  std::unique_ptr<wl_schedule, Destroy> handle;

  wl_schedule_view view() const {
    wl_schedule_view view{};
    view.struct_size = sizeof view;
    raise_on_error(wl_schedule_read(handle.get(), &view));
    return view;
  }
};

Topology topology(const std::string& shape, int ranks, double bandwidth, double latency,
                  double overhead, int nodes, int nics, bool switched, double inter_bandwidth,
                  double inter_latency, const std::vector<double>& matrix) {
  if (shape == "matrix" && matrix.size() != size_t(ranks) * size_t(ranks)) {
    throw py::value_error("matrix: must have ranks * ranks elements");
  }
  const wl_topology_params params{sizeof params, shape.c_str(),   ranks,         bandwidth,
                                  latency,       overhead,        nodes,         nics,
                                  switched,      inter_bandwidth, inter_latency, matrix.data()};
  wl_topology* made = nullptr;
  raise_on_error(wl_topology_create(&params, &made));
  return {std::unique_ptr<wl_topology, Destroy>(made)};
}

Schedule schedule(const Topology& topology, const std::string& kind, int parts, int group) {
  const wl_schedule_params params{sizeof params, kind.c_str(), parts, group};
  wl_schedule* made = nullptr;
  raise_on_error(
      released([&] { return wl_schedule_create(topology.handle.get(), &params, &made); }));
  return {std::unique_ptr<wl_schedule, Destroy>(made)};
}

template <class Element>
std::vector<Element> elements(const py::bytes& bytes, const char* name) {
  const std::string_view text(bytes);
  if (text.size() % sizeof(Element) != 0) {
    throw py::value_error(std::string(name) + ": must be whole elements");
  }
  std::vector<Element> result(text.size() / sizeof(Element));
  std::copy_n(text.data(), text.size(), reinterpret_cast<char*>(result.data()));
  return result;
}

struct FlatRounds {
  FlatRounds(const py::bytes& ends_bytes, const py::bytes& transfer_bytes)
      : ends(elements<int64_t>(ends_bytes, "ends")),
        transfers(elements<wl_transfer>(transfer_bytes, "transfers")) {
    if ((ends.empty() ? 0 : ends.back()) != int64_t(transfers.size())) {
      throw py::value_error("ends: the last must be the number of transfers");
    }
  }
  std::vector<int64_t> ends;
  std::vector<wl_transfer> transfers;
};

Schedule schedule_from(const std::string& kind, const std::string& note, int moves, int ranks,
                       int parts, const py::bytes& ends, const py::bytes& transfers,
                       const py::bytes& reduction_ends, const py::bytes& reduction_transfers) {
  const FlatRounds rounds(ends, transfers), reduction(reduction_ends, reduction_transfers);
  const wl_schedule_view view{sizeof view,
                              kind.c_str(),
                              note.c_str(),
                              moves,
                              ranks,
                              parts,
                              int64_t(rounds.ends.size()),
                              rounds.ends.data(),
                              rounds.transfers.data(),
                              int64_t(reduction.ends.size()),
                              reduction.ends.data(),
                              reduction.transfers.data()};
  wl_schedule* made = nullptr;
  raise_on_error(wl_schedule_import(&view, &made));
  return {std::unique_ptr<wl_schedule, Destroy>(made)};
}

// int32 [count, ranks], and why they are not ranks - 1, or "".
py::tuple hamiltonian_cycles(int ranks) {
  int64_t count = 0;
  const char* note = "";
  const auto call = [&](int32_t* cycles, int64_t capacity) {
    return wl_hamiltonian_cycles(ranks, cycles, capacity, &count, &note);
  };
  raise_on_error(released([&] { return call(nullptr, 0); }));
  std::vector<int32_t> cycles(size_t(count) * size_t(ranks));
  raise_on_error(call(cycles.data(), int64_t(cycles.size())));
  return py::make_tuple(
      py::bytes(reinterpret_cast<const char*>(cycles.data()), cycles.size() * sizeof cycles[0]),
      note);
}

// `shares` empty: equal ones.
wl_pass pass_of(double out, double relay, double home, double compute,
                const std::vector<double>& shares, const Schedule& schedule) {
  if (!shares.empty() && shares.size() != size_t(schedule.view().parts)) {
    throw py::value_error("shares: must have an element for each part");
  }
  return {sizeof(wl_pass), out, relay, home, compute, shares.empty() ? nullptr : shares.data()};
}

py::dict schedule_cost(const Topology& topology, const Schedule& schedule, double out, double relay,
                       double home, double compute, const std::vector<double>& shares) {
  const wl_pass pass = pass_of(out, relay, home, compute, shares, schedule);
  wl_cost cost{};
  cost.struct_size = sizeof cost;
  raise_on_error(released([&] {
    return wl_schedule_cost(topology.handle.get(), schedule.handle.get(), &pass, &cost);
  }));
  py::dict result;
  result["seconds"] = cost.seconds;
  result["communication_seconds"] = cost.communication_seconds;
  result["compute_seconds"] = cost.compute_seconds;
  result["exposed_seconds"] = cost.exposed_seconds;
  result["busiest_seconds"] = cost.busiest_seconds;
  result["bound_seconds"] = cost.bound_seconds;
  result["wire_seconds"] = cost.wire_seconds;
  result["steps"] = cost.steps;
  result["messages"] = cost.messages;
  result["bound"] = cost.bound;
  return result;
}

// (name, bytes, bytes per second) of each link, port, card or bus.
std::vector<std::tuple<std::string, double, double>> schedule_loads(
    const Topology& topology, const Schedule& schedule, double out, double relay, double home,
    const std::vector<double>& shares) {
  const wl_pass pass = pass_of(out, relay, home, 0, shares, schedule);
  int64_t count = 0;
  const auto call = [&](wl_load* loads, int64_t capacity) {
    raise_on_error(wl_schedule_loads(topology.handle.get(), schedule.handle.get(), &pass, loads,
                                     capacity, &count));
  };
  call(nullptr, 0);
  std::vector<wl_load> loads(static_cast<size_t>(count));
  call(loads.data(), count);
  std::vector<std::tuple<std::string, double, double>> result;
  for (const wl_load& load : loads) result.emplace_back(load.name, load.bytes, load.bandwidth);
  return result;
}

py::tuple flat(int64_t rounds, const int64_t* ends, const wl_transfer* transfers) {
  const size_t count = rounds ? size_t(ends[rounds - 1]) : 0;
  return py::make_tuple(
      py::bytes(reinterpret_cast<const char*>(ends), size_t(rounds) * sizeof *ends),
      py::bytes(reinterpret_cast<const char*>(transfers), count * sizeof *transfers));
}

}  // namespace

void bind_collectives(py::module_& m) {
  py::class_<Topology>(m, "Topology");
  py::class_<Schedule>(m, "Schedule")
      .def_property_readonly("kind", [](const Schedule& s) { return s.view().kind; })
      .def_property_readonly("note", [](const Schedule& s) { return s.view().note; })
      .def_property_readonly("moves", [](const Schedule& s) { return s.view().moves; })
      .def_property_readonly("ranks", [](const Schedule& s) { return s.view().ranks; })
      .def_property_readonly("parts", [](const Schedule& s) { return s.view().parts; })
      .def("rounds",
           [](const Schedule& s) {
             const wl_schedule_view v = s.view();
             return flat(v.rounds, v.ends, v.transfers);
           })
      .def("reduction", [](const Schedule& s) {
        const wl_schedule_view v = s.view();
        return flat(v.reduction_rounds, v.reduction_ends, v.reduction_transfers);
      });
  m.def("topology", &topology, py::arg("shape"), py::arg("ranks"), py::arg("bandwidth"),
        py::arg("latency"), py::arg("overhead"), py::arg("nodes"), py::arg("nics"),
        py::arg("switched"), py::arg("inter_bandwidth"), py::arg("inter_latency"),
        py::arg("matrix"));
  m.def("schedule", &schedule, py::arg("topology"), py::arg("kind"), py::arg("parts"),
        py::arg("group"));
  m.def("schedule_from", &schedule_from);
  m.def("schedule_cost", &schedule_cost);
  m.def("schedule_loads", &schedule_loads);
  m.def("hamiltonian_cycles", &hamiltonian_cycles);
  m.def("schedule_verify", [](const Topology& topology, const Schedule& schedule) {
    raise_on_error(
        released([&] { return wl_schedule_verify(topology.handle.get(), schedule.handle.get()); }));
  });
}

}  // namespace warploom::bindings
