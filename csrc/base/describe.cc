// wl_describe_system: what `warploom doctor` prints about the compiled part.
#include "base/backend.h"
#include "base/cpu_features.h"
#include "base/json.h"
#include "base/status.h"
#include "base/targets.h"

extern "C" wl_status wl_describe_system(char* text, size_t capacity, size_t* needed) {
  using namespace warploom;
  Json json;
  json.open('{');
  json.field("version", WARPLOOM_VERSION);
  json.field("abi", int64_t{WL_ABI_VERSION});
  json.field("compiler", WARPLOOM_COMPILER);
  json.field("cuda_compiler", WARPLOOM_CUDA_COMPILER);
  json.field("hip_compiler", WARPLOOM_HIP_COMPILER);
  json.field("library_folder", library_folder());
  json.field("cpu_features", cpu_feature_names());
  std::string problem;
  json.field("cpu_target", info(cpu_target(&problem)).name);
  json.field("cpu_problem", problem);
  json.open("targets", '[');
  for (int i = 0; i < kTargets; ++i) {
    const std::string reason = why_unavailable(Target(i), 0);
    json.open('{');
    json.field("name", info(Target(i)).name);
    json.field("needs", info(Target(i)).needs);
    json.field("available", reason.empty());
    json.field("reason", reason);
    json.close('}');
  }
  json.close(']');
  json.close('}');
  return copy_text(json.text(), text, capacity, needed);
}
