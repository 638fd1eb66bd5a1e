// warploom._core's attention functions: positional arguments in the order of the C parameter
// structs, pointers as integers, a tensor as its address and its tuple of strides.
#include "warploom/attention.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

wl_mask mask_of(Arguments& a) {
  const int64_t left = a.integer(), right = a.integer();
  return {left == -1 && right == -1 ? WL_MASK_FULL : WL_MASK_WINDOW, left, right};
}

wl_attention_problem problem_of(Arguments& a) {
  wl_attention_problem p{};
  p.dtype = int32_t(a.integer());
  for (int64_t* size : {&p.b, &p.h, &p.hk, &p.d, &p.dv, &p.sq, &p.sk, &p.tq, &p.tk}) {
    *size = a.integer();
  }
  p.cu_seqlens_q = a.pointer<const int32_t>();
  p.cu_seqlens_k = a.pointer<const int32_t>();
  p.mask = mask_of(a);
  p.scale = float(a.real());
  p.softcap = float(a.real());
  return p;
}

PyObject* none_after(wl_status status) {
  raise_on_error(status);
  Py_RETURN_NONE;
}

PyObject* forward(Arguments& a) {
  wl_attention_forward_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.problem = problem_of(a);
  for (wl_strided* tensor : {&p.q, &p.k, &p.v, &p.o}) *tensor = a.strided();
  p.lse = a.pointer<float>();
  a.finish();
  return none_after(released([&] { return wl_attention_forward(&p); }));
}

wl_attention_backward_params backward_params(Arguments& a) {
  wl_attention_backward_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.problem = problem_of(a);
  for (wl_strided* tensor : {&p.q, &p.k, &p.v, &p.o, &p.grad_o}) *tensor = a.strided();
  p.lse = a.pointer<const float>();
  p.grad_lse = a.pointer<const float>();
  for (wl_strided* tensor : {&p.dq, &p.dk, &p.dv}) *tensor = a.strided();
  a.finish();
  return p;
}

PyObject* backward(Arguments& a) {
  const wl_attention_backward_params p = backward_params(a);
  return none_after(released([&] { return wl_attention_backward(&p); }));
}

PyObject* backward_workspace(Arguments& a) {
  const wl_attention_backward_params p = backward_params(a);
  int64_t bytes = 0;
  raise_on_error(wl_attention_backward_workspace(&p, &bytes));
  return PyLong_FromLongLong(bytes);
}

wl_attention_decode_params decode_params(Arguments& a) {
  wl_attention_decode_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.dtype = int32_t(a.integer());
  for (int64_t* size : {&p.b, &p.s, &p.h, &p.hk, &p.d, &p.dv, &p.capacity, &p.pages}) {
    *size = a.integer();
  }
  p.max_pages = a.integer();
  p.page_table = a.pointer<const int32_t>();
  p.page_table_stride = a.integer();
  p.lengths = a.pointer<const int32_t>();
  p.mask = mask_of(a);
  p.scale = float(a.real());
  p.softcap = float(a.real());
  for (wl_strided* tensor : {&p.q, &p.o, &p.k_cache, &p.v_cache}) *tensor = a.strided();
  p.lse = a.pointer<float>();
  a.finish();
  return p;
}

PyObject* decode(Arguments& a) {
  const wl_attention_decode_params p = decode_params(a);
  return none_after(released([&] { return wl_attention_decode(&p); }));
}

PyObject* decode_workspace(Arguments& a) {
  const wl_attention_decode_params p = decode_params(a);
  int64_t bytes = 0;
  raise_on_error(wl_attention_decode_workspace(&p, &bytes));
  return PyLong_FromLongLong(bytes);
}

wl_attention_pages_params pages_params(Arguments& a) {
  wl_attention_pages_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.dtype = int32_t(a.integer());
  p.precision = int32_t(a.integer());
  for (int64_t* size : {&p.b, &p.s, &p.h}) *size = a.integer();
  p.pages = a.kv_pages();
  p.max_pages = a.integer();
  p.page_table = a.pointer<const int32_t>();
  p.page_table_stride = a.integer();
  p.lengths = a.pointer<const int32_t>();
  p.mask = mask_of(a);
  p.scale = float(a.real());
  p.softcap = float(a.real());
  for (wl_strided* tensor : {&p.q, &p.o}) *tensor = a.strided();
  p.lse = a.pointer<float>();
  a.finish();
  return p;
}

