#include "base/registry.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace warploom {
namespace {

struct CpuAvailability {
  Target best;
  std::string problem;
  std::array<std::string, kTargets> reasons;
};

const CpuAvailability& cpu_availability() {
  static const CpuAvailability known = [] {
    CpuAvailability a;
    a.best = cpu_target(&a.problem);
    for (int i = 0; i < kTargets; ++i) {
      if (info(Target(i)).device == WL_CPU) a.reasons[i] = why_unavailable(Target(i), 0);
    }
    return a;
  }();
  return known;
}

}  // namespace

std::string refuse_target(Target target, const KernelRequest& request) {
  if (info(target).device != WL_CPU) return why_unavailable(target, request.device_index);
  const CpuAvailability& cpu = cpu_availability();
  if (!cpu.reasons[int(target)].empty()) return cpu.reasons[int(target)];
  if (request.kernel) return "";  // forced by name: any target that runs here will do
  if (!cpu.problem.empty()) return cpu.problem;
  if (int(target) > int(cpu.best)) {
    return std::string("calls run on ") + info(cpu.best).name + " (WARPLOOM_CPU)";
  }
  return "";
}

std::string missing_features(uint64_t needed, uint64_t supported,
                             std::span<const char* const> names) {
  std::string text;
  for (size_t bit = 0; bit < names.size(); ++bit) {
    if (!((needed & ~supported) >> bit & 1)) continue;
    text += (text.empty() ? "it lacks " : ", ") + std::string(names[bit]);
  }
  return text;
}

namespace {

wl_status table_of(const char* family, const KernelInfo& kernel, KernelTable* table) {
  std::string reason;
  const Backend* backend = backend_of(kernel.target, &reason);
  if (!backend) return fail_text(WL_DEVICE, reason);
  *table = backend->table(family);
  if (kernel.index >= table->count || !table->functions[kernel.index]) {
    return fail(WL_DEVICE, "the library of %s was built without %s", info(kernel.target).name,
                kernel.name);
  }
  return WL_OK;
}

}  // namespace

bool logging() {
  static const bool on = [] {
    const char* value = std::getenv("WARPLOOM_LOG");
    return value && *value && std::strcmp(value, "0") != 0;
  }();
  return on;
}

void log_choice(const KernelInfo& kernel, const std::string& asked) {
  std::fprintf(stderr, "warploom: %s for %s\n", kernel.name, asked.c_str());
}

wl_status run_kernel(const char* family, const KernelInfo& kernel, const void* params) {
  KernelTable table{};
  WL_RETURN_IF_ERROR(table_of(family, kernel, &table));
  return table.functions[kernel.index](params);
}

wl_status kernel_workspace(const char* family, const KernelInfo& kernel, const void* params,
                           int64_t* bytes) {
  KernelTable table{};
  WL_RETURN_IF_ERROR(table_of(family, kernel, &table));
  const WorkspaceFunction needed = table.workspaces ? table.workspaces[kernel.index] : nullptr;
  *bytes = needed ? needed(params) : 0;
  return WL_OK;
}

}  // namespace warploom
