// The library of the checking emulator: GPU kernels run by the host, on host memory.
#include <mutex>
#include <vector>

#include "backends/gpu_families.h"
#include "backends/layout_gate.h"
#include "base/backend.h"
#include "base/device_errors.h"
#include "base/gpu_runtime.h"
#include "simt/emulator/emulator.h"

namespace warploom {
namespace {

// One launch at a time: the emulator has one set of threads and one memory of what was written.
std::mutex mutex;
int32_t device_word = 0;

wl_status take_error() {
  const int32_t word = device_word;
  device_word = 0;
  return word ? fail_text(WL_DEVICE, describe_error_word(word)) : WL_OK;
}

wl_status check(int) {
  const std::lock_guard lock(mutex);
  return take_error();
}

// The gate of real devices, asked once for each machine.
std::string layout_of(Target target) {
  std::vector<char> out(layout_probe_bytes());
  bool ran;
  const std::string problem =
      layout_problem(target, nullptr, out.data(), out.data(), [] { return std::string(); }, &ran);
  return problem.empty() ? "" : "emulator: " + problem;
}

std::string device_problem(Target target, int) {
  const std::lock_guard lock(mutex);
  static const std::string of_32_lanes = layout_of(Target::sm_80);
  static const std::string of_64_lanes = layout_of(Target::gfx90a);
  return target == Target::gfx90a ? of_64_lanes : of_32_lanes;
}

void configure(uint64_t seed) {
  const std::lock_guard lock(mutex);
  simt::emulator::settings().seed = seed;
  device_word = 0;
}

}  // namespace

struct GpuCall::Held {
  std::lock_guard<std::mutex> lock{mutex};
};

GpuCall::GpuCall(const wl_exec&) : held_(new Held), error_word_(&device_word) {
  status_ = take_error();
}
GpuCall::~GpuCall() = default;

}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::gpu_table, &warploom::device_problem, &warploom::check,
                        &warploom::configure)
