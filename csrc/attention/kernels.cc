#include "attention/kernels.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "warploom/attention.h"

namespace warploom::attention {
namespace {

using namespace feature;

enum Index : int {
#define KERNEL(name, ...) index_of_##name,
#include "attention/kernels.def"
#undef KERNEL
};

constexpr Kernel kKernels[] = {
#define KERNEL(name, op, target, dtype, d_max, d_step, features, score) \
  {{index_of_##name, #name, #op, Target::target, features, score}, dtype, d_max, d_step},
#include "attention/kernels.def"
#undef KERNEL
};

constexpr const char* kFeatureNames[] = {
#define FEATURE(name, bit) #name,
#include "attention/features.def"
#undef FEATURE
};

constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16"};
constexpr const char* kDeviceNames[] = {"cpu", "cuda", "hip"};

}  // namespace

std::string Kernel::refuse(const Request& request) const {
  if (dtype != request.dtype) return std::string("it is for ") + kDtypeNames[dtype];
  if (d_max && (request.d > d_max || request.dv > d_max)) {
    return "head dims up to " + std::to_string(d_max) + " only";
  }
  if (request.d % d_step || request.dv % d_step) {
    return "head dims must be multiples of " + std::to_string(d_step);
  }
  return missing_features(request.features, features, kFeatureNames);
}

std::span<const Kernel> kernels() { return kKernels; }

std::span<const char* const> feature_names() { return kFeatureNames; }

std::string describe(const Request& request) {
  std::string text = std::string("attention ") + request.op + " of " + kDtypeNames[request.dtype] +
                     " on " + kDeviceNames[request.device] + ", d " + std::to_string(request.d) +
                     ", dv " + std::to_string(request.dv);
  for (size_t bit = 0; bit < std::size(kFeatureNames); ++bit) {
    if (request.features >> bit & 1) text += std::string(", ") + kFeatureNames[bit];
  }
  if (request.kernel) text += std::string(", kernel=") + request.kernel;
  return text;
}

namespace {

wl_status select(const Request& request, const Kernel** kernel) {
  *kernel = choose(kernels(), request);
  if (*kernel) return WL_OK;
  return fail_text(WL_UNSUPPORTED, nothing_fits(kernels(), request, describe(request)));
}

}  // namespace

wl_status select_and_run(const Request& request, const void* params) {
  const Kernel* kernel;
  WL_RETURN_IF_ERROR(select(request, &kernel));
  if (logging()) log_choice(*kernel, describe(request));
  return run_kernel("attention", *kernel, params);
}

wl_status select_workspace(const Request& request, const void* params, int64_t* bytes) {
  const Kernel* kernel;
  WL_RETURN_IF_ERROR(select(request, &kernel));
  return kernel_workspace("attention", *kernel, params, bytes);
}

namespace {

// What a caller of wl_attention_explain may have got wrong.
wl_status check(const wl_attention_request* r) {
  if (!r) return fail(WL_INVALID, "request is NULL");
  if (r->struct_size != sizeof *r) {
    return fail(WL_INVALID, "struct_size is %u: this library's is %zu", r->struct_size, sizeof *r);
  }
  const std::vector<const char*> ops = ops_of(kernels());
  const auto same = [&](const char* op) { return r->op && std::strcmp(r->op, op) == 0; };
  if (std::none_of(ops.begin(), ops.end(), same)) {
    std::string text = std::string("op is ") + (r->op ? r->op : "NULL") + ": must be one of ";
    for (const char* op : ops) text += std::string(op == ops.front() ? "" : ", ") + op;
    return fail_text(WL_INVALID, text);
  }
  if (r->device < WL_CPU || r->device > WL_HIP) {
    return fail(WL_INVALID, "device is %d: must be 0 (cpu), 1 (cuda) or 2 (hip)", r->device);
  }
  if (r->dtype < WL_F32 || r->dtype > WL_BF16) {
    return fail(WL_INVALID, "dtype is %d: must be 0, 1 or 2", r->dtype);
  }
  if (r->d < 0 || r->dv < 0) {
    return fail(WL_INVALID, "d is %lld and dv is %lld: neither may be negative", (long long)r->d,
                (long long)r->dv);
  }
  if (r->features >> feature_names().size()) {
    return fail(WL_INVALID, "features is 0x%llx: there are %zu, from bit 0",
                (unsigned long long)r->features, feature_names().size());
  }
  return WL_OK;
}

}  // namespace

}  // namespace warploom::attention

extern "C" {

wl_status wl_attention_explain(const wl_attention_request* r, char* text, size_t capacity,
                               size_t* needed) {
  using namespace warploom;
  WL_RETURN_IF_ERROR(attention::check(r));
  const attention::Request request{
      {r->op, wl_device(r->device), r->device_index, r->features, r->kernel},
      wl_dtype(r->dtype),
      r->d,
      r->dv};
  return copy_text(explain_json(attention::kernels(), request), text, capacity, needed);
}

wl_status wl_attention_list_kernels(char* text, size_t capacity, size_t* needed) {
  using namespace warploom;
  const auto more = [](Json& json, const attention::Kernel& kernel) {
    json.field("dtype", attention::kDtypeNames[kernel.dtype]);
    json.field("max_head_dim", kernel.d_max);
    json.field("head_dim_multiple", kernel.d_step);
    json.open("features", '[');
    for (size_t bit = 0; bit < attention::feature_names().size(); ++bit) {
      if (kernel.features >> bit & 1) json.value(attention::feature_names()[bit]);
    }
    json.close(']');
  };
  return copy_text(list_json(attention::kernels(), more), text, capacity, needed);
}
}
