// The C entry point of the planner.
#include "warploom/memory.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/status.h"
#include "memory/error.h"
#include "memory/portfolio.h"

using namespace warploom;
using namespace warploom::memory;

namespace {

template <class Struct>
void check_size(const Struct* given, const char* name) {
  if (!given) invalid(name, " is NULL");
  if (given->struct_size != sizeof *given) {
    invalid("struct_size of ", name, " is ", given->struct_size, ": this library's is ",
            sizeof *given);
  }
}

// Bytes of a whole number of units, as a plan's size is one.
int64_t goal_of(const wl_memory_options& options, int64_t unit, int64_t bound) {
  if (options.capacity < 0) invalid("capacity is ", options.capacity, ": must be at least 0");
  if (options.capacity == 0) return bound;
  if (options.capacity < bound * unit) {
    invalid("capacity is ", options.capacity, " bytes: the maximum load is ", bound * unit,
            ", which is ", bound * unit - options.capacity, " more: no plan can fit");
  }
  return options.capacity / unit;
}

void run(const wl_memory_problem& problem, const wl_memory_options& options, int64_t* offsets,
         wl_memory_result& result, wl_memory_step* history, int64_t capacity) {
  const Input input(problem);
  const int64_t unit = input.unit;
  const int64_t goal = goal_of(options, unit, lower_bound(input.problem));
  const Outcome found = plan(input.problem, {options.seconds, options.work, goal}, options.seed);
  std::fill_n(offsets, problem.count, 0);
  for (size_t i = 0; i < input.request.size(); ++i) {
    offsets[input.request[i]] = found.offsets[i] * unit;
  }
  result.size = found.height * unit;
  result.lower_bound = found.bound * unit;
  result.peak_time = input.peak_time;
  result.work = found.work;
  result.seconds = found.seconds;
  result.parts = int64_t(found.parts);
  result.folded = int64_t(found.folded);
  // The last steps, if there are more than fit.
  const int64_t steps = int64_t(found.history.size());
  result.steps = history ? std::min(steps, capacity) : 0;
  for (int64_t i = 0; i < result.steps; ++i) {
    const Outcome::Step& step = found.history[size_t(steps - result.steps + i)];
    history[i] = {step.seconds, step.work, step.height * unit, {}};
    std::strncpy(history[i].strategy, step.strategy.c_str(), sizeof history[i].strategy - 1);
  }
}

}  // namespace

extern "C" wl_status wl_memory_plan(const wl_memory_problem* problem,
                                    const wl_memory_options* options, int64_t* offsets,
                                    wl_memory_result* result, wl_memory_step* history,
                                    int64_t capacity) {
  try {
    check_size(problem, "problem");
    check_size(options, "options");
    check_size(result, "result");
    if (problem->count > 0 && !offsets) invalid("offsets is NULL");
    if (options->seconds < 0 || options->work < 0) {
      invalid("seconds is ", options->seconds, ", work is ", options->work, ": must be at least 0");
    }
    if (capacity < 0) invalid("capacity of history is ", capacity, ": must be at least 0");
    run(*problem, *options, offsets, *result, history, capacity);
    return WL_OK;
  } catch (const Invalid& error) {
    return fail_text(WL_INVALID, error.what());
  } catch (const std::bad_alloc&) {
    return fail(WL_MEMORY, "out of memory");
  }
}
