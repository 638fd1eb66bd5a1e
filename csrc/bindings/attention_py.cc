// warploom._core's attention functions: pointers as integers, strides as tuples, in the order of
// the C parameter structs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <vector>

#include "bindings/bindings.h"
#include "warploom/attention.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

using Pointer = uintptr_t;
using View = std::tuple<Pointer, int64_t, int64_t, int64_t>;  // data, three strides
using Exec = std::tuple<int, int, Pointer, int, bool, std::optional<std::string>, Pointer, int64_t>;
using Mask = std::tuple<int, int64_t, int64_t>;

template <class T>
T* pointer(Pointer address) {
  return reinterpret_cast<T*>(address);
}

wl_strided strided(const View& v) {
  return {pointer<void>(std::get<0>(v)), {std::get<1>(v), std::get<2>(v), std::get<3>(v)}};
}

wl_mask mask_of(const Mask& m) { return {std::get<0>(m), std::get<1>(m), std::get<2>(m)}; }

// `exec` must outlive the result: the kernel's name is borrowed from it.
wl_exec exec_of(const Exec& e) {
  const auto& kernel = std::get<5>(e);
  return {std::get<0>(e),
          std::get<1>(e),
          pointer<void>(std::get<2>(e)),
          std::get<3>(e),
          std::get<4>(e),
          kernel ? kernel->c_str() : nullptr,
          pointer<void>(std::get<6>(e)),
          std::get<7>(e)};
}

using Sizes = std::array<int64_t, 9>;  // b, h, hk, d, dv, sq, sk, tq, tk

wl_attention_problem problem_of(int dtype, const Sizes& n, Pointer cu_q, Pointer cu_k,
                                const Mask& mask, float scale, float softcap) {
  return {dtype,
          n[0],
          n[1],
          n[2],
          n[3],
          n[4],
          n[5],
          n[6],
          n[7],
          n[8],
          pointer<const int32_t>(cu_q),
          pointer<const int32_t>(cu_k),
          mask_of(mask),
          scale,
          softcap};
}

void forward(const Exec& exec, int dtype, const Sizes& sizes, Pointer cu_q, Pointer cu_k,
             const Mask& mask, float scale, float softcap, const View& q, const View& k,
             const View& v, const View& o, Pointer lse) {
  const wl_attention_forward_params params{
      sizeof params, exec_of(exec),      problem_of(dtype, sizes, cu_q, cu_k, mask, scale, softcap),
      strided(q),    strided(k),         strided(v),
      strided(o),    pointer<float>(lse)};
  call_released([&] { return wl_attention_forward(&params); });
}

void backward(const Exec& exec, int dtype, const Sizes& sizes, Pointer cu_q, Pointer cu_k,
              const Mask& mask, float scale, float softcap, const View& q, const View& k,
              const View& v, const View& o, const View& grad_o, Pointer lse, Pointer grad_lse,
              const View& dq, const View& dk, const View& dv) {
  const wl_attention_backward_params params{
      sizeof params,
      exec_of(exec),
      problem_of(dtype, sizes, cu_q, cu_k, mask, scale, softcap),
      strided(q),
      strided(k),
      strided(v),
      strided(o),
      strided(grad_o),
      pointer<const float>(lse),
      pointer<const float>(grad_lse),
      strided(dq),
      strided(dk),
      strided(dv)};
  call_released([&] { return wl_attention_backward(&params); });
}

// sizes: b, s, h, hk, d, dv, capacity, pages, max_pages, page_table_stride
void decode(const Exec& exec, int dtype, const std::array<int64_t, 10>& n, Pointer page_table,
            Pointer lengths, const Mask& mask, float scale, float softcap, const View& q,
            const View& o, const View& k_cache, const View& v_cache, Pointer lse) {
  const wl_attention_decode_params params{sizeof params,
                                          exec_of(exec),
                                          dtype,
                                          n[0],
                                          n[1],
                                          n[2],
                                          n[3],
                                          n[4],
                                          n[5],
                                          n[6],
                                          n[7],
                                          n[8],
                                          pointer<const int32_t>(page_table),
                                          n[9],
                                          pointer<const int32_t>(lengths),
                                          mask_of(mask),
                                          scale,
                                          softcap,
                                          strided(q),
                                          strided(o),
                                          strided(k_cache),
                                          strided(v_cache),
                                          pointer<float>(lse)};
  call_released([&] { return wl_attention_decode(&params); });
}

// sizes: b, s, h, dv
void merge(const Exec& exec, int dtype, const std::array<int64_t, 4>& n,
           const std::vector<View>& parts, const std::vector<Pointer>& lses, const View& o,
           Pointer lse) {
  std::vector<wl_strided> o_parts;
  std::vector<const float*> lse_parts;
  for (const View& part : parts) o_parts.push_back(strided(part));
  for (const Pointer part : lses) lse_parts.push_back(pointer<const float>(part));
  if (o_parts.size() != lse_parts.size()) throw py::value_error("as many lse parts as o parts");
  const wl_attention_merge_params params{sizeof params,  exec_of(exec),
                                         dtype,          n[0],
                                         n[1],           n[2],
                                         n[3],           int64_t(o_parts.size()),
                                         o_parts.data(), lse_parts.data(),
                                         strided(o),     pointer<float>(lse)};
  call_released([&] { return wl_attention_merge(&params); });
}

// sizes: tokens, hk, d, dv, pages, capacity
void page_write(const Exec& exec, int dtype, const std::array<int64_t, 6>& n, Pointer slots,
                const View& k, const View& v, const View& k_pages, const View& v_pages) {
  const wl_page_write_params params{sizeof params,
                                    exec_of(exec),
                                    dtype,
                                    n[0],
                                    n[1],
                                    n[2],
                                    n[3],
                                    n[4],
                                    n[5],
                                    pointer<const int64_t>(slots),
                                    strided(k),
                                    strided(v),
                                    strided(k_pages),
                                    strided(v_pages)};
  call_released([&] { return wl_page_write(&params); });
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
  m.def("attention_forward", &forward);
  m.def("attention_backward", &backward);
  m.def("attention_decode", &decode);
  m.def("attention_merge", &merge);
  m.def("page_write", &page_write);
  m.def("attention_explain", &explain);
  m.def("attention_list_kernels", [] { return text_of(wl_attention_list_kernels); });
}

}  // namespace warploom::bindings
