// The C entry point of the ceilings: validate, select, run.
#include "warploom/perf.h"

#include "base/registry.h"

namespace warploom::perf {
namespace {

struct Kernel : KernelInfo {
  std::string refuse(const KernelRequest&) const { return ""; }
};

enum Index : int {
#define KERNEL(name, ...) index_of_##name,
#include "perf/kernels.def"
#undef KERNEL
};

constexpr Kernel kKernels[] = {
#define KERNEL(name, op, target, score) {{index_of_##name, #name, #op, Target::target, 0, score}},
#include "perf/kernels.def"
#undef KERNEL
};

constexpr const char* kKinds[] = {"f32_fma", "bf16_dot", "read", "copy"};

wl_status validate(const wl_perf_ceiling_params* p) {
  if (!p) return fail(WL_INVALID, "params is NULL");
  if (p->struct_size != sizeof *p) {
    return fail(WL_INVALID, "struct_size is %u: this library's is %zu", p->struct_size, sizeof *p);
  }
  if (p->exec.device < WL_CPU || p->exec.device > WL_HIP) {
    return fail(WL_INVALID, "device is %d: must be 0 (cpu), 1 (cuda) or 2 (hip)", p->exec.device);
  }
  if (!p->kind) return fail(WL_INVALID, "kind is NULL");
  if (!p->value) return fail(WL_INVALID, "value is NULL");
  if (!(p->seconds > 0 && p->seconds <= 60)) {
    return fail(WL_INVALID, "seconds is %g: must be more than 0 and at most 60", p->seconds);
  }
  if (p->exec.workspace && p->exec.workspace_bytes < WL_PERF_CEILING_WORKSPACE) {
    return fail(WL_INVALID, "workspace_bytes is %lld: must be at least %lld",
                static_cast<long long>(p->exec.workspace_bytes),
                static_cast<long long>(WL_PERF_CEILING_WORKSPACE));
  }
  std::string known;
  for (const char* kind : kKinds) {
    if (std::strcmp(kind, p->kind) == 0) return WL_OK;
    known += std::string(known.empty() ? "" : ", ") + kind;
  }
  return fail(WL_INVALID, "kind is '%s': must be one of %s", p->kind, known.c_str());
}

}  // namespace
}  // namespace warploom::perf

extern "C" wl_status wl_perf_ceiling(const wl_perf_ceiling_params* p) {
  using namespace warploom;
  using namespace warploom::perf;
  WL_RETURN_IF_ERROR(validate(p));
  const KernelRequest request{p->kind, wl_device(p->exec.device), p->exec.device_index, 0,
                              p->exec.kernel};
  const std::span<const Kernel> kernels = kKernels;
  const Kernel* kernel = choose(kernels, request);
  if (!kernel) {
    return fail_text(WL_UNSUPPORTED,
                     nothing_fits(kernels, request, std::string("ceiling ") + p->kind));
  }
  return run_kernel("perf", *kernel, p);
}
