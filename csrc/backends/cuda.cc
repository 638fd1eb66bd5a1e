// The library of NVIDIA GPUs: every family's table, and what the core asks about a device.
#include <cuda_runtime_api.h>

#include <string>

#include "base/targets.h"

#define WL_RUNTIME(name) cuda##name

namespace warploom {
namespace {

// What CUDA spells in its own way, or means by a device that fits.
struct Platform {
  static constexpr const char* name = "CUDA";
  static constexpr auto shared_limit = cudaDevAttrMaxSharedMemoryPerBlockOptin;

  static cudaError_t allocate_mapped(void** host, size_t bytes) {
    return cudaHostAlloc(host, bytes, cudaHostAllocMapped);
  }
  static cudaError_t free_mapped(void* host) { return cudaFreeHost(host); }

  // "" or why a device of this kind cannot run the target.
  static std::string unfit(Target target, const cudaDeviceProp& device) {
    const int capability = device.major * 10 + device.minor;
    if (target == Target::sm_90a ? capability == 90 : capability >= 80) return "";
    return std::string(device.name) + " has compute capability " + std::to_string(device.major) +
           "." + std::to_string(device.minor);
  }
};

using DeviceProperties = cudaDeviceProp;

}  // namespace
}  // namespace warploom

#include "backends/gpu_device.h"
#include "backends/gpu_families.h"

WARPLOOM_EXPORT_BACKEND(&warploom::gpu_table, &warploom::device_problem, &warploom::check, nullptr)
