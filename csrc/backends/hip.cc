// The library of AMD GPUs: every family's table, and what the core asks about a device.
#include <hip/hip_runtime_api.h>

#include <cstring>

#include "base/backend.h"
#include "base/status.h"

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
  if (error != hipSuccess) return std::string("HIP: ") + hipGetErrorString(error);
  const std::string found = properties.gcnArchName;  // e.g. gfx90a:sramecc+:xnack-
  if (target == Target::gfx90a && found.substr(0, found.find(':')) == "gfx90a") return "";
  return std::string(properties.name) + " is " + found;
}

wl_status check(int device_index) {
  int before = 0;
  hipError_t error = hipGetDevice(&before);
  if (error == hipSuccess) error = hipSetDevice(device_index);
  if (error == hipSuccess) error = hipDeviceSynchronize();
  if (error != hipSuccess) {
    return fail(WL_DEVICE, "HIP device %d: %s", device_index, hipGetErrorString(error));
  }
  return hipSetDevice(before) == hipSuccess ? WL_OK
                                            : fail(WL_DEVICE, "HIP device %d is gone", before);
}

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, &warploom::device_problem, &warploom::check, nullptr)
