// Choosing among a family's kernels, and explaining the choice. A family brings its list (from its
// kernels.def), what a request looks like, and what a kernel can refuse; the rest is here.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/backend.h"
#include "base/json.h"
#include "base/status.h"
#include "base/targets.h"

namespace warploom {

// What every family's kernel has. `index` is its place in kernels.def and in the backends' tables.
struct KernelInfo {
  int index;
  const char* name;
  const char* op;
  Target target;
  uint64_t features;  // bits the kernel supports
  int score;          // among kernels that fit, the highest is taken
};

// What every family's request has.
struct KernelRequest {
  const char* op;
  wl_device device;
  int device_index;
  uint64_t features;   // bits the call needs
  const char* kernel;  // a forced name, or nullptr
};

// "" when kernels of this target may serve the request here; else the reason. Cached for CPUs.
std::string refuse_target(Target target, const KernelRequest& request);

// "it lacks WINDOW, SOFTCAP" for the bits that are missing, "" if none is; names by bit.
std::string missing_features(uint64_t needed, uint64_t supported,
                             std::span<const char* const> names);

// The ops of a family, in the order of its list.
template <class Kernel>
std::vector<const char*> ops_of(std::span<const Kernel> kernels) {
  std::vector<const char*> ops;
  for (const Kernel& kernel : kernels) {
    const auto same = [&](const char* op) { return std::strcmp(op, kernel.op) == 0; };
    if (std::none_of(ops.begin(), ops.end(), same)) ops.push_back(kernel.op);
  }
  return ops;
}

// Kernel derives from KernelInfo and has: std::string refuse(const Request&) const, which looks at
// dtype, sizes and features. Request derives from KernelRequest.
template <class Kernel, class Request>
std::string refusal(const Kernel& kernel, const Request& request) {
  if (request.kernel && std::strcmp(request.kernel, kernel.name) != 0)
    return "another was asked for by name";
  if (info(kernel.target).device != request.device) {
    return std::string("it runs on ") + info(kernel.target).needs;
  }
  std::string reason = kernel.refuse(request);
  return reason.empty() ? refuse_target(kernel.target, request) : reason;
}

template <class Kernel, class Request>
const Kernel* choose(std::span<const Kernel> kernels, const Request& request) {
  const Kernel* best = nullptr;
  for (const Kernel& kernel : kernels) {
    // Every call comes here: most kernels are passed over before a reason is put into words.
    if (info(kernel.target).device != request.device) continue;
    if (best && best->score >= kernel.score) continue;
    if (std::strcmp(kernel.op, request.op) != 0) continue;
    if (refusal(kernel, request).empty()) best = &kernel;
  }
  return best;
}

template <class Kernel, class Request>
std::string explain_json(std::span<const Kernel> kernels, const Request& request) {
  const Kernel* taken = choose(kernels, request);
  Json json;
  json.open('[');
  for (const Kernel& kernel : kernels) {
    if (std::strcmp(kernel.op, request.op) != 0) continue;
    std::string reason = refusal(kernel, request);
    if (reason.empty() && &kernel != taken) reason = std::string(taken->name) + " is preferred";
    json.open('{');
    json.field("name", kernel.name);
    json.field("target", info(kernel.target).name);
    json.field("score", int64_t{kernel.score});
    json.field("taken", &kernel == taken);
    json.field("reason", reason);
    json.close('}');
  }
  json.close(']');
  return json.text();
}

// Every kernel, whether or not it can run here. `more(json, kernel)` adds what the family knows.
template <class Kernel, class More>
std::string list_json(std::span<const Kernel> kernels, More more) {
  static constexpr const char* kDevices[] = {"cpu", "cuda", "hip"};
  Json json;
  json.open('[');
  for (const Kernel& kernel : kernels) {
    const std::string reason = why_unavailable(kernel.target, 0);
    json.open('{');
    json.field("name", kernel.name);
    json.field("op", kernel.op);
    json.field("target", info(kernel.target).name);
    json.field("device", kDevices[info(kernel.target).device]);
    json.field("needs", info(kernel.target).needs);
    json.field("score", int64_t{kernel.score});
    json.field("available", reason.empty());
    json.field("reason", reason);
    more(json, kernel);
    json.close('}');
  }
  json.close(']');
  return json.text();
}

// The sentence of a WL_UNSUPPORTED error: what was asked, and every candidate with its refusal.
template <class Kernel, class Request>
std::string nothing_fits(std::span<const Kernel> kernels, const Request& request,
                         const std::string& asked) {
  std::string text = "no kernel fits " + asked;
  bool known = request.kernel == nullptr;
  for (const Kernel& kernel : kernels)
    known = known || std::strcmp(request.kernel, kernel.name) == 0;
  if (!known) return text + ": there is no kernel named " + request.kernel;
  for (const Kernel& kernel : kernels) {
    if (std::strcmp(kernel.op, request.op) != 0) continue;
    if (request.kernel && std::strcmp(request.kernel, kernel.name) != 0) continue;
    text += std::string("\n  ") + kernel.name + ": " + refusal(kernel, request);
  }
  if (request.kernel && text.find('\n') == std::string::npos) {
    text += std::string(": ") + request.kernel + " is a kernel of another op";
  }
  return text;
}

// Whether WARPLOOM_LOG asks for a line per call, and that line, on stderr.
bool logging();
void log_choice(const KernelInfo& kernel, const std::string& asked);

// Runs the chosen kernel: the function at its index in its backend's table.
wl_status run_kernel(const char* family, const KernelInfo& kernel, const void* params);

// The workspace that run_kernel would need.
wl_status kernel_workspace(const char* family, const KernelInfo& kernel, const void* params,
                           int64_t* bytes);

}  // namespace warploom
