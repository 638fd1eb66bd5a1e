// Host side: pointers with extents, and launching a kernel struct on whichever target this
// translation unit is compiled for.
//
//   template <class M>
//   struct my_kernel {
//     using machine = M;
//     struct params {  // plain data
//       simt::global<const float> x;
//       simt::global<float> y;
//       int64_t n;
//     };
//     static constexpr const char* name = "my_kernel";
//     static constexpr int threads = 128;         // of a block: a multiple of M::lanes
//     static constexpr int min_blocks = 1;        // resident per multiprocessor, for the compiler
//     static constexpr bool all_resident = false;  // true: blocks wait for each other
//     SIMT_DEVICE static void run(const params& p);
//   };
//   simt::outcome o = simt::launch<my_kernel<M>>({gx, gy, gz}, smem_bytes, stream, params);
#pragma once

#include <string>
#include <type_traits>

#include "simt/simt.h"

namespace warploom::simt {

struct grid {
  int64_t x = 1, y = 1, z = 1;
};

// Empty text: all is well. Otherwise one or more sentences that say what went wrong.
struct outcome {
  std::string error;
  bool ok() const { return error.empty(); }
};

// What a buffer holds when a kernel first sees it. `kept`: whatever earlier kernels left there.
enum class memory { written, unwritten, kept };

#if defined(WARPLOOM_SIMT_EMULATED)

template <class T>
global<T> make_global(T* p, int64_t count, memory state) {
  const char* low = reinterpret_cast<const char*>(p);
  const char* high = low + count * static_cast<int64_t>(sizeof(T));
  if (state != memory::kept) emulator::declare({low, high}, state == memory::written);
  return {p, low, high};
}

// The emulator remembers buffers from a session's start to its end: one per call of an operation.
class session {
 public:
  session() { emulator::forget(); }
  ~session() { emulator::forget(); }
  session(const session&) = delete;
  session& operator=(const session&) = delete;
};

template <class Kernel>
outcome launch(grid g, int64_t smem_bytes, void*, const typename Kernel::params& params) {
  static_assert(std::is_trivially_copyable_v<typename Kernel::params>);
  static_assert(Kernel::threads % Kernel::machine::lanes == 0);
  const emulator::grid_spec spec{Kernel::name,           {g.x, g.y, g.z}, Kernel::threads,
                                 Kernel::machine::lanes, smem_bytes,      Kernel::all_resident};
  return {emulator::run(
      spec, [](const void* p) { Kernel::run(*static_cast<const typename Kernel::params*>(p)); },
      &params)};
}

// Calls f.operator()<Machine>() with the machine to run on: here the emulator's chosen width.
template <class F>
auto with_machine(F f) {
  if (emulator::settings().lanes == 64) return f.template operator()<mfma64>();
  return f.template operator()<mma32>();
}

#else

template <class T>
global<T> make_global(T* p, int64_t, memory) {
  return {p};
}

class session {
 public:
  session() {}
  session(const session&) = delete;
  session& operator=(const session&) = delete;
};

template <class F>
auto with_machine(F f) {
  return f.template operator()<device_machine>();
}

namespace device {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, Kernel::min_blocks)
    entry(const typename Kernel::params params) {
  Kernel::run(params);
}

#if defined(WARPLOOM_SIMT_CUDA)
using platform_error = cudaError_t;
using platform_stream = cudaStream_t;
inline constexpr platform_error success = cudaSuccess;
inline const char* describe(platform_error e) { return cudaGetErrorString(e); }
inline platform_error allow_shared(const void* kernel, int bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
inline platform_error launch_cooperative(const void* kernel, dim3 g, dim3 b, void** args,
                                         size_t smem, platform_stream s) {
  return cudaLaunchCooperativeKernel(kernel, g, b, args, smem, s);
}
inline platform_error launch_plain(const void* kernel, dim3 g, dim3 b, void** args, size_t smem,
                                   platform_stream s) {
  return cudaLaunchKernel(kernel, g, b, args, smem, s);
}
#else
using platform_error = hipError_t;
using platform_stream = hipStream_t;
inline constexpr platform_error success = hipSuccess;
inline const char* describe(platform_error e) { return hipGetErrorString(e); }
inline platform_error allow_shared(const void* kernel, int bytes) {
  return hipFuncSetAttribute(kernel, hipFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
inline platform_error launch_cooperative(const void* kernel, dim3 g, dim3 b, void** args,
                                         size_t smem, platform_stream s) {
  return hipLaunchCooperativeKernel(kernel, g, b, args, static_cast<unsigned>(smem), s);
}
inline platform_error launch_plain(const void* kernel, dim3 g, dim3 b, void** args, size_t smem,
                                   platform_stream s) {
  return hipLaunchKernel(kernel, g, b, args, smem, s);
}
#endif

inline outcome refused(const char* kernel, const char* what, platform_error e) {
  return {std::string("kernel ") + kernel + ": " + what + ": " + describe(e)};
}

}  // namespace device

template <class Kernel>
outcome launch(grid g, int64_t smem_bytes, void* stream, const typename Kernel::params& params) {
  static_assert(std::is_trivially_copyable_v<typename Kernel::params>);
  static_assert(Kernel::threads % Kernel::machine::lanes == 0);
  static_assert(std::is_same_v<typename Kernel::machine, device_machine>);
  if (g.x == 0 || g.y == 0 || g.z == 0) return {};
  if (g.x > 0x7fffffff || g.y > 65535 || g.z > 65535) {
    return {std::string("kernel ") + Kernel::name + ": grid " + std::to_string(g.x) + " x " +
            std::to_string(g.y) + " x " + std::to_string(g.z) +
            " is more than a device takes: at most 2147483647 x 65535 x 65535"};
  }
  const void* kernel = reinterpret_cast<const void*>(&device::entry<Kernel>);
  if (smem_bytes > 48 * 1024) {
    const auto e = device::allow_shared(kernel, static_cast<int>(smem_bytes));
    if (e != device::success) return device::refused(Kernel::name, "shared memory", e);
  }
  typename Kernel::params copy = params;
  void* args[] = {&copy};
  const dim3 blocks(static_cast<unsigned>(g.x), static_cast<unsigned>(g.y),
                    static_cast<unsigned>(g.z));
  const auto start = Kernel::all_resident ? device::launch_cooperative : device::launch_plain;
  const auto e = start(kernel, blocks, dim3(Kernel::threads), args, static_cast<size_t>(smem_bytes),
                       static_cast<device::platform_stream>(stream));
  if (e != device::success) return device::refused(Kernel::name, "launch", e);
  return {};
}

#endif

}  // namespace warploom::simt
