// The library of NVIDIA GPUs: every family's table, and what the core asks about a device.
#include <cuda_runtime_api.h>

#include <cstring>
#include <string>

#include "base/backend.h"
#include "base/status.h"
#include "base/targets.h"

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
  static std::string synchronize(void* stream) {
    return text_of(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  }
  static std::string create_stream(void** stream) {
    return text_of(
        cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking));
  }
  static void destroy_stream(void* stream) {
    static_cast<void>(cudaStreamDestroy(static_cast<cudaStream_t>(stream)));
  }
  static std::string allocate_mapped(size_t bytes, void** host, void** device) {
    const cudaError_t error = cudaHostAlloc(host, bytes, cudaHostAllocMapped);
    return text_of(error != cudaSuccess ? error : cudaHostGetDevicePointer(device, *host, 0));
  }
  static std::string shared_limit(int index, int64_t* bytes) {
    int found = 0;
    const cudaError_t error =
        cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    *bytes = found;
    return text_of(error);
  }
  static void free_mapped(void* host) { static_cast<void>(cudaFreeHost(host)); }

  // Lets this thread allocate and synchronize while the program captures a graph.
  class Uncaptured {
   public:
    Uncaptured() { exchange(); }
    ~Uncaptured() { exchange(); }
    Uncaptured(const Uncaptured&) = delete;
    Uncaptured& operator=(const Uncaptured&) = delete;

   private:
    void exchange() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
  };

  // Why the device's kind cannot run the target. `lasting`: the driver answered.
  static std::string unfit(Target target, int device_index, std::string* device_name,
                           bool* lasting) {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device_index);
    if (error != cudaSuccess) return "CUDA: " + text_of(error);
    *device_name = properties.name;
    *lasting = true;
    const int capability = properties.major * 10 + properties.minor;
    const bool fits = target == Target::sm_90a ? capability == 90 : capability >= 80;
    if (fits) return "";
    return *device_name + " has compute capability " + std::to_string(properties.major) + "." +
           std::to_string(properties.minor);
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

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, &warploom::device_problem, &warploom::check, nullptr)
