// The attention family's kernel list and requests, expanded from kernels.def and features.def.
#pragma once

#include <span>
#include <string>

#include "base/registry.h"
#include "warploom/attention.h"

namespace warploom::attention {

namespace feature {
#define FEATURE(name, bit)                              \
  inline constexpr uint64_t name = WL_ATTENTION_##name; \
  static_assert(name == uint64_t{1} << bit);
#include "attention/features.def"
#undef FEATURE
}  // namespace feature

struct Request : KernelRequest {
  wl_dtype dtype;
  int64_t d, dv;
};

struct Kernel : KernelInfo {
  wl_dtype dtype;
  int64_t d_max;   // 0: any
  int64_t d_step;  // d and dv must be multiples of it

  std::string refuse(const Request& request) const;
};

std::span<const Kernel> kernels();
std::span<const char* const> feature_names();

// One line that says what was asked, for error messages.
std::string describe(const Request& request);

// Chooses (or takes the forced kernel) and runs; fails with every refusal when nothing fits.
wl_status select_and_run(const Request& request, const void* params);

// Chooses in the same way, and asks the kernel for the workspace that it needs.
wl_status select_workspace(const Request& request, const void* params, int64_t* bytes);

}  // namespace warploom::attention
