// What each GPU library asks of a device before any kernel runs there: whether its matrix
// instructions lay out operands as the tables in simt/machine.h say (simt/layout_probe.cuh).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/targets.h"

namespace warploom {

// Bytes that layout_problem writes.
int64_t layout_probe_bytes();

// Probes the current device with the machine of `target`, for every element type. `device` and
// `host` are one memory as kernels and as the host see it; `wait` ends when the stream is done.
// Returns "" or what did not match. A probe that could not run sets `ran` to false.
std::string layout_problem(Target target, void* stream, void* device, void* host,
                           const std::function<std::string()>& wait, bool* ran);

}  // namespace warploom
