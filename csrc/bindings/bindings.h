// What the families' bindings share.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "warploom/base.h"

namespace warploom::bindings {

// Raises the Python exception of a failed status, with the library's sentence.
void raise_on_error(wl_status status);

// Runs a C call that may take long without the interpreter's lock.
template <class Call>
wl_status released(const Call& call) {
  const pybind11::gil_scoped_release release;
  return call();
}

// The document of a C function of the form f(arguments..., text, capacity, needed).
template <class Function, class... Arguments>
std::string text_of(Function function, Arguments... arguments) {
  size_t needed = 0;
  raise_on_error(function(arguments..., nullptr, 0, &needed));
  std::string text(needed, '\0');
  raise_on_error(function(arguments..., text.data(), needed, &needed));
  text.resize(needed - 1);
  return text;
}

void bind_attention(pybind11::module_& m);
void bind_collectives(pybind11::module_& m);
void bind_kv_book(pybind11::module_& m);
void bind_kv_cache(pybind11::module_& m);
void bind_memory(pybind11::module_& m);
void bind_memory_simulation(pybind11::module_& m);
void bind_perf(pybind11::module_& m);

}  // namespace warploom::bindings
