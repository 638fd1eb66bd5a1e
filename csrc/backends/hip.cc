// The library of AMD GPUs: every family's table, and what the core asks about a device.
#include <hip/hip_runtime_api.h>

#include <string>

#include "base/targets.h"

#define WL_RUNTIME(name) hip##name

namespace warploom {
namespace {

// What HIP spells in its own way, or means by a device that fits.
struct Platform {
  static constexpr const char* name = "HIP";
  static constexpr auto shared_limit = hipDeviceAttributeMaxSharedMemoryPerBlock;

  static hipError_t allocate_mapped(void** host, size_t bytes) {
    return hipHostMalloc(host, bytes, hipHostMallocMapped);
  }
  static hipError_t free_mapped(void* host) { return hipHostFree(host); }

  // "" or why a device of this kind cannot run the target.
  static std::string unfit(Target target, const hipDeviceProp_t& device) {
    const std::string found = device.gcnArchName;  // e.g. gfx90a:sramecc+:xnack-
    if (target == Target::gfx90a && found.substr(0, found.find(':')) == "gfx90a") return "";
    return std::string(device.name) + " is " + found;
  }
};

using DeviceProperties = hipDeviceProp_t;

}  // namespace
}  // namespace warploom

#include "backends/gpu_device.h"
#include "backends/gpu_families.h"

WARPLOOM_EXPORT_BACKEND(&warploom::gpu_table, &warploom::device_problem, &warploom::check, nullptr)
