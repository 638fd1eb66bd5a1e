// What the programs that run one call in the emulator share, on whichever copy of the kernels the
// include path finds first:
//   planted <seed> [<bytes of shared memory a block>]
// prints what went wrong first, or "clean", at 32 and at 64 lanes.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "attention/gpu_launch.h"

namespace warploom {

inline int64_t planted_limit = INT64_MAX;

struct GpuCall::Held {};
inline GpuCall::GpuCall(const wl_exec&) : shared_limit_(planted_limit) {
  static int32_t word;
  error_word_ = &word;
}
inline GpuCall::~GpuCall() = default;

}  // namespace warploom

using namespace warploom;

inline constexpr uint16_t kOne = 0x3f80;  // in bfloat16

inline std::string report_of(wl_status status) {
  const std::string report = status == WL_OK ? "clean" : wl_last_error();
  return report.substr(0, report.find('\n'));  // the first of them
}

// `call` is a template over the machine that gives the line to print.
template <class Call>
int run_planted(int count, char** arguments, Call call) {
  simt::emulator::settings().seed = std::strtoull(arguments[1], nullptr, 10);
  if (count > 2) planted_limit = std::strtoll(arguments[2], nullptr, 10);
  std::printf("%s\n", call.template operator()<simt::mma32>().c_str());
  std::printf("%s\n", call.template operator()<simt::mfma64>().c_str());
  return 0;
}
