// The Python module warploom._core: status codes become exceptions, pointers arrive as integers.
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace warploom::bindings {

namespace {
PyObject* device_error = nullptr;
}

void raise_on_error(wl_status status) {
  if (status == WL_OK) return;
  PyObject* kind = PyExc_RuntimeError;
  switch (status) {
    case WL_INVALID:
      kind = PyExc_ValueError;
      break;
    case WL_UNSUPPORTED:
      kind = PyExc_NotImplementedError;
      break;
    case WL_DEVICE:
      kind = device_error;
      break;
    case WL_TIMEOUT:
      kind = PyExc_TimeoutError;
      break;
    case WL_MEMORY:
      kind = PyExc_MemoryError;
      break;
    case WL_OK:
      return;
  }
  PyErr_SetString(kind, wl_last_error());
  throw py::error_already_set();
}

}  // namespace warploom::bindings

PYBIND11_MODULE(_core, m) {
  using namespace warploom::bindings;
  device_error = PyErr_NewExceptionWithDoc(
      "warploom.DeviceError", "A device or its runtime failed, or a kernel met bad values.",
      PyExc_RuntimeError, nullptr);
  m.add_object("DeviceError", py::reinterpret_borrow<py::object>(device_error));
  m.def("version", &wl_version);
  m.def("describe_system", [] { return text_of(wl_describe_system); });
  m.def("check", [](int device, int index) { raise_on_error(wl_check(device, index)); });
  m.def("emulate", [](bool enable, uint64_t seed) { raise_on_error(wl_emulate(enable, seed)); });
  bind_attention(m);
  bind_collectives(m);
  bind_kv_book(m);
  bind_kv_cache(m);
  bind_memory(m);
  bind_memory_simulation(m);
  bind_perf(m);
}
