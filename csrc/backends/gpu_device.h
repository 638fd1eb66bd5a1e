// What the CUDA and HIP libraries do alike: a current device for each call, and one error word for
// each device in host memory that kernels can write, and whether a device may be used at all.
// Included once, after `struct Platform`, whose functions return "" or what went wrong.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "backends/layout_gate.h"
#include "base/device_errors.h"
#include "base/gpu_runtime.h"

namespace warploom {

// Makes a device current while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index) {
    problem_ = Platform::current(&before_);
    if (problem_.empty() && index != before_) {
      problem_ = Platform::make_current(index);
      changed_ = problem_.empty();
    }
  }
  ~CurrentDevice() {
    if (changed_) Platform::make_current(before_);
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

struct ErrorWord {
  volatile int32_t* host = nullptr;
  int32_t* device = nullptr;
};

// The word of the current device, which is `index`; made when first asked for and never freed,
// since kernels may still be under way when the process ends.
std::string error_word_of(int index, ErrorWord* word) {
  static std::mutex mutex;
  static std::map<int, ErrorWord>* words = new std::map<int, ErrorWord>;
  const std::lock_guard lock(mutex);
  ErrorWord& known = (*words)[index];
  if (!known.host) {
    const Platform::Uncaptured uncaptured;
    void *host = nullptr, *device = nullptr;
    const std::string problem = Platform::allocate_mapped(sizeof(int32_t), &host, &device);
    if (!problem.empty()) return problem;
    known = {static_cast<int32_t*>(host), static_cast<int32_t*>(device)};
    *known.host = 0;
  }
  *word = known;
  return "";
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
std::string probe_device(Target target, int index, bool* ran) {
  *ran = false;
  const CurrentDevice device(index);
  if (!device.problem().empty()) return device.problem();
  const Platform::Uncaptured uncaptured;
  void *host = nullptr, *mapped = nullptr, *stream = nullptr;
  std::string problem = Platform::allocate_mapped(layout_probe_bytes(), &host, &mapped);
  if (!problem.empty()) return problem;
  problem = Platform::create_stream(&stream);
  if (problem.empty()) {
    const auto wait = [&] { return Platform::synchronize(stream); };
    problem = layout_problem(target, stream, mapped, host, wait, ran);
    Platform::destroy_stream(stream);
  }
  Platform::free_mapped(host);
  return problem;
}

// "" when kernels of the target may run on the device: its kind fits and the layout probe passed.
// Asked once for each device; only what a driver may answer otherwise next time is asked again.
std::string device_problem(Target target, int index) {
  static std::mutex mutex;
  static std::map<std::pair<Target, int>, std::string>* answers =
      new std::map<std::pair<Target, int>, std::string>;
  const std::lock_guard lock(mutex);
  const auto known = answers->find({target, index});
  if (known != answers->end()) return known->second;
  std::string name;
  bool lasting = false;
  std::string problem = Platform::unfit(target, index, &name, &lasting);
  if (problem.empty()) {
    problem = probe_device(target, index, &lasting);
    if (!problem.empty()) {
      problem = std::string(Platform::name) + " device " + std::to_string(index) + " (" + name +
                "): " + problem;
    }
  }
  if (lasting) answers->emplace(std::pair{target, index}, problem);
  return problem;
}

wl_status check(int index) {
  const CurrentDevice device(index);
  std::string problem = device.problem();
  ErrorWord word;
  if (problem.empty()) problem = Platform::synchronize();
  if (problem.empty()) problem = error_word_of(index, &word);
  return problem.empty() ? take_error(index, word) : fail_on(index, problem);
}

}  // namespace

struct GpuCall::Held {
  CurrentDevice device;
};

GpuCall::GpuCall(const wl_exec& exec) : held_(new Held{CurrentDevice(exec.device_index)}) {
  std::string problem = held_->device.problem();
  ErrorWord word;
  if (problem.empty()) problem = error_word_of(exec.device_index, &word);
  if (problem.empty()) problem = Platform::shared_limit(exec.device_index, &shared_limit_);
  error_word_ = word.device;
  status_ =
      problem.empty() ? take_error(exec.device_index, word) : fail_on(exec.device_index, problem);
}
GpuCall::~GpuCall() = default;

}  // namespace warploom
