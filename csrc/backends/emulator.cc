// The library of the checking emulator: GPU kernels run by the host.
#include <cstring>

#include "base/backend.h"

namespace warploom {

namespace attention {
KernelTable gpu_table();
}

namespace {

KernelTable table(const char* family) {
  if (std::strcmp(family, "attention") == 0) return attention::gpu_table();
  return {nullptr, 0};
}

void configure(uint64_t) {}

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, nullptr, nullptr, &warploom::configure)
