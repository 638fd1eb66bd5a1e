#include "base/cpu_features.h"

namespace warploom {
namespace {

struct Feature {
  const char* name;
  bool present;
};

#if defined(__x86_64__)
// The compiler's runtime checks XCR0 as well as cpuid, so a system that does not save the wide
// registers counts as lacking the feature. The queries must be literals.
#define FEATURE(name) {name, bool(__builtin_cpu_supports(name))}
const Feature kV3[] = {FEATURE("avx2"), FEATURE("fma"), FEATURE("f16c"), FEATURE("bmi2")};
const Feature kAvx512[] = {FEATURE("avx512f"),  FEATURE("avx512bw"),   FEATURE("avx512dq"),
                           FEATURE("avx512vl"), FEATURE("avx512vnni"), FEATURE("avx512bf16")};
#undef FEATURE
#endif

template <size_t N>
std::string first_missing(const Feature (&features)[N]) {
  for (const Feature& feature : features) {
    if (!feature.present) return std::string("this processor lacks ") + feature.name;
  }
  return "";
}

}  // namespace

std::string cpu_lacks(Target target) {
#if defined(__x86_64__)
  if (target == Target::cpu_baseline) return "";
  if (target == Target::cpu_v3) return first_missing(kV3);
  if (target == Target::cpu_avx512) {
    const std::string v3 = first_missing(kV3);
    return v3.empty() ? first_missing(kAvx512) : v3;
  }
  return "this processor is not an Arm one";
#elif defined(__aarch64__)
  return target == Target::cpu_aarch64 ? "" : "this processor is not an x86-64 one";
#else
  return "this kind of processor has no kernels";
#endif
}

std::string cpu_feature_names() {
  std::string names;
#if defined(__x86_64__)
  for (const Feature& f : kV3)
    names += f.present ? std::string(names.empty() ? "" : " ") + f.name : "";
  for (const Feature& f : kAvx512)
    names += f.present ? std::string(names.empty() ? "" : " ") + f.name : "";
#elif defined(__aarch64__)
  names = "neon";
#endif
  return names;
}

}  // namespace warploom
