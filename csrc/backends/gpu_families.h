// The table of every family in a library of GPU kernels, each generated from its kernels.def.
#pragma once

#include <cstring>

#include "base/backend.h"

namespace warploom {

namespace attention {
KernelTable gpu_table();
}
namespace kv_cache {
KernelTable gpu_table();
}

inline KernelTable gpu_table(const char* family) {
  if (std::strcmp(family, "attention") == 0) return attention::gpu_table();
  if (std::strcmp(family, "kv_cache") == 0) return kv_cache::gpu_table();
  return {nullptr, 0};
}

}  // namespace warploom
