// The layout gate, compiled into each GPU library by that library's own compiler.
#pragma once

#include <cstring>

#include "backends/layout_gate.h"
#include "simt/layout_probe.cuh"

namespace warploom {
namespace {

template <class M, class T>
std::string probe(void* stream, void* device, void* host, const std::function<std::string()>& wait,
                  bool* ran) {
  using kernel = simt::layout_probe<M, T>;
  std::memset(host, 0xff, layout_probe_bytes());  // NaN: what is not written cannot match
  const simt::session session;
  const auto launched = simt::launch<kernel>(
      {1}, kernel::smem_bytes, stream,
      {simt::make_global(static_cast<float*>(device), kernel::results, simt::memory::unwritten)});
  const std::string problem = launched.ok() ? wait() : launched.error;
  *ran = problem.empty();
  return *ran ? kernel::verify(static_cast<float*>(host)) : problem;
}

template <class M>
std::string probe_all(void* stream, void* device, void* host,
                      const std::function<std::string()>& wait, bool* ran) {
  const std::string problem = probe<M, simt::bf16>(stream, device, host, wait, ran);
  return problem.empty() ? probe<M, simt::f16>(stream, device, host, wait, ran) : problem;
}

}  // namespace

int64_t layout_probe_bytes() {
  return simt::layout_probe<simt::mma32, simt::bf16>::results * int64_t(sizeof(float));
}

std::string layout_problem([[maybe_unused]] Target target, void* stream, void* device, void* host,
                           const std::function<std::string()>& wait, bool* ran) {
#if defined(WARPLOOM_SIMT_EMULATED)
  if (target == Target::gfx90a) return probe_all<simt::mfma64>(stream, device, host, wait, ran);
  return probe_all<simt::mma32>(stream, device, host, wait, ran);
#else
  return probe_all<simt::device_machine>(stream, device, host, wait, ran);
#endif
}

}  // namespace warploom
