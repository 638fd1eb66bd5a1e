// What the C++ tests of the CPU loops' parts share.
#pragma once

#include <cstdio>

#include "base/vec.h"

namespace warploom {

inline int failures = 0;

// The program's exit status.
inline int report() {
  std::printf("%s: %d lanes, %d failures\n", failures ? "FAILED" : "ok", kLanes, failures);
  return failures ? 1 : 0;
}

}  // namespace warploom

#define EXPECT(condition, ...)                                    \
  do {                                                            \
    if (!(condition) && ++warploom::failures < 50) {              \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
    }                                                             \
  } while (0)

// Ends the program with 77 (skipped) on a processor that cannot run what it was compiled for.
#if defined(__AVX512F__)
#define WL_SKIP_WITHOUT_TARGET() \
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bf16")) return 77
#elif defined(__AVX2__)
#define WL_SKIP_WITHOUT_TARGET() \
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 77
#else
#define WL_SKIP_WITHOUT_TARGET() (void)0
#endif
