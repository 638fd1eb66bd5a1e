/* warploom's plain C interface: what every family shares.
 *
 * Conventions. Functions return a wl_status; on anything but WL_OK, wl_last_error() holds one
 * sentence for the calling thread, and nothing was written unless the function says otherwise.
 * Parameter structs start with struct_size = sizeof(the struct), so that a caller built for another
 * version is refused. Sizes are 64-bit, strides are in elements, and the last axis of every tensor
 * is contiguous.
 */
#ifndef WARPLOOM_BASE_H
#define WARPLOOM_BASE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define WL_API __attribute__((visibility("default")))
#else
#define WL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define WL_ABI_VERSION 1

typedef enum wl_status {
  WL_OK = 0,
  WL_INVALID = 1,     /* an argument is wrong: its name, value and what it must be are said */
  WL_UNSUPPORTED = 2, /* no kernel fits: every candidate and why it was refused are said */
  WL_DEVICE = 3,      /* a device or its runtime failed, or a kernel met bad values and said so */
  WL_TIMEOUT = 4,     /* a bounded wait ran out */
  WL_MEMORY = 5,      /* host or device memory ran out */
} wl_status;

typedef enum wl_dtype { WL_F32 = 0, WL_F16 = 1, WL_BF16 = 2 } wl_dtype;

typedef enum wl_device { WL_CPU = 0, WL_CUDA = 1, WL_HIP = 2 } wl_device;

/* A tensor of up to four axes whose last one is contiguous: strides of the axes before it. */
typedef struct wl_strided {
  void* data;
  int64_t stride[3];
} wl_strided;

/* Where and how a call runs. Zero-initialise, then set what differs. */
typedef struct wl_exec {
  int32_t device;       /* wl_device */
  int32_t device_index; /* ordinal among devices of that kind */
  void* stream;         /* CUDA or HIP stream; unused on the CPU */
  int32_t threads;      /* CPU threads; 0: one for each core the process may use */
  int32_t check;        /* 1: values that index memory are looked at first (CPU only). 0: on the
                         * CPU they are trusted, and wrong ones read or write out of bounds; GPU
                         * kernels guard them, and wl_check tells */
  const char* kernel;   /* NULL: the best one; else the name of the kernel to run */
  void* workspace;      /* device memory of at least what the family's workspace query asked for,
                         * at a multiple of 16 bytes */
  int64_t workspace_bytes;
} wl_exec;

WL_API const char* wl_version(void);
WL_API int32_t wl_abi_version(void);

/* The calling thread's last error, "" if none; valid until the thread's next call. */
WL_API const char* wl_last_error(void);

/* Reports (and clears) what kernels that ran asynchronously on a device found wrong. */
WL_API wl_status wl_check(int32_t device, int32_t device_index);

/* A JSON document: processor features, CPU targets, backend libraries and why any is missing.
 * Writes at most `capacity` bytes with a closing 0; *needed gets the full length plus 1. */
WL_API wl_status wl_describe_system(char* text, size_t capacity, size_t* needed);

/* Routes calls whose exec.device is WL_CUDA or WL_HIP to the checking emulator, which works on
 * host memory, for the calling thread. A kernel's target says how many lanes its warps have. seed
 * orders the threads of a block. `enable` 0 routes them back. WL_UNSUPPORTED when the emulator was
 * not built. */
WL_API wl_status wl_emulate(int32_t enable, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif /* WARPLOOM_BASE_H */
