// warploom._core's ceilings.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "bindings/bindings.h"
#include "warploom/perf.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

double perf_ceiling(const std::string& kind, int threads, double seconds, int device,
                    int device_index, const std::optional<std::string>& kernel, uintptr_t workspace,
                    int64_t workspace_bytes) {
  double value = 0;
  wl_perf_ceiling_params params{};
  params.struct_size = sizeof params;
  params.exec.device = device;
  params.exec.device_index = device_index;
  params.exec.threads = threads;
  params.exec.kernel = kernel ? kernel->c_str() : nullptr;
  params.exec.workspace = reinterpret_cast<void*>(workspace);
  params.exec.workspace_bytes = workspace_bytes;
  params.kind = kind.c_str();
  params.seconds = seconds;
  params.value = &value;
  raise_on_error(released([&] { return wl_perf_ceiling(&params); }));
  return value;
}

}  // namespace

void bind_perf(py::module_& m) {
  m.def("perf_ceiling", &perf_ceiling, py::arg("kind"), py::arg("threads") = 0,
        py::arg("seconds") = 0.2, py::arg("device") = 0, py::arg("device_index") = 0,
        py::arg("kernel") = py::none(), py::arg("workspace") = 0, py::arg("workspace_bytes") = 0);
}

}  // namespace warploom::bindings
