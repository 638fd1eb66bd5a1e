// Opening a device and calling on it, on a runtime made up here that counts what it is asked for
// and, as real ones do, refuses to allocate while a graph is captured unless the thread says that
// it is outside.
#include <cstdio>
#include <cstdlib>
#include <string>

#define WL_RUNTIME(name) fake##name

namespace {

struct Runtime {
  int current = 0;
  bool capturing = false, out_of_memory = false;
  int allocations = 0, alive = 0, probes = 0, waits = 0;
  std::string mismatch;  // what the layout probe finds
} runtime;

int failures = 0;
#define EXPECT(condition)                                                            \
  do {                                                                               \
    if (!(condition)) ++failures, std::printf("%d: not %s\n", __LINE__, #condition); \
  } while (0)

using fakeError_t = int;
constexpr int fakeSuccess = 0, kCapturing = 1, kMemory = 2, kNoDevice = 3;
const char* fakeGetErrorString(int error) {
  constexpr const char* texts[] = {"", "not while capturing", "out of memory", "no such device"};
  return texts[error];
}

enum fakeStreamCaptureMode { fakeStreamCaptureModeGlobal, fakeStreamCaptureModeRelaxed };
fakeStreamCaptureMode mode = fakeStreamCaptureModeGlobal;
int fakeThreadExchangeStreamCaptureMode(fakeStreamCaptureMode* other) {
  std::swap(mode, *other);
  return 0;
}
int unsafe() {
  return runtime.capturing && mode != fakeStreamCaptureModeRelaxed ? kCapturing : fakeSuccess;
}

int fakeGetDevice(int* index) { return *index = runtime.current, 0; }
int fakeSetDevice(int index) { return runtime.current = index, 0; }
using fakeStream_t = int*;
constexpr unsigned fakeStreamNonBlocking = 1;
int fakeStreamCreateWithFlags(fakeStream_t*, unsigned) { return unsafe(); }
int fakeStreamSynchronize(fakeStream_t) { return unsafe(); }
int fakeStreamDestroy(fakeStream_t) { return 0; }
int fakeDeviceSynchronize() { return ++runtime.waits, unsafe(); }
int fakeHostGetDevicePointer(void** device, void* host, unsigned) { return *device = host, 0; }
struct DeviceProperties {
  char name[16];
  int generation;
};
int fakeGetDeviceProperties(DeviceProperties* properties, int index) {
  if (index > 3) return kNoDevice;
  *properties = {"fake", index == 3 ? 1 : 2};
  return 0;
}
int fakeDeviceGetAttribute(int* value, int, int) { return *value = 1000, 0; }

}  // namespace

#include "base/targets.h"

namespace warploom {
namespace {

struct Platform {
  static constexpr const char* name = "FAKE";
  static constexpr int shared_limit = 0;
  static int allocate_mapped(void** host, size_t bytes) {
    if (const int error = unsafe()) return error;
    if (runtime.out_of_memory) return kMemory;
    *host = std::malloc(bytes);
    return ++runtime.allocations, ++runtime.alive, fakeSuccess;
  }
  static int free_mapped(void* host) { return std::free(host), --runtime.alive, fakeSuccess; }
  static std::string unfit(Target, const DeviceProperties& device) {
    return device.generation < 2 ? "too old" : "";
  }
};

}  // namespace

int64_t layout_probe_bytes();
int64_t layout_probe_bytes() { return 64; }

}  // namespace warploom

#include "backends/gpu_device.h"

namespace warploom {

std::string layout_problem(Target, void*, void*, void*, const std::function<std::string()>& wait,
                           bool* ran) {
  ++runtime.probes;
  const std::string problem = wait();
  *ran = problem.empty();
  return *ran ? runtime.mismatch : problem;
}

namespace {

wl_exec on_device(int index) {
  wl_exec exec{};
  exec.device = WL_CUDA;
  exec.device_index = index;
  return exec;
}

bool said(const char* text) { return std::string(wl_last_error()).find(text) != std::string::npos; }

void a_device_is_opened_once_and_calls_allocate_nothing() {
  EXPECT(device_problem(Target::sm_80, 0).empty());
  EXPECT(device_problem(Target::sm_80, 0).empty());
  EXPECT(runtime.probes == 1 && runtime.allocations == 2 && runtime.alive == 1);
  runtime.capturing = true;
  for (int n = 0; n < 2; ++n) {
    const GpuCall call(on_device(0));
    EXPECT(call.status() == WL_OK && call.error_word() && call.shared_limit() == 1000);
  }
  runtime.capturing = false;
  EXPECT(runtime.allocations == 2 && mode == fakeStreamCaptureModeGlobal);
}

void a_capture_may_be_the_first_to_open_it() {
  runtime.capturing = true;
  EXPECT(device_problem(Target::sm_80, 1).empty());
  EXPECT(GpuCall(on_device(1)).status() == WL_OK);
  EXPECT(mode == fakeStreamCaptureModeGlobal && runtime.current == 0);
  runtime.capturing = false;
}

void an_error_is_told_once_and_on_its_device() {
  *GpuCall(on_device(0)).error_word() = error_word(device_error::slots, 5);
  EXPECT(GpuCall(on_device(1)).status() == WL_OK);
  EXPECT(GpuCall(on_device(0)).status() == WL_DEVICE);
  EXPECT(said("FAKE device 0: an earlier kernel found slots[5]: must be -1"));
  EXPECT(GpuCall(on_device(0)).status() == WL_OK);
  *GpuCall(on_device(1)).error_word() = error_word(device_error::lengths, 0);
  EXPECT(check(0) == WL_OK && check(1) == WL_DEVICE && check(1) == WL_OK);
  EXPECT(runtime.waits == 3 && runtime.current == 0);
}

void what_was_never_opened_has_nothing_to_tell() {
  EXPECT(check(2) == WL_OK);
  EXPECT(GpuCall(on_device(2)).status() == WL_DEVICE);
  EXPECT(said("FAKE device 2: was not opened"));
}

void a_device_that_cannot_be_opened_says_why() {
  const int alive = runtime.alive;
  EXPECT(device_problem(Target::sm_80, 4) == "FAKE: no such device");
  EXPECT(device_problem(Target::sm_80, 3) == "too old");
  runtime.out_of_memory = true;
  EXPECT(device_problem(Target::sm_80, 2) == "FAKE device 2 (fake): out of memory");
  EXPECT(runtime.alive == alive);
  runtime.out_of_memory = false;  // asked again, it opens; its probe finds another layout
  runtime.mismatch = "layout of b";
  EXPECT(device_problem(Target::sm_80, 2) == "FAKE device 2 (fake): layout of b");
  runtime.mismatch = "";
  EXPECT(device_problem(Target::sm_80, 2) == "FAKE device 2 (fake): layout of b");  // for good
}

}  // namespace
}  // namespace warploom

int main() {
  using namespace warploom;
  a_device_is_opened_once_and_calls_allocate_nothing();
  a_capture_may_be_the_first_to_open_it();
  an_error_is_told_once_and_on_its_device();
  what_was_never_opened_has_nothing_to_tell();
  a_device_that_cannot_be_opened_says_why();
  return failures != 0;
}
