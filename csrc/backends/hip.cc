// The library of AMD GPUs: every family's table, and what the core asks about a device.
#include <hip/hip_runtime_api.h>

#include <cstring>
#include <string>

#include "base/backend.h"
#include "base/status.h"

namespace warploom {
namespace {

std::string text_of(hipError_t error) {
  return error == hipSuccess ? "" : hipGetErrorString(error);
}

struct Platform {
  static constexpr const char* name = "HIP";
  static std::string current(int* index) { return text_of(hipGetDevice(index)); }
  static std::string make_current(int index) { return text_of(hipSetDevice(index)); }
  static std::string synchronize() { return text_of(hipDeviceSynchronize()); }
  static std::string allocate_mapped(size_t bytes, void** host, void** device) {
    const hipError_t error = hipHostMalloc(host, bytes, hipHostMallocMapped);
    return text_of(error != hipSuccess ? error : hipHostGetDevicePointer(device, *host, 0));
  }
};

}  // namespace
}  // namespace warploom

#include "backends/gpu_device.h"

namespace warploom {

namespace attention {
KernelTable gpu_table();
}

namespace {

KernelTable table(const char* family) {
  if (std::strcmp(family, "attention") == 0) return attention::gpu_table();
  return {nullptr, 0};
}

std::string device_problem(Target target, int device_index) {
  hipDeviceProp_t properties;
  const hipError_t error = hipGetDeviceProperties(&properties, device_index);
  if (error != hipSuccess) return "HIP: " + text_of(error);
  const std::string found = properties.gcnArchName;  // e.g. gfx90a:sramecc+:xnack-
  if (target == Target::gfx90a && found.substr(0, found.find(':')) == "gfx90a") return "";
  return std::string(properties.name) + " is " + found;
}

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, &warploom::device_problem, &warploom::check, nullptr)
