// warploom._core's planner of memory. Columns arrive as buffers of int64 (int32 for groups).
#include "warploom/memory.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/columns.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

constexpr int64_t kMostSteps = 1000;

py::dict memory_plan(const py::buffer& size, const py::buffer& alloc, const py::buffer& free,
                     int64_t alignment, const std::optional<py::buffer>& alignments,
                     const std::optional<py::buffer>& fixed, const std::optional<py::buffer>& group,
                     double seconds, int64_t work, uint64_t seed, int64_t capacity) {
  const py::buffer_info sizes = size.request(), allocs = alloc.request(), frees = free.request();
  const int64_t count = sizes.size;
  const OptionalColumn<int64_t> own(alignments, count, "alignments"), given(fixed, count, "fixed");
  const OptionalColumn<int32_t> groups(group, count, "group");
  const wl_memory_problem problem{sizeof problem,
                                  count,
                                  column<int64_t>(sizes, count, "size"),
                                  column<int64_t>(allocs, count, "alloc"),
                                  column<int64_t>(frees, count, "free"),
                                  alignment,
                                  own.data,
                                  given.data,
                                  groups.data};
  const wl_memory_options options{sizeof options, seconds, work, seed, capacity};
  wl_memory_result result{};
  result.struct_size = sizeof result;
  std::vector<wl_memory_step> steps(kMostSteps);
  std::string offsets(size_t(count) * sizeof(int64_t), '\0');
  raise_on_error(released([&] {
    return wl_memory_plan(&problem, &options, reinterpret_cast<int64_t*>(offsets.data()), &result,
                          steps.data(), kMostSteps);
  }));
  std::vector<std::tuple<double, int64_t, int64_t, std::string>> history;
  for (int64_t i = 0; i < result.steps; ++i) {
    history.emplace_back(steps[i].seconds, steps[i].work, steps[i].size, steps[i].strategy);
  }
  py::dict answer;
  answer["offsets"] = py::bytes(offsets);
  answer["size"] = result.size;
  answer["lower_bound"] = result.lower_bound;
  answer["peak_time"] = result.peak_time;
  answer["work"] = result.work;
  answer["seconds"] = result.seconds;
  answer["parts"] = result.parts;
  answer["folded"] = result.folded;
  answer["history"] = history;
  return answer;
}

}  // namespace

void bind_memory(py::module_& m) {
  m.def("memory_plan", &memory_plan, py::arg("size"), py::arg("alloc"), py::arg("free"),
        py::arg("alignment"), py::arg("alignments"), py::arg("fixed"), py::arg("group"),
        py::arg("seconds"), py::arg("work"), py::arg("seed"), py::arg("capacity"));
}

}  // namespace warploom::bindings
