// Reads the positional arguments of a fast-call function one after another. The hot functions are
// called for every op, so they skip pybind11's overload resolution and its conversion of tuples.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"
#include "warploom/kv_pages.h"

namespace warploom::bindings {

class Arguments {
 public:
  Arguments(PyObject* const* values, Py_ssize_t count) : next_(values), end_(values + count) {}

  int64_t integer() {
    const int64_t value = PyLong_AsLongLong(next());
    if (value == -1) throw_if_raised();
    return value;
  }

  double real() {
    const double value = PyFloat_AsDouble(next());
    if (value == -1) throw_if_raised();
    return value;
  }

  bool boolean() {
    const int value = PyObject_IsTrue(next());
    if (value < 0) throw pybind11::error_already_set();
    return value;
  }

  // An address as an integer; 0 is NULL.
  template <class T>
  T* pointer() {
    void* value = PyLong_AsVoidPtr(next());
    if (!value) throw_if_raised();
    return static_cast<T*>(value);
  }

  // A str, borrowed from the caller for the duration of the call, or None: NULL.
  const char* text() {
    PyObject* value = next();
    if (value == Py_None) return nullptr;
    const char* utf8 = PyUnicode_AsUTF8(value);
    if (!utf8) throw pybind11::error_already_set();
    return utf8;
  }

  // An address and a tuple of the strides of every axis, the last of which is contiguous.
  wl_strided strided() {
    wl_strided result{pointer<void>(), {0, 0, 0}};
    PyObject* strides = next();
    const Py_ssize_t leading = PyTuple_Check(strides) ? PyTuple_GET_SIZE(strides) - 1 : -1;
    if (leading < 0 || leading > 3) throw pybind11::type_error("strides: must be 1 to 4 integers");
    for (Py_ssize_t axis = 0; axis < leading; ++axis) {
      const int64_t stride = PyLong_AsLongLong(PyTuple_GET_ITEM(strides, axis));
      if (stride == -1) throw_if_raised();
      result.stride[3 - leading + axis] = stride;
    }
    return result;
  }

  // The next argument, a list or tuple, to be read in the same way.
  Arguments sequence() {
    PyObject* value = next();
    if (!PyList_Check(value) && !PyTuple_Check(value)) {
      throw pybind11::type_error("must be a list or a tuple");
    }
    return {PySequence_Fast_ITEMS(value), PySequence_Fast_GET_SIZE(value)};
  }

  Py_ssize_t left() const { return end_ - next_; }

  void finish() const {
    if (next_ != end_) throw pybind11::type_error("too many arguments");
  }

  // pages, page, hk, d, dv, key_group, value_group, keys_per_channel, pool, pool_bytes,
  // quantum_bytes, tags, key_grids, value_grids
  wl_kv_pages kv_pages() {
    wl_kv_pages p{};
    for (int64_t* size : {&p.pages, &p.page, &p.hk, &p.d, &p.dv, &p.key_group, &p.value_group}) {
      *size = integer();
    }
    p.keys_per_channel = boolean();
    p.pool = pointer<uint8_t>();
    p.pool_bytes = integer();
    p.quantum_bytes = integer();
    p.tags = pointer<int32_t>();
    p.key_grids = pointer<uint16_t>();
    p.value_grids = pointer<uint16_t>();
    return p;
  }

  // device, device_index, stream, threads, check, kernel, workspace, workspace_bytes
  wl_exec exec() {
    wl_exec e{};
    e.device = int32_t(integer());
    e.device_index = int32_t(integer());
    e.stream = pointer<void>();
    e.threads = int32_t(integer());
    e.check = boolean();
    e.kernel = text();
    e.workspace = pointer<void>();
    e.workspace_bytes = integer();
    return e;
  }

 private:
  PyObject* next() {
    if (next_ == end_) throw pybind11::type_error("too few arguments");
    return *next_++;
  }

  static void throw_if_raised() {
    if (PyErr_Occurred()) throw pybind11::error_already_set();
  }

  PyObject* const* next_;
  PyObject* const* end_;
};

// A Python function of positional arguments around `call(Arguments&)`, which returns a new object.
template <PyObject* (*call)(Arguments&)>
PyObject* fast_call(PyObject*, PyObject* const* values, Py_ssize_t count) {
  try {
    Arguments arguments(values, count);
    return call(arguments);
  } catch (pybind11::error_already_set& raised) {
    raised.restore();
  } catch (const pybind11::builtin_exception& raised) {
    raised.set_error();
  } catch (const std::exception& raised) {
    PyErr_SetString(PyExc_RuntimeError, raised.what());
  }
  return nullptr;
}

// A line of a module's method table.
template <PyObject* (*call)(Arguments&)>
PyMethodDef method(const char* name, const char* doc) {
  // CPython's method table stores every calling convention behind one function type.
  const auto function =
      reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fast_call<call>));
  return {name, function, METH_FASTCALL, doc};
}

}  // namespace warploom::bindings
