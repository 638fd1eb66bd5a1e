/* What PyTorch's caching allocator would take from the device for a sequence of requests.
 * Host only; nothing here allocates on a device.
 *
 * Units: bytes; time is any integer clock. At equal times frees come before calls of empty_cache,
 * and those before allocations, each in the order of the requests.
 */
#ifndef WARPLOOM_MEMORY_SIMULATION_H
#define WARPLOOM_MEMORY_SIMULATION_H

#include "warploom/base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WL_MEMORY_ROUNDINGS 16

typedef struct wl_memory_requests {
  uint32_t struct_size;
  int64_t count;
  const int64_t* size;      /* [count], at least 0 */
  const int64_t* alloc;     /* [count] */
  const int64_t* free;      /* [count], after alloc: when the bytes may be given away again */
  const int64_t* requested; /* NULL, or [count]: when the owner let go, in (alloc, free]. Until free
                             * some other stream was still at work; an allocator that runs out of
                             * memory waits for it. */
  const int32_t* stream;    /* NULL, or [count] */
  const int32_t* pool; /* NULL, or [count]; 0 is the default one. Others are private: what they took
                        * from the device goes back when they are destroyed, not before. */
  const int64_t* offset; /* NULL, or [count]: place in the arena, -1 for a request that has none.
                          * One whose place is taken goes to the caching allocator as well. */
  int64_t arena;         /* bytes, taken before the first event */
  const int64_t* empty_cache; /* NULL, or [empty_caches]: when empty_cache is called */
  int64_t empty_caches;
  const int64_t* segments; /* NULL, or [segment_count]: addresses of new segments, in the order in
                            * which they are taken; what comes after lies above all of them */
  int64_t segment_count;
} wl_memory_requests;

/* The settings that PyTorch reads from PYTORCH_ALLOC_CONF, in bytes. */
typedef struct wl_memory_allocator {
  uint32_t struct_size;
  int64_t capacity;                    /* of the device; 0: 2^46 */
  double memory_fraction;              /* 0, or that of set_per_process_memory_fraction */
  int64_t max_split_size;              /* 0: none */
  int64_t max_non_split_rounding;      /* 0: 20 MiB */
  double garbage_collection_threshold; /* 0: never; needs a memory_fraction, as in PyTorch */
  int64_t roundup_power2_divisions[WL_MEMORY_ROUNDINGS]; /* 0, or a power of two, by the size's
                                                          * interval: below 2 MiB, below 4, ... */
  int32_t expandable_segments;
} wl_memory_allocator;

typedef enum wl_memory_action { /* as in the snapshots of torch.cuda.memory */
                                WL_MEMORY_ALLOC = 0,
                                WL_MEMORY_FREE_REQUESTED = 1,
                                WL_MEMORY_FREE_COMPLETED = 2,
                                WL_MEMORY_SEGMENT_ALLOC = 3,
                                WL_MEMORY_SEGMENT_FREE = 4,
                                WL_MEMORY_SEGMENT_MAP = 5,
                                WL_MEMORY_SEGMENT_UNMAP = 6,
                                WL_MEMORY_OOM = 7
} wl_memory_action;

typedef struct wl_memory_event {
  int64_t time;
  int64_t request; /* during which it happened; -1: empty_cache, or the arena */
  int32_t action;
  int32_t stream;
  int64_t address;             /* where none are given, addresses rise and are never used twice */
  int64_t size;                /* of a request: bytes asked for; of a segment: its bytes */
  int64_t reserved, allocated; /* after it */
} wl_memory_event;

typedef struct wl_memory_moment {
  int64_t time;
  int64_t reserved;  /* bytes taken from the device */
  int64_t allocated; /* bytes of blocks that are held, with what rounding added */
} wl_memory_moment;

typedef struct wl_memory_simulation {
  uint32_t struct_size;
  wl_memory_moment reserved_peak;  /* the first moment of most bytes reserved */
  wl_memory_moment allocated_peak; /* likewise of bytes allocated */
  wl_memory_moment worst; /* of those at which a request took memory from the device, that at which
                           * most bytes were reserved and not allocated; zeros if there is none */
  wl_memory_moment last;
  int64_t requested_peak; /* most bytes asked for and held at a time */
  int64_t segments_peak;  /* most pieces of the device's memory (with expandable segments: ranges of
                           * addresses) held at a time, the arena among them */
  int64_t device_allocs, device_frees; /* calls that take or return the device's memory */
  int64_t retries;                     /* how often the cache was given back to make room */
  int64_t in_arena;                    /* requests that got their place in it */
  int64_t conflicts;                   /* requests whose place in the arena was taken */
  int64_t oom_request; /* the request that did not fit and ended the simulation, or -1 */
  wl_memory_moment oom;
  int64_t events; /* in the log, though more than fit */
} wl_memory_simulation;

/* Fills *result; writes the first `capacity` events to `log`, which may be NULL.
 * WL_INVALID: a request or setting that cannot be. Running out of memory is a result, no error. */
WL_API wl_status wl_memory_simulate(const wl_memory_requests* requests,
                                    const wl_memory_allocator* allocator,
                                    wl_memory_simulation* result, wl_memory_event* log,
                                    int64_t capacity);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_MEMORY_SIMULATION_H */
