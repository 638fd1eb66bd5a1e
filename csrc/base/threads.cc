#include "base/threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>

namespace warploom {
namespace {

std::atomic<bool> forked{false};

[[gnu::constructor]] void watch_forks() {
  pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
}

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

}  // namespace

wl_status resolve_threads(int requested, int* threads) {
  if (requested < 0)
    return fail(WL_INVALID, "threads is %d: must be 0 (all cores) or more", requested);
  *threads = requested > 0 ? requested : usable_cores();
  if (*threads > 1 && forked.load(std::memory_order_relaxed)) {
    return fail(WL_DEVICE,
                "this process was forked after the library was loaded, and OpenMP's threads do not "
                "survive a fork: use one thread (torch.set_num_threads(1)), or start workers with "
                "the spawn method");
  }
  return WL_OK;
}

}  // namespace warploom
