// Columns of integers that Python hands over as buffers.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

namespace warploom::bindings {

template <class Element>
const Element* column(const pybind11::buffer_info& info, int64_t count, const char* name) {
  if (info.ndim != 1 || info.itemsize != pybind11::ssize_t(sizeof(Element)) || info.size != count ||
      (count > 1 && info.strides[0] != info.itemsize)) {
    throw pybind11::value_error(std::string(name) + ": must be a contiguous column of " +
                                std::to_string(count) + " integers of " +
                                std::to_string(sizeof(Element)) + " bytes");
  }
  return static_cast<const Element*>(info.ptr);
}

// A column that may be missing.
template <class Element>
class OptionalColumn {
 public:
  OptionalColumn(const std::optional<pybind11::buffer>& given, int64_t count, const char* name) {
    if (!given) return;
    info_ = given->request();
    data = column<Element>(info_, count, name);
  }
  const Element* data = nullptr;

 private:
  pybind11::buffer_info info_;
};

}  // namespace warploom::bindings
