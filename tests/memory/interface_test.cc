// The planner's C interface, as a program without Python uses it, and what it says when it is used
// wrongly. Under the sanitizers this also walks through every strategy.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "warploom/memory.h"

namespace {

int failures = 0;
#define EXPECT(condition)                                                                  \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      ++failures;                                                                          \
      std::printf("%d: not %s (last error: %s)\n", __LINE__, #condition, wl_last_error()); \
    }                                                                                      \
  } while (0)

bool said(const char* words) { return std::strstr(wl_last_error(), words) != nullptr; }

// Requests with sizes and times that no one strategy packs at once.
struct Requests {
  std::vector<int64_t> size, alloc, free;
  std::vector<int32_t> group;

  explicit Requests(int count) {
    uint64_t state = 1;
    const auto next = [&](int bound) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return int64_t((state >> 33) % uint64_t(bound));
    };
    for (int i = 0; i < count; ++i) {
      size.push_back(1 + next(5000));
      alloc.push_back(next(40));
      free.push_back(alloc.back() + 1 + next(12));
      group.push_back(int32_t(alloc.back() / 10));
    }
  }

  wl_memory_problem problem() const {
    wl_memory_problem p{};
    p.struct_size = sizeof p;
    p.count = int64_t(size.size());
    p.size = size.data();
    p.alloc = alloc.data();
    p.free = free.data();
    p.alignment = 64;
    p.group = group.data();
    return p;
  }
};

wl_memory_options options_of(int64_t work) {
  wl_memory_options o{};
  o.struct_size = sizeof o;
  o.work = work;
  return o;
}

wl_memory_result result_of() {
  wl_memory_result r{};
  r.struct_size = sizeof r;
  return r;
}

void plans() {
  const Requests requests(300);
  const wl_memory_problem problem = requests.problem();
  const wl_memory_options options = options_of(5'000'000);
  wl_memory_result result = result_of();
  std::vector<int64_t> offsets(requests.size.size());
  std::vector<wl_memory_step> steps(100);
  EXPECT(wl_memory_plan(&problem, &options, offsets.data(), &result, steps.data(), 100) == WL_OK);
  EXPECT(result.size >= result.lower_bound && result.lower_bound > 0);
  EXPECT(result.steps > 0 && steps[size_t(result.steps) - 1].size == result.size);
  for (size_t i = 0; i < offsets.size(); ++i) {
    EXPECT(offsets[i] % 64 == 0 && offsets[i] + requests.size[i] <= result.size);
    for (size_t j = 0; j < i; ++j) {
      EXPECT(requests.free[i] <= requests.alloc[j] || requests.free[j] <= requests.alloc[i] ||
             offsets[i] + requests.size[i] <= offsets[j] ||
             offsets[j] + requests.size[j] <= offsets[i]);
    }
  }
  // A shorter history keeps its end; none is asked for with NULL.
  const int64_t all = result.steps, work = result.work;
  EXPECT(wl_memory_plan(&problem, &options, offsets.data(), &result, steps.data(), 1) == WL_OK);
  EXPECT(result.steps == (all ? 1 : 0) && steps[0].size == result.size && result.work == work);
  EXPECT(wl_memory_plan(&problem, &options, offsets.data(), &result, nullptr, 0) == WL_OK);
  EXPECT(result.steps == 0);
}

void refuses() {
  const Requests requests(4);
  const wl_memory_options options = options_of(1000);
  wl_memory_result result = result_of();
  std::vector<int64_t> offsets(4);
  const auto call = [&](const wl_memory_problem& problem, const wl_memory_options& with) {
    return wl_memory_plan(&problem, &with, offsets.data(), &result, nullptr, 0);
  };
  wl_memory_problem wrong = requests.problem();
  wrong.struct_size = 8;
  EXPECT(call(wrong, options) == WL_INVALID && said("struct_size of problem is 8"));
  wrong = requests.problem();
  wrong.alignment = 0;
  EXPECT(call(wrong, options) == WL_INVALID && said("alignment is 0: must be at least 1"));
  wrong = requests.problem();
  wrong.count = -1;
  EXPECT(call(wrong, options) == WL_INVALID && said("count is -1"));
  wrong = requests.problem();
  wrong.free = wrong.alloc;
  EXPECT(call(wrong, options) == WL_INVALID && said("must be after its alloc"));
  wrong = requests.problem();
  const std::vector<int64_t> huge(4, int64_t(1) << 62);
  wrong.size = huge.data();
  EXPECT(call(wrong, options) == WL_INVALID && said("less than 2^63 bytes together"));
  wrong = requests.problem();
  wrong.size = nullptr;
  EXPECT(call(wrong, options) == WL_INVALID && said("size, alloc or free is NULL"));
  wl_memory_options bad = options;
  bad.capacity = 64;
  EXPECT(call(requests.problem(), bad) == WL_INVALID && said("more: no plan can fit"));
  bad = options;
  bad.work = -1;
  EXPECT(call(requests.problem(), bad) == WL_INVALID && said("work is -1"));
  EXPECT(wl_memory_plan(nullptr, &options, offsets.data(), &result, nullptr, 0) == WL_INVALID);
  EXPECT(said("problem is NULL"));
}

}  // namespace

int main() {
  plans();
  refuses();
  return failures ? 1 : 0;
}
