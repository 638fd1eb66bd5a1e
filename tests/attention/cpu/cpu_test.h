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

// Ends the program with 77 (skipped) on a processor that cannot run what it was compiled for, and
// says what is missing.
#define WL_NEED(feature)                             \
  if (!__builtin_cpu_supports(feature)) {            \
    std::printf("this processor lacks %s", feature); \
    return 77;                                       \
  }
#if defined(__AVX2__)
#define WL_NEED_V3() WL_NEED("avx2") WL_NEED("fma") WL_NEED("f16c") WL_NEED("bmi2")
#else
#define WL_NEED_V3()
#endif
#if defined(__AVX512F__)
#define WL_NEED_AVX512() \
  WL_NEED("avx512f")     \
  WL_NEED("avx512bw")    \
  WL_NEED("avx512dq")    \
  WL_NEED("avx512vl") WL_NEED("avx512vnni") WL_NEED("avx512bf16")
#else
#define WL_NEED_AVX512()
#endif
#define WL_SKIP_WITHOUT_TARGET() WL_NEED_V3() WL_NEED_AVX512()
