// What the CUDA and HIP libraries do alike: a current device for each call, and one error word for
// each device in host memory that kernels can write. Included once, after `struct Platform`, whose
// functions return "" or what went wrong.
#pragma once

#include <map>
#include <mutex>
#include <string>

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
  const int32_t found = *word.host;
  if (!found) return WL_OK;
  *word.host = 0;
  return fail_on(index, "an earlier kernel found " + describe_error_word(found));
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
  error_word_ = word.device;
  status_ =
      problem.empty() ? take_error(exec.device_index, word) : fail_on(exec.device_index, problem);
}
GpuCall::~GpuCall() = default;

}  // namespace warploom
