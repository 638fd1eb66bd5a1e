// warploom._core's functions of the cache's format: positional arguments in the order of the C
// parameter structs.
#include "warploom/kv_cache.h"

#include <pybind11/pybind11.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

PyObject* none_after(wl_status status) {
  raise_on_error(status);
  Py_RETURN_NONE;
}

PyObject* quantize(Arguments& a) {
  wl_kv_quantize_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.dtype = int32_t(a.integer());
  p.bits = int32_t(a.integer());
  for (int64_t* size : {&p.n[0], &p.n[1], &p.n[2], &p.d, &p.group}) *size = a.integer();
  p.x = a.strided();
  p.codes = a.pointer<uint8_t>();
  p.min = a.pointer<uint16_t>();
  p.range = a.pointer<uint16_t>();
  a.finish();
  return none_after(released([&] { return wl_kv_quantize(&p); }));
}

PyObject* dequantize(Arguments& a) {
  wl_kv_dequantize_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.dtype = int32_t(a.integer());
  p.bits = int32_t(a.integer());
  for (int64_t* size : {&p.rows, &p.d, &p.group}) *size = a.integer();
  p.codes = a.pointer<const uint8_t>();
  p.min = a.pointer<const uint16_t>();
  p.range = a.pointer<const uint16_t>();
  p.x = a.pointer<void>();
  a.finish();
  return none_after(released([&] { return wl_kv_dequantize(&p); }));
}

PyObject* append(Arguments& a) {
  wl_kv_append_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.pages = a.kv_pages();
  p.dtype = int32_t(a.integer());
  p.n[0] = a.integer();
  p.n[1] = a.integer();
  p.k = a.strided();
  p.v = a.strided();
  p.slots = a.pointer<const int64_t>();
  a.finish();
  return none_after(released([&] { return wl_kv_append(&p); }));
}

template <wl_status (*function)(const wl_kv_blocks_params*)>
PyObject* on_blocks(Arguments& a) {
  wl_kv_blocks_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.pages = a.kv_pages();
  p.count = a.integer();
  p.blocks = a.pointer<const int32_t>();
  p.bits = a.pointer<const int32_t>();
  a.finish();
  return none_after(released([&] { return function(&p); }));
}

PyObject* gather(Arguments& a) {
  wl_kv_gather_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.pages = a.kv_pages();
  p.dtype = int32_t(a.integer());
  p.count = a.integer();
  p.slots = a.pointer<const int64_t>();
  p.k = a.pointer<void>();
  p.v = a.pointer<void>();
  a.finish();
  return none_after(released([&] { return wl_kv_gather(&p); }));
}

PyObject* rotate(Arguments& a) {
  wl_kv_rotate_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.pages = a.kv_pages();
  p.count = a.integer();
  p.index = a.pointer<const int32_t>();
  p.half = a.integer();
  p.interleaved = a.boolean();
  p.cos = a.pointer<const float>();
  p.sin = a.pointer<const float>();
  p.page_stride = a.integer();
  p.position_stride = a.integer();
  a.finish();
  return none_after(released([&] { return wl_kv_rotate(&p); }));
}

PyObject* shrink(Arguments& a) {
  wl_kv_shrink_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  for (int32_t* field : {&p.order, &p.bits, &p.to}) *field = int32_t(a.integer());
  for (int64_t* size : {&p.blocks, &p.pool, &p.count}) *size = a.integer();
  p.codes = a.pointer<uint8_t>();
  p.stride = a.integer();
  p.out = a.pointer<uint8_t>();
  p.out_stride = a.integer();
  p.index = a.pointer<const int32_t>();
  a.finish();
  return none_after(released([&] { return wl_kv_shrink(&p); }));
}

}  // namespace

void bind_kv_cache(py::module_& m) {
  static PyMethodDef methods[] = {
      method<&quantize>("kv_quantize",
                        "exec, dtype, bits, n0, n1, n2, d, group, x, codes, min, range"),
      method<&dequantize>("kv_dequantize",
                          "exec, dtype, bits, rows, d, group, codes, min, range, x"),
      method<&shrink>("kv_shrink",
                      "exec, order, bits, to, blocks, pool, count, codes, stride, out, out_stride, "
                      "index"),
      method<&append>("kv_append", "exec, pages, dtype, n0, n1, k, v, slots"),
      method<&on_blocks<&wl_kv_quantize_pages>>("kv_quantize_pages",
                                                "exec, pages, count, blocks, bits"),
      method<&on_blocks<&wl_kv_shrink_pages>>("kv_shrink_pages",
                                              "exec, pages, count, blocks, bits"),
      method<&gather>("kv_gather", "exec, pages, dtype, count, slots, k, v"),
      method<&rotate>("kv_rotate",
                      "exec, pages, count, index, half, interleaved, cos, sin, page_stride, "
                      "position_stride"),
      {}};
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
  m.def("kv_list_kernels", [] { return text_of(wl_kv_list_kernels); });
}

}  // namespace warploom::bindings
