/* Where in one arena each of many requests of memory lives, when all of them are known beforehand.
 * Host only; nothing here allocates on a device.
 *
 * Units: bytes; time is any integer clock. A request holds its bytes in [alloc, free). Two requests
 * that are held at a time must not share a byte. The lower bound of an arena's size is the maximum
 * load, the most bytes held at a time: no plan is smaller.
 */
#ifndef WARPLOOM_MEMORY_H
#define WARPLOOM_MEMORY_H

#include "warploom/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wl_memory_problem {
  uint32_t struct_size;
  int64_t count;
  const int64_t* size;       /* [count], at least 0 */
  const int64_t* alloc;      /* [count] */
  const int64_t* free;       /* [count], after alloc */
  int64_t alignment;         /* of every offset; sizes are rounded up to it */
  const int64_t* alignments; /* NULL, or [count]: of single requests, multiples of `alignment` */
  const int64_t* fixed;      /* NULL, or [count]: an offset that is given, -1 where none is */
  const int32_t* group; /* NULL, or [count]: equal for requests that begin in one phase and end in
                         * one, which one strategy lays out together */
} wl_memory_problem;

/* The planner goes through a fixed sequence of rounds and keeps the best plan. Work is counted in
 * units that depend on the problem alone; `work` ends the sequence exactly there, `seconds` and
 * *stop only between two rounds. So equal problems, seeds and works give equal plans, and what a
 * limit of time gave is repeated by the work that it reported. */
typedef struct wl_memory_options {
  uint32_t struct_size;
  double seconds; /* 0: no limit */
  int64_t work;   /* 0: no limit */
  uint64_t seed;
  int64_t capacity; /* ends as soon as a plan is no larger; 0: the lower bound */
} wl_memory_options;

/* A plan that was better than all before. */
typedef struct wl_memory_step {
  double seconds;
  int64_t work;
  int64_t size;
  char strategy[32];
} wl_memory_step;

typedef struct wl_memory_result {
  uint32_t struct_size;
  int64_t size; /* of the arena */
  int64_t
      lower_bound;   /* no plan is smaller: the maximum load, or what an exact search has proven */
  int64_t peak_time; /* when the load is largest first */
  int64_t work;
  double seconds;
  int64_t parts;  /* problems that were solved apart */
  int64_t folded; /* parts that are repetitions of another */
  int64_t steps;  /* in the history */
} wl_memory_result;

/* Fills offsets [count] and *result; writes at most `capacity` steps of the history, the last of
 * which is the plan. Requests of no bytes get offset 0.
 * WL_INVALID: a size, lifetime or alignment that cannot be, given offsets that overlap, or a
 * capacity below the lower bound, which says by how much. */
WL_API wl_status wl_memory_plan(const wl_memory_problem* problem, const wl_memory_options* options,
                                int64_t* offsets, wl_memory_result* result, wl_memory_step* history,
                                int64_t capacity);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_MEMORY_H */
