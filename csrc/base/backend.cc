#include "base/backend.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

#include "base/status.h"

namespace warploom {
namespace {

enum Library { kCpuBaseline, kCpuV3, kCpuAvx512, kCpuAarch64, kCuda, kHip, kEmulator, kLibraries };

constexpr const char* kFileNames[kLibraries] = {
    "libwarploom_cpu_baseline.so", "libwarploom_cpu_v3.so", "libwarploom_cpu_avx512.so",
    "libwarploom_cpu_aarch64.so",  "libwarploom_cuda.so",   "libwarploom_hip.so",
    "libwarploom_emulator.so"};

struct Slot {
  bool tried = false;
  const Backend* backend = nullptr;
  std::string reason;
};

std::mutex mutex;
Slot slots[kLibraries];
thread_local bool emulator_on = false;

Library library_of(Target target) {
  switch (target) {
    case Target::cpu_baseline:
      return kCpuBaseline;
    case Target::cpu_v3:
      return kCpuV3;
    case Target::cpu_avx512:
      return kCpuAvx512;
    case Target::cpu_aarch64:
      return kCpuAarch64;
    case Target::sm_80:
    case Target::sm_90a:
      return kCuda;
    case Target::gfx90a:
      return kHip;
  }
  return kCpuBaseline;
}

const Backend* open(Library library, std::string* reason) {
  const std::lock_guard lock(mutex);
  Slot& slot = slots[library];
  if (!slot.tried) {
    slot.tried = true;
    const std::string path = library_folder() + "/" + kFileNames[library];
    if (access(path.c_str(), F_OK) != 0) {
      slot.reason = std::string("this build of the library has no ") + kFileNames[library];
    } else if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      slot.backend = static_cast<const Backend*>(dlsym(handle, "warploom_backend"));
      if (!slot.backend) {
        slot.reason = path + " is not a warploom backend";
      } else if (slot.backend->abi != WL_ABI_VERSION) {
        slot.reason = path + " has ABI " + std::to_string(slot.backend->abi) +
                      ", this library has " + std::to_string(WL_ABI_VERSION);
        slot.backend = nullptr;
      } else if (std::strcmp(slot.backend->fingerprint, WARPLOOM_FINGERPRINT) != 0) {
        slot.reason = path + " belongs to another build of the library: install both again";
        slot.backend = nullptr;
      }
    } else {
      slot.reason = dlerror();
    }
  }
  if (!slot.backend) *reason = slot.reason;
  return slot.backend;
}

}  // namespace

bool emulating() { return emulator_on; }

std::string library_folder() {
  if (const char* folder = std::getenv("WARPLOOM_LIBRARY_PATH")) return folder;
  Dl_info where;
  if (!dladdr(reinterpret_cast<const void*>(&library_folder), &where)) return ".";
  const std::string path = where.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

const Backend* backend_of(Target target, std::string* reason) {
  const bool emulated = emulator_on && info(target).device != WL_CPU;
  return open(emulated ? kEmulator : library_of(target), reason);
}

const Backend* backend_of_device(wl_device device, std::string* reason) {
  if (device == WL_CPU) {
    *reason = "the CPU reports errors at once";
    return nullptr;
  }
  return open(emulator_on ? kEmulator : device == WL_CUDA ? kCuda : kHip, reason);
}

}  // namespace warploom

extern "C" {

wl_status wl_check(int32_t device, int32_t device_index) {
  using namespace warploom;
  if (device == WL_CPU) return WL_OK;
  if (device != WL_CUDA && device != WL_HIP)
    return fail(WL_INVALID, "device is %d: must be 0, 1 or 2", device);
  std::string reason;
  const Backend* backend = backend_of_device(wl_device(device), &reason);
  if (!backend) return fail_text(WL_DEVICE, reason);
  return backend->check ? backend->check(device_index) : WL_OK;
}

wl_status wl_emulate(int32_t enable, uint64_t seed) {
  using namespace warploom;
  if (!enable) {
    emulator_on = false;
    return WL_OK;
  }
  std::string reason;
  const Backend* backend = open(kEmulator, &reason);
  if (!backend) return fail_text(WL_UNSUPPORTED, "the emulator cannot be opened: " + reason);
  backend->configure(seed);
  emulator_on = true;
  return WL_OK;
}
}