PyObject* pages(Arguments& a) {
  const wl_attention_pages_params p = pages_params(a);
  return none_after(released([&] { return wl_attention_pages(&p); }));
}

PyObject* pages_workspace(Arguments& a) {
  const wl_attention_pages_params p = pages_params(a);
  int64_t bytes = 0;
  raise_on_error(wl_attention_pages_workspace(&p, &bytes));
  return PyLong_FromLongLong(bytes);
}

PyObject* merge(Arguments& a) {
  wl_attention_merge_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.dtype = int32_t(a.integer());
  for (int64_t* size : {&p.b, &p.s, &p.h, &p.dv}) *size = a.integer();
  std::vector<wl_strided> o_parts;
  std::vector<const float*> lse_parts;
  for (Arguments parts = a.sequence(); parts.left() > 0;) o_parts.push_back(parts.strided());
  for (Arguments parts = a.sequence(); parts.left() > 0;) {
    lse_parts.push_back(parts.pointer<const float>());
  }
  if (o_parts.size() != lse_parts.size()) throw py::value_error("as many lse parts as o parts");
  p.parts = int64_t(o_parts.size());
  p.o_parts = o_parts.data();
  p.lse_parts = lse_parts.data();
  p.o = a.strided();
  p.lse = a.pointer<float>();
  a.finish();
  return none_after(released([&] { return wl_attention_merge(&p); }));
}

PyObject* page_write(Arguments& a) {
  wl_page_write_params p{};
  p.struct_size = sizeof p;
  p.exec = a.exec();
  p.dtype = int32_t(a.integer());
  for (int64_t* size : {&p.tokens, &p.hk, &p.d, &p.dv, &p.pages, &p.capacity}) *size = a.integer();
  p.slots = a.pointer<const int64_t>();
  for (wl_strided* tensor : {&p.k, &p.v, &p.k_pages, &p.v_pages}) *tensor = a.strided();
  a.finish();
  return none_after(released([&] { return wl_page_write(&p); }));
}

std::string explain(const std::string& op, int device, int device_index, int dtype, int64_t d,
                    int64_t dv, uint64_t features, const std::optional<std::string>& kernel) {
  const wl_attention_request request{sizeof request,
                                     op.c_str(),
                                     device,
                                     device_index,
                                     dtype,
                                     d,
                                     dv,
                                     features,
                                     kernel ? kernel->c_str() : nullptr};
  return text_of(wl_attention_explain, &request);
}

}  // namespace

void bind_attention(py::module_& m) {
  static PyMethodDef methods[] = {
      method<&forward>("attention_forward", "exec, problem, q, k, v, o, lse"),
      method<&backward>("attention_backward",
                        "exec, problem, q, k, v, o, grad_o, lse, grad_lse, dq, dk, dv"),
      method<&backward_workspace>("attention_backward_workspace", "as attention_backward; bytes"),
      method<&decode_workspace>("attention_decode_workspace", "as attention_decode; bytes"),
      method<&decode>("attention_decode",
                      "exec, dtype, b, s, h, hk, d, dv, capacity, pages, max_pages, page_table, "
                      "page_table_stride, lengths, mask, scale, softcap, q, o, k_cache, v_cache, "
                      "lse"),
      method<&pages_workspace>("attention_pages_workspace", "as attention_pages; bytes"),
      method<&pages>("attention_pages",
                     "exec, dtype, precision, b, s, h, kv_pages, max_pages, page_table, "
                     "page_table_stride, lengths, mask, scale, softcap, q, o, lse"),
      method<&merge>("attention_merge",
                     "exec, dtype, b, s, h, dv, [address, strides, ...] of o parts, [address, ...] "
                     "of lse parts, o, lse"),
      method<&page_write>("page_write",
                          "exec, dtype, tokens, hk, d, dv, pages, capacity, slots, k, v, k_pages, "
                          "v_pages"),
      {}};
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
  py::dict features;
#define FEATURE(name, bit) features[#name] = bit;
#include "attention/features.def"
#undef FEATURE
  m.attr("ATTENTION_FEATURES") = features;
  m.def("attention_explain", &explain);
  m.def("attention_list_kernels", [] { return text_of(wl_attention_list_kernels); });
}

}  // namespace warploom::bindings
