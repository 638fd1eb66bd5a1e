// The library of one CPU target: every family's table.
#include <cstring>

#include "base/backend.h"

namespace warploom {

namespace attention {
KernelTable cpu_table();
}
namespace kv_cache {
KernelTable cpu_table();
}
namespace perf {
KernelTable cpu_table();
}

namespace {

KernelTable table(const char* family) {
  if (std::strcmp(family, "attention") == 0) return attention::cpu_table();
  if (std::strcmp(family, "kv_cache") == 0) return kv_cache::cpu_table();
  if (std::strcmp(family, "perf") == 0) return perf::cpu_table();
  return {nullptr, 0};
}

}  // namespace
}  // namespace warploom

WARPLOOM_EXPORT_BACKEND(&warploom::table, nullptr, nullptr, nullptr)
