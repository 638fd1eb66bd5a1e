// The C entry points: validate, select, run. Nothing else.
#include "warploom/kv_cache.h"

#include "base/registry.h"
#include "kv_cache/validate.h"

namespace warploom::kv_cache {
namespace {

constexpr int kNoDtype = -1;  // as in kernels.def
constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16"};

struct Request : KernelRequest {
  int dtype;
};

struct Kernel : KernelInfo {
  int dtype;

  std::string refuse(const Request& request) const {
    return dtype == request.dtype ? "" : std::string("it is for ") + kDtypeNames[dtype];
  }
};

enum Index : int {
#define KERNEL(name, ...) index_of_##name,
#include "kv_cache/kernels.def"
#undef KERNEL
};

constexpr Kernel kKernels[] = {
#define KERNEL(name, op, target, dtype, score) \
  {{index_of_##name, #name, #op, Target::target, 0, score}, dtype},
#include "kv_cache/kernels.def"
#undef KERNEL
};

std::string describe(const Request& request) {
  std::string text = std::string("kv_cache ") + request.op;
  if (request.dtype != kNoDtype) text += std::string(" of ") + kDtypeNames[request.dtype];
  constexpr const char* kDeviceNames[] = {"cpu", "cuda", "hip"};
  text += std::string(" on ") + kDeviceNames[request.device];
  if (request.kernel) text += std::string(", kernel=") + request.kernel;
  return text;
}

wl_status select_and_run(const char* op, const wl_exec& exec, int dtype, const void* params) {
  const Request request{{op, wl_device(exec.device), exec.device_index, 0, exec.kernel}, dtype};
  const std::span<const Kernel> kernels = kKernels;
  const Kernel* kernel = choose(kernels, request);
  if (!kernel) return fail_text(WL_UNSUPPORTED, nothing_fits(kernels, request, describe(request)));
  if (logging()) log_choice(*kernel, describe(request));
  return run_kernel("kv_cache", *kernel, params);
}

}  // namespace
}  // namespace warploom::kv_cache

using namespace warploom;
using namespace warploom::kv_cache;

extern "C" {

wl_status wl_kv_quantize(const wl_kv_quantize_params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run("quantize", params->exec, params->dtype, params);
}

wl_status wl_kv_dequantize(const wl_kv_dequantize_params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run("dequantize", params->exec, params->dtype, params);
}

wl_status wl_kv_shrink(const wl_kv_shrink_params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run("shrink", params->exec, kNoDtype, params);
}

wl_status wl_kv_append(const wl_kv_append_params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run("append", params->exec, params->dtype, params);
}

wl_status wl_kv_quantize_pages(const wl_kv_blocks_params* params) {
  WL_RETURN_IF_ERROR(validate(params, true));
  return select_and_run("quantize_pages", params->exec, kNoDtype, params);
}

wl_status wl_kv_shrink_pages(const wl_kv_blocks_params* params) {
  WL_RETURN_IF_ERROR(validate(params, false));
  return select_and_run("shrink_pages", params->exec, kNoDtype, params);
}

wl_status wl_kv_gather(const wl_kv_gather_params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run("gather", params->exec, params->dtype, params);
}

wl_status wl_kv_rotate(const wl_kv_rotate_params* params) {
  WL_RETURN_IF_ERROR(validate(params));
  return select_and_run("rotate", params->exec, kNoDtype, params);
}

wl_status wl_kv_list_kernels(char* text, size_t capacity, size_t* needed) {
  const auto more = [](Json& json, const Kernel& kernel) {
    json.field("dtype", kernel.dtype == kNoDtype ? "" : kDtypeNames[kernel.dtype]);
    json.field("max_head_dim", int64_t{0});
    json.field("head_dim_multiple", int64_t{1});
    json.open("features", '[');
    json.close(']');
  };
  return copy_text(list_json(std::span<const Kernel>(kKernels), more), text, capacity, needed);
}
}
