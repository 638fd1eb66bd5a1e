#include "base/targets.h"

#include <cstdlib>

#include "base/backend.h"
#include "base/cpu_features.h"

namespace warploom {
namespace {

constexpr TargetInfo kInfo[] = {
#define TARGET(name, device, needs) {#name, device, needs},
#include "base/targets.def"
#undef TARGET
};

}  // namespace

const TargetInfo& info(Target target) { return kInfo[int(target)]; }

std::string why_unavailable(Target target, int device_index) {
  if (info(target).device == WL_CPU) {
    std::string missing = cpu_lacks(target);
    if (!missing.empty()) return missing;
  }
  std::string reason;
  const Backend* backend = backend_of(target, &reason);
  if (!backend) return reason;
  return backend->why_unavailable ? backend->why_unavailable(target, device_index) : "";
}

Target cpu_target(std::string* problem) {
  problem->clear();
  if (const char* forced = std::getenv("WARPLOOM_CPU"); forced && *forced) {
    for (int i = 0; i < kTargets; ++i) {
      if (kInfo[i].device != WL_CPU || std::string("cpu_") + forced != kInfo[i].name) continue;
      *problem = why_unavailable(Target(i), 0);
      if (!problem->empty()) *problem = std::string("WARPLOOM_CPU is ") + forced + ": " + *problem;
      return Target(i);
    }
    *problem =
        std::string("WARPLOOM_CPU is ") + forced + ": must be baseline, v3, avx512 or aarch64";
  }
  Target best = Target::cpu_baseline;
  for (int i = 0; i < kTargets; ++i) {
    if (kInfo[i].device == WL_CPU && why_unavailable(Target(i), 0).empty()) best = Target(i);
  }
  return best;
}

}  // namespace warploom
