// The library of AMD GPUs: every family's table, and what the core asks about a device.
#include <hip/hip_runtime_api.h>

#include <cstring>
#include <string>

#include "base/backend.h"
#include "base/status.h"
#include "base/targets.h"

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
  static std::string synchronize(void* stream) {
    return text_of(hipStreamSynchronize(static_cast<hipStream_t>(stream)));
  }
  static std::string create_stream(void** stream) {
    return text_of(
        hipStreamCreateWithFlags(reinterpret_cast<hipStream_t*>(stream), hipStreamNonBlocking));
  }
  static void destroy_stream(void* stream) {
    static_cast<void>(hipStreamDestroy(static_cast<hipStream_t>(stream)));
  }
  static std::string allocate_mapped(size_t bytes, void** host, void** device) {
    const hipError_t error = hipHostMalloc(host, bytes, hipHostMallocMapped);
    return text_of(error != hipSuccess ? error : hipHostGetDevicePointer(device, *host, 0));
  }
  static std::string shared_limit(int index, int64_t* bytes) {
    int found = 0;
    const hipError_t error =
        hipDeviceGetAttribute(&found, hipDeviceAttributeMaxSharedMemoryPerBlock, index);
    *bytes = found;
    return text_of(error);
  }
  static void free_mapped(void* host) { static_cast<void>(hipHostFree(host)); }

  // Lets this thread allocate and synchronize while the program captures a graph.
  class Uncaptured {
   public:
    Uncaptured() { exchange(); }
    ~Uncaptured() { exchange(); }
    Uncaptured(const Uncaptured&) = delete;
    Uncaptured& operator=(const Uncaptured&) = delete;

   private:
    void exchange() { static_cast<void>(hipThreadExchangeStreamCaptureMode(&mode_)); }
    hipStreamCaptureMode mode_ = hipStreamCaptureModeRelaxed;
  };

  // Why the device's kind cannot run the target. `lasting`: the driver answered.
  static std::string unfit(Target target, int device_index, std::string* device_name,
                           bool* lasting) {
    hipDeviceProp_t properties;
    const hipError_t error = hipGetDeviceProperties(&properties, device_index);
    if (error != hipSuccess) return "HIP: " + text_of(error);
    *device_name = properties.name;
    *lasting = true;
    const std::string found = properties.gcnArchName;  // e.g. gfx90a:sramecc+:xnack-
    if (target == Target::gfx90a && found.substr(0, found.find(':')) == "gfx90a") return "";
    return *device_name + " is " + found;
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
