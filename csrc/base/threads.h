// Loops over independent pieces of work. How work is cut into pieces depends on shapes alone, so
// results do not depend on the number of threads; who does a piece does.
#pragma once

#include <omp.h>

#include <cstdint>

#include "base/status.h"

namespace warploom {

// Resolves wl_exec.threads. Fails in a forked child that asks for more than one thread: the
// parent's OpenMP workers did not survive the fork, and a parallel region would wait for them.
WL_API wl_status resolve_threads(int requested, int* threads);

// body(piece, thread) for piece in [0, pieces). Dynamic, because cores may be shared with others:
// a static division would wait for the slowest.
template <class Body>
void parallel_for(int threads, int64_t pieces, const Body& body) {
  if (threads <= 1 || pieces <= 1) {
    for (int64_t piece = 0; piece < pieces; ++piece) body(piece, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t piece = 0; piece < pieces; ++piece) body(piece, omp_get_thread_num());
}

}  // namespace warploom
