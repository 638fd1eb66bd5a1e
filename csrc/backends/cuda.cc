// The library of NVIDIA GPUs: every family's table, and what the core asks about a device.
#include <cuda_runtime_api.h>

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
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device_index);
  if (error != cudaSuccess) return std::string("CUDA: ") + cudaGetErrorString(error);
  const int capability = properties.major * 10 + properties.minor;
  const bool fits = target == Target::sm_90a ? capability == 90 : capability >= 80;
  if (fits) return "";
  return std::string(properties.name) + " has compute capability " +
         std::to_string(properties.major) + "." + std::to_string(properties.minor);
}

wl_status check(int device_index) {
  int before = 0;
  cudaError_t error = cudaGetDevice(&before);
  if (error == cudaSuccess) error = cudaSetDevice(device_index);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error != cudaSuccess) {
    return fail(WL_DEVICE, "CUDA device %d: %s", device_index, cudaGetErrorString(error));
  }
  return cudaSetDevice(before) == cudaSuccess ? WL_OK
                                              : fail(WL_DEVICE, "CUDA device %d is gone", before);
}

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, &warploom::device_problem, &warploom::check, nullptr)
