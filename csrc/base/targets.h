// Compilation targets as values: their names, devices, and whether this machine can run them.
#pragma once

#include <string>

#include "warploom/base.h"

namespace warploom {

enum class Target : int {
#define TARGET(name, device, needs) name,
#include "base/targets.def"
#undef TARGET
};

inline constexpr int kTargets = 0
#define TARGET(name, device, needs) +1
#include "base/targets.def"
#undef TARGET
    ;

struct TargetInfo {
  const char* name;
  wl_device device;
  const char* needs;
};

const TargetInfo& info(Target target);

// "" when the kernels of this target can run on that device here, else why not. For GPUs this may
// load the driver's library.
std::string why_unavailable(Target target, int device_index);

// The CPU target that calls run on: the best one available, or the one WARPLOOM_CPU names.
// `problem` says what is wrong when the variable asks for what does not exist or cannot run.
Target cpu_target(std::string* problem);

}  // namespace warploom
