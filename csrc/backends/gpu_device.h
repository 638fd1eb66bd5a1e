// What the CUDA and HIP libraries do alike: whether a device may be used at all, a current device
// for each call, and one error word for each device in host memory that kernels can write.
//
// Included once, after WL_RUNTIME(name), which spells a name of the runtime (cudaGetDevice,
// hipGetDevice), `DeviceProperties`, and `struct Platform` with what the two do not spell alike.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "backends/layout_gate.h"
#include "base/device_errors.h"
#include "base/gpu_runtime.h"
#include "base/targets.h"

namespace warploom {

// "" or what went wrong.
inline std::string text_of(WL_RUNTIME(Error_t) error) {
  return error == WL_RUNTIME(Success) ? "" : WL_RUNTIME(GetErrorString)(error);
}

// Makes a device current while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index) {
    problem_ = text_of(WL_RUNTIME(GetDevice)(&before_));
    if (problem_.empty() && index != before_) {
      problem_ = text_of(WL_RUNTIME(SetDevice)(index));
      changed_ = problem_.empty();
    }
  }
  ~CurrentDevice() {
    if (changed_) static_cast<void>(WL_RUNTIME(SetDevice)(before_));
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  const std::string& problem() const { return problem_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  std::string problem_;
};

namespace {

// Lets this thread allocate and synchronize while the program captures a graph.
class Uncaptured {
 public:
  Uncaptured() { exchange(); }
  ~Uncaptured() { exchange(); }
  Uncaptured(const Uncaptured&) = delete;
  Uncaptured& operator=(const Uncaptured&) = delete;

 private:
  void exchange() { static_cast<void>(WL_RUNTIME(ThreadExchangeStreamCaptureMode)(&mode_)); }
  WL_RUNTIME(StreamCaptureMode) mode_ = WL_RUNTIME(StreamCaptureModeRelaxed);
};

// Host memory that the current device can write too.
struct Mapped {
  void* host = nullptr;
  void* device = nullptr;

  std::string allocate(size_t bytes) {
    const std::string problem = text_of(Platform::allocate_mapped(&host, bytes));
    return problem.empty() ? text_of(WL_RUNTIME(HostGetDevicePointer)(&device, host, 0)) : problem;
  }
  void free() {
    if (host) static_cast<void>(Platform::free_mapped(host));
    host = nullptr;
  }
};

// Where a device's kernels leave an error, as the host and as they see it.
struct ErrorWord {
  int32_t* host = nullptr;
  int32_t* device = nullptr;
};

// The words of the devices that were opened. They are never freed, since kernels may still be under
// way when the process ends.
class ErrorWords {
 public:
  // None where the device was not opened.
  ErrorWord of(int index) {
    const std::lock_guard lock(mutex_);
    const auto found = words_.find(index);
    return found == words_.end() ? ErrorWord{} : found->second;
  }
  // Makes the word of the current device, which is `index`, unless it has one.
  std::string make(int index) {
    const std::lock_guard lock(mutex_);
    if (words_.count(index)) return "";
    Mapped memory;
    const std::string problem = memory.allocate(sizeof(int32_t));
    if (!problem.empty()) {
      memory.free();
      return problem;
    }
    const ErrorWord word{static_cast<int32_t*>(memory.host), static_cast<int32_t*>(memory.device)};
    *word.host = 0;
    words_.emplace(index, word);
    return "";
  }

 private:
  std::mutex mutex_;
  std::map<int, ErrorWord> words_;
};

ErrorWords& error_words() {
  static ErrorWords* words = new ErrorWords;
  return *words;
}

wl_status fail_on(int index, const std::string& problem) {
  return fail(WL_DEVICE, "%s device %d: %s", Platform::name, index, problem.c_str());
}

// Reports what a kernel left, once.
wl_status take_error(int index, const ErrorWord& word) {
  // In one step: of two calls at the same time, one reports it.
  const int32_t found = __atomic_exchange_n(word.host, 0, __ATOMIC_ACQ_REL);
  if (!found) return WL_OK;
  return fail_on(index, "an earlier kernel found " + describe_error_word(found));
}

// Runs the layout probe on a stream of its own, so that it disturbs nobody's.
std::string probe_device(Target target, bool* ran) {
  WL_RUNTIME(Stream_t) stream = nullptr;
  Mapped memory;
  std::string problem = memory.allocate(layout_probe_bytes());
  if (problem.empty()) {
    problem = text_of(WL_RUNTIME(StreamCreateWithFlags)(&stream, WL_RUNTIME(StreamNonBlocking)));
  }
  if (problem.empty()) {
    const auto wait = [&] { return text_of(WL_RUNTIME(StreamSynchronize)(stream)); };
    problem = layout_problem(target, stream, memory.device, memory.host, wait, ran);
    static_cast<void>(WL_RUNTIME(StreamDestroy)(stream));
  }
  memory.free();
  return problem;
}

// Makes all that calls on the device need of it: they allocate nothing, so that a graph which
// captures them holds no allocation. `lasting`: another try would find the same.
std::string open_device(Target target, int index, bool* lasting) {
  DeviceProperties properties;
  std::string problem = text_of(WL_RUNTIME(GetDeviceProperties)(&properties, index));
  if (!problem.empty()) return std::string(Platform::name) + ": " + problem;
  problem = Platform::unfit(target, properties);
  if (!problem.empty()) {
    *lasting = true;
    return problem;
  }
  const CurrentDevice device(index);
  const Uncaptured uncaptured;
  problem = device.problem();
  if (problem.empty()) problem = error_words().make(index);
  if (problem.empty()) problem = probe_device(target, lasting);
  if (problem.empty()) return "";
  return std::string(Platform::name) + " device " + std::to_string(index) + " (" + properties.name +
         "): " + problem;
}

// "" when kernels of the target may run on the device: its kind fits and the layout probe passed.
// Asked before every call, and found out once for each device; only what a driver may answer
// otherwise next time is tried again.
std::string device_problem(Target target, int index) {
  static std::mutex mutex;
  static std::map<std::pair<Target, int>, std::string>* answers =
      new std::map<std::pair<Target, int>, std::string>;
  const std::lock_guard lock(mutex);
  const auto known = answers->find({target, index});
  if (known != answers->end()) return known->second;
  bool lasting = false;
  const std::string problem = open_device(target, index, &lasting);
  if (lasting) answers->emplace(std::pair{target, index}, problem);
  return problem;
}

// Waits for the device; one that was never opened ran nothing of ours.
wl_status check(int index) {
  const ErrorWord word = error_words().of(index);
  if (!word.host) return WL_OK;
  const CurrentDevice device(index);
  std::string problem = device.problem();
  if (problem.empty()) problem = text_of(WL_RUNTIME(DeviceSynchronize)());
  return problem.empty() ? take_error(index, word) : fail_on(index, problem);
}

}  // namespace

struct GpuCall::Held {
  CurrentDevice device;
};

GpuCall::GpuCall(const wl_exec& exec) : held_(new Held{CurrentDevice(exec.device_index)}) {
  const int index = exec.device_index;
  std::string problem = held_->device.problem();
  int shared = 0;
  if (problem.empty()) {
    problem = text_of(WL_RUNTIME(DeviceGetAttribute)(&shared, Platform::shared_limit, index));
  }
  const ErrorWord word = error_words().of(index);
  if (problem.empty() && !word.host) problem = "was not opened";
  if (!problem.empty()) {
    status_ = fail_on(index, problem);
    return;
  }
  shared_limit_ = shared;
  error_word_ = word.device;
  status_ = take_error(index, word);
}
GpuCall::~GpuCall() = default;

}  // namespace warploom
