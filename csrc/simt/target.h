// Which of the three targets this translation unit is compiled for, and the few macros that
// follow from it. Only csrc/simt may test them: kernels are the same source on every target.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define WARPLOOM_SIMT_CUDA 1
#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_HOST_DEVICE __host__ __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_NO_UNROLL _Pragma("unroll 1")
#elif defined(__HIP__) || defined(__HIPCC__)
#include <hip/hip_runtime.h>
#define WARPLOOM_SIMT_HIP 1
#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_HOST_DEVICE __host__ __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_NO_UNROLL _Pragma("unroll 1")
#else
#include <source_location>
#define WARPLOOM_SIMT_EMULATED 1
#define SIMT_DEVICE inline
#define SIMT_HOST_DEVICE inline
#define SIMT_UNROLL
#define SIMT_NO_UNROLL
#endif

namespace warploom::simt {

#if defined(WARPLOOM_SIMT_EMULATED)
// Where a word was used. Each word takes one as its last, defaulted argument.
using site = std::source_location;
#else
// On a device the place of use costs nothing: it is empty.
struct site {
  SIMT_HOST_DEVICE static constexpr site current() { return {}; }
};
#endif

enum class scope { block, device, system };
enum class order { relaxed, acquire, release, acq_rel };

}  // namespace warploom::simt
