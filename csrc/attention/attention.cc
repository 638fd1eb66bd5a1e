// The C entry points: validate, select, run. Nothing else.
#include "warploom/attention.h"

#include "attention/kernels.h"
#include "attention/validate.h"

namespace warploom::attention {
namespace {

Request request_of(const char* op, const wl_exec& exec, int32_t dtype, int64_t d, int64_t dv,
                   uint64_t features) {
  return {{op, wl_device(exec.device), exec.device_index, features, exec.kernel},
          wl_dtype(dtype),
          d,
          dv};
}

uint64_t features_of(const wl_mask& mask, float softcap, int64_t h, int64_t hk, int64_t d,
                     int64_t dv) {
  uint64_t bits = 0;
  if (mask.kind == WL_MASK_WINDOW) bits |= feature::WINDOW;
  if (softcap != 0) bits |= feature::SOFTCAP;
  if (h != hk) bits |= feature::GROUPED;
  if (d != dv) bits |= feature::VALUE_DIM;
  return bits;
}

uint64_t features_of(const wl_attention_problem& p) {
  return features_of(p.mask, p.softcap, p.h, p.hk, p.d, p.dv) |
         (p.cu_seqlens_q ? feature::RAGGED : 0);
}

Request request_of(const wl_attention_forward_params& p) {
  return request_of("prefill", p.exec, p.problem.dtype, p.problem.d, p.problem.dv,
                    features_of(p.problem));
}

Request request_of(const wl_attention_backward_params& p) {
  return request_of("backward", p.exec, p.problem.dtype, p.problem.d, p.problem.dv,
                    features_of(p.problem) | (p.grad_lse ? feature::GRAD_LSE : 0));
}

Request request_of(const wl_attention_decode_params& p) {
  return request_of(
      "decode", p.exec, p.dtype, p.d, p.dv,
      features_of(p.mask, p.softcap, p.h, p.hk, p.d, p.dv) | (p.page_table ? feature::PAGED : 0));
}

Request request_of(const wl_attention_pages_params& p) {
  const wl_kv_pages& pages = p.pages;
  return request_of("pages", p.exec, p.dtype, pages.d, pages.dv,
                    features_of(p.mask, p.softcap, p.h, pages.hk, pages.d, pages.dv) |
                        feature::PAGED | (pages.keys_per_channel ? feature::CHANNEL_GRIDS : 0));
}

Request request_of(const wl_attention_merge_params& p) {
  return request_of("merge", p.exec, p.dtype, 0, p.dv, 0);
}

Request request_of(const wl_page_write_params& p) {
  return request_of("page_write", p.exec, p.dtype, p.d, p.dv,
                    feature::PAGED | (p.d != p.dv ? feature::VALUE_DIM : 0));
}

template <class Params>
wl_status validate_and_run(const Params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run(request_of(*params), params);
}

template <class Params>
wl_status validate_and_measure(const Params* params, int64_t* bytes) {
  if (!bytes) return fail(WL_INVALID, "bytes is NULL");
  WL_RETURN_IF_ERROR(validate(params));
  return select_workspace(request_of(*params), params, bytes);
}

}  // namespace
}  // namespace warploom::attention

using namespace warploom;
using namespace warploom::attention;

extern "C" {

wl_status wl_attention_forward(const wl_attention_forward_params* params) {
  return validate_and_run(params);
}

wl_status wl_attention_backward(const wl_attention_backward_params* params) {
  return validate_and_run(params);
}

wl_status wl_attention_decode(const wl_attention_decode_params* params) {
  return validate_and_run(params);
}

wl_status wl_attention_pages(const wl_attention_pages_params* params) {
  return validate_and_run(params);
}

wl_status wl_attention_pages_workspace(const wl_attention_pages_params* params, int64_t* bytes) {
  return validate_and_measure(params, bytes);
}

wl_status wl_attention_backward_workspace(const wl_attention_backward_params* params,
                                          int64_t* bytes) {
  return validate_and_measure(params, bytes);
}

wl_status wl_attention_decode_workspace(const wl_attention_decode_params* params, int64_t* bytes) {
  return validate_and_measure(params, bytes);
}

wl_status wl_attention_merge(const wl_attention_merge_params* params) {
  return validate_and_run(params);
}

wl_status wl_page_write(const wl_page_write_params* params) { return validate_and_run(params); }
}
