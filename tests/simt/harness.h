// A tiny frame for the C++ test cases: pytest lists and runs them one by one (test_simt.py).
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "simt/launch.h"

namespace simt_test {

struct failure {
  std::string text;
};

using cases = std::map<std::string, std::function<void()>>;
inline cases& all_cases() {
  static cases c;
  return c;
}
struct registration {
  registration(const char* name, void (*f)()) { all_cases()[name] = f; }
};

inline void expect(bool ok, const std::string& text) {
  if (!ok) throw failure{text};
}

// A test kernel's planted bug marks the lines it may be told at.
std::set<int>& faulty_lines();

constexpr int seeds = 20;

// Runs `launch(machine)` for 20 seeds at both widths; nothing may be reported.
template <class F>
void expect_clean(F launch);

// The same with a planted bug: each run must report `kind` at a line that the kernel marked.
template <class F>
void expect_fault(warploom::simt::emulator::fault kind, F launch);

template <class F>
void for_every_seed(F f) {
  for (int lanes : {32, 64}) {
    for (int seed = 0; seed < seeds; ++seed) {
      auto& o = warploom::simt::emulator::settings();
      o = {};
      o.lanes = lanes;
      o.seed = static_cast<uint64_t>(seed);
      f("lanes " + std::to_string(lanes) + ", seed " + std::to_string(seed) + ": ");
    }
  }
}

template <class F>
void expect_clean(F launch) {
  for_every_seed([&](const std::string& where) {
    const warploom::simt::session session;
    const auto o = warploom::simt::with_machine(launch);
    expect(o.ok(), where + "reported " + o.error);
  });
}

template <class F>
void expect_fault(warploom::simt::emulator::fault kind, F launch) {
  for_every_seed([&](const std::string& where) {
    faulty_lines().clear();
    const warploom::simt::session session;
    const auto o = warploom::simt::with_machine(launch);
    expect(!o.ok(), where + "the planted bug was not found");
    expect(!faulty_lines().empty(), where + "the kernel marked no line");
    for (const auto& r : warploom::simt::emulator::reports()) {
      const bool named = r.text.find("kernel ") == 0 && r.text.find("block (") != r.text.npos &&
                         r.text.find("thread ") != r.text.npos;
      if (r.kind == kind && faulty_lines().count(r.line) && named) return;
    }
    std::string lines;
    for (int l : faulty_lines()) lines += " " + std::to_string(l);
    throw failure{where + "expected \"" + warploom::simt::emulator::to_string(kind) + "\" at line" +
                  lines + ", got " + o.error};
  });
}

}  // namespace simt_test

#define SIMT_CASE(name)                                                       \
  static void case_##name();                                                  \
  static const simt_test::registration registered_##name{#name, case_##name}; \
  static void case_##name()
