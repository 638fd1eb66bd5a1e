// Kernels live in one shared object per CPU target and per GPU platform, opened when first needed.
// Each exports, for every family, its functions in the order of that family's kernels.def (null
// where the kernel belongs to another target), and what the core must know of its device.
#pragma once

#include <string>

#include "base/fingerprint.h"
#include "base/targets.h"
#include "warploom/base.h"

namespace warploom {

// `params` is the op's parameter struct from include/warploom.
using KernelFunction = wl_status (*)(const void* params);

// Bytes of exec.workspace that a kernel needs for these params.
using WorkspaceFunction = int64_t (*)(const void* params);

struct KernelTable {
  const KernelFunction* functions;
  int count;
  const WorkspaceFunction* workspaces = nullptr;  // by kernel; null entries, or no list: none
};

// What a backend library exports under the name "warploom_backend".
struct Backend {
  uint32_t abi;                                              // WL_ABI_VERSION
  const char* fingerprint;                                   // of the kernel lists and structs
  KernelTable (*table)(const char* family);                  // {nullptr, 0}: family unknown
  std::string (*why_unavailable)(Target, int device_index);  // nullptr: nothing to ask (CPU)
  wl_status (*check)(int device_index);                      // nullptr: nothing runs asynchronously
  void (*configure)(uint64_t seed);  // emulator only: the next launches' order
};

// The library that serves the target: the emulator for GPU targets while this thread emulates.
// nullptr with the reason when it cannot be opened.
const Backend* backend_of(Target target, std::string* reason);

// The GPU library of a device kind, for wl_check.
const Backend* backend_of_device(wl_device device, std::string* reason);

// Whether this thread routes GPU calls to the emulator (wl_emulate).
bool emulating();

// Folder of the backend libraries (beside the core), or WARPLOOM_LIBRARY_PATH.
std::string library_folder();

}  // namespace warploom

#define WARPLOOM_EXPORT_BACKEND(...)                             \
  extern "C" WL_API const warploom::Backend warploom_backend = { \
      WL_ABI_VERSION, WARPLOOM_FINGERPRINT, __VA_ARGS__};
