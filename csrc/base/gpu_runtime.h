// What a family's launch code asks of the GPU library it is linked into. Each of
// csrc/backends/cuda, hip and emulator defines it.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "warploom/base.h"

namespace warploom {

// One call of an op on a device: makes the device current for as long as it lives, and first
// reports what earlier kernels on it found.
class GpuCall {
 public:
  explicit GpuCall(const wl_exec& exec);
  ~GpuCall();
  GpuCall(const GpuCall&) = delete;
  GpuCall& operator=(const GpuCall&) = delete;

  wl_status status() const { return status_; }
  // Where this device's kernels leave an error, as kernels see it; 0: none.
  int32_t* error_word() const { return error_word_; }
  // Bytes of shared memory that a block can have on this device.
  int64_t shared_limit() const { return shared_limit_; }

 private:
  struct Held;  // what the platform wants back
  std::unique_ptr<Held> held_;
  wl_status status_ = WL_OK;
  int32_t* error_word_ = nullptr;
  int64_t shared_limit_ = INT64_MAX;
};

}  // namespace warploom
