// warploom._core's simulator of the caching allocator. Columns arrive as buffers of integers.
#include "warploom/memory_simulation.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/columns.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

py::tuple moment(const wl_memory_moment& m) {
  return py::make_tuple(m.time, m.reserved, m.allocated);
}

py::dict answer_of(const wl_memory_simulation& result) {
  py::dict answer;
  answer["reserved_peak"] = moment(result.reserved_peak);
  answer["allocated_peak"] = moment(result.allocated_peak);
  answer["worst"] = moment(result.worst);
  answer["last"] = moment(result.last);
  answer["requested_peak"] = result.requested_peak;
  answer["segments_peak"] = result.segments_peak;
  answer["device_allocs"] = result.device_allocs;
  answer["device_frees"] = result.device_frees;
  answer["retries"] = result.retries;
  answer["in_arena"] = result.in_arena;
  answer["conflicts"] = result.conflicts;
  answer["oom_request"] = result.oom_request;
  answer["oom"] = moment(result.oom);
  return answer;
}

using Rounding = std::array<int64_t, WL_MEMORY_ROUNDINGS>;

py::dict memory_simulate(const py::buffer& size, const py::buffer& alloc, const py::buffer& free,
                         const std::optional<py::buffer>& requested,
                         const std::optional<py::buffer>& stream,
                         const std::optional<py::buffer>& pool,
                         const std::optional<py::buffer>& offset, int64_t arena,
                         const py::buffer& empty_cache, const py::buffer& segments,
                         int64_t capacity, double memory_fraction, int64_t max_split_size,
                         int64_t max_non_split_rounding, double garbage_collection_threshold,
                         const Rounding& roundup_power2_divisions, bool expandable_segments,
                         bool log) {
  const py::buffer_info sizes = size.request(), allocs = alloc.request(), frees = free.request();
  const py::buffer_info empties = empty_cache.request(), places = segments.request();
  const int64_t count = sizes.size;
  const OptionalColumn<int64_t> let_go(requested, count, "requested");
  const OptionalColumn<int64_t> offsets(offset, count, "offset");
  const OptionalColumn<int32_t> streams(stream, count, "stream"), pools(pool, count, "pool");
  const wl_memory_requests requests{sizeof requests,
                                    count,
                                    column<int64_t>(sizes, count, "size"),
                                    column<int64_t>(allocs, count, "alloc"),
                                    column<int64_t>(frees, count, "free"),
                                    let_go.data,
                                    streams.data,
                                    pools.data,
                                    offsets.data,
                                    arena,
                                    column<int64_t>(empties, empties.size, "empty_cache"),
                                    empties.size,
                                    column<int64_t>(places, places.size, "segments"),
                                    places.size};
  wl_memory_allocator allocator{};
  allocator.struct_size = sizeof allocator;
  allocator.capacity = capacity;
  allocator.memory_fraction = memory_fraction;
  allocator.max_split_size = max_split_size;
  allocator.max_non_split_rounding = max_non_split_rounding;
  allocator.garbage_collection_threshold = garbage_collection_threshold;
  std::copy(roundup_power2_divisions.begin(), roundup_power2_divisions.end(),
            allocator.roundup_power2_divisions);
  allocator.expandable_segments = expandable_segments;
  wl_memory_simulation result{};
  result.struct_size = sizeof result;
  // Most traces take few events besides those of their requests; the rest need a second pass.
  std::string events;
  for (int64_t room = log ? 4 * count + 64 : 0;; room = result.events) {
    events.resize(size_t(room) * sizeof(wl_memory_event));
    raise_on_error(released([&] {
      return wl_memory_simulate(&requests, &allocator, &result,
                                reinterpret_cast<wl_memory_event*>(events.data()), room);
    }));
    if (!log || result.events <= room) break;
  }
  py::dict answer = answer_of(result);
  if (log) {
    events.resize(size_t(result.events) * sizeof(wl_memory_event));
    answer["log"] = py::bytes(events);
  }
  return answer;
}

}  // namespace

void bind_memory_simulation(py::module_& m) {
  m.def("memory_simulate", &memory_simulate, py::kw_only(), py::arg("size"), py::arg("alloc"),
        py::arg("free"), py::arg("requested"), py::arg("stream"), py::arg("pool"),
        py::arg("offset"), py::arg("arena"), py::arg("empty_cache"), py::arg("segments"),
        py::arg("capacity"), py::arg("memory_fraction"), py::arg("max_split_size"),
        py::arg("max_non_split_rounding"), py::arg("garbage_collection_threshold"),
        py::arg("roundup_power2_divisions"), py::arg("expandable_segments"), py::arg("log"));
}

}  // namespace warploom::bindings
