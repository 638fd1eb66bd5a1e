/* What this machine can do at most: the ceilings that speeds are compared with.
 *
 * A ceiling is measured, never looked up, by a loop that does nothing else. Machines are shared and
 * clocks move: measure a ceiling in the same period as what is compared with it, in turns.
 */
#ifndef WARPLOOM_PERF_H
#define WARPLOOM_PERF_H

#include "warploom/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* kind      value, per second
 * "f32_fma"   floating-point operations of float32 multiply-adds on registers (2 each)
 * "bf16_dot"  floating-point operations of bfloat16 products summed in float32 (2 each), where the
 *             processor has an instruction for it
 * "read"      bytes read from memory, far more of them than the caches hold
 * "copy"      bytes read plus bytes written by a copy of as much memory */
typedef struct wl_perf_ceiling_params {
  uint32_t struct_size;
  wl_exec exec; /* device, threads, kernel, workspace (below); others are unused */
  const char* kind;
  double seconds; /* how long to measure: more than 0, at most 60; buffers are set up outside it */
  double* value;
} wl_perf_ceiling_params;

/* "read" and "copy" use exec.workspace: at least this many bytes that the caller has written to
 * once (a copy overwrites it); more where caches are larger than a few MiB. NULL: each call takes
 * and gives back enough, which may take longer than measuring. */
#define WL_PERF_CEILING_WORKSPACE ((int64_t)128 << 20)

/* WL_UNSUPPORTED where the device has no such instruction. */
WL_API wl_status wl_perf_ceiling(const wl_perf_ceiling_params* params);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_PERF_H */
