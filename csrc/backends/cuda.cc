// The library of NVIDIA GPUs: every family's table, and what the core asks about a device.
#include <cuda_runtime_api.h>

#include <cstring>
#include <string>

#include "base/backend.h"
#include "base/status.h"

namespace warploom {
namespace {

std::string text_of(cudaError_t error) {
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

struct Platform {
  static constexpr const char* name = "CUDA";
  static std::string current(int* index) { return text_of(cudaGetDevice(index)); }
  static std::string make_current(int index) { return text_of(cudaSetDevice(index)); }
  static std::string synchronize() { return text_of(cudaDeviceSynchronize()); }
  static std::string allocate_mapped(size_t bytes, void** host, void** device) {
    const cudaError_t error = cudaHostAlloc(host, bytes, cudaHostAllocMapped);
    return text_of(error != cudaSuccess ? error : cudaHostGetDevicePointer(device, *host, 0));
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
  // Asked at every call: single attributes are quick to read, all properties are not.
  int major = 0, minor = 0;
  cudaError_t error =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_index);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_index);
  }
  if (error != cudaSuccess) return "CUDA: " + text_of(error);
  const int capability = major * 10 + minor;
  const bool fits = target == Target::sm_90a ? capability == 90 : capability >= 80;
  if (fits) return "";
  return "CUDA device " + std::to_string(device_index) + " has compute capability " +
         std::to_string(major) + "." + std::to_string(minor);
}

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, &warploom::device_problem, &warploom::check, nullptr)
