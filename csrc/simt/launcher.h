// Host side of an op's GPU kernels: from its parameter struct to kernels' params, launches, and
// what went wrong. Compiled into each GPU library with the kernels of every family.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/gpu_runtime.h"
#include "base/targets.h"
#include "simt/strided.h"

namespace warploom::simt {

template <Target target>
struct machine_of {
  using type = mma32;
};
template <>
struct machine_of<Target::gfx90a> {
  using type = mfma64;
};

template <int dtype>  // -1: none
struct element_of {
  using type = void;
};
template <>
struct element_of<WL_F32> {
  using type = float;
};
template <>
struct element_of<WL_BF16> {
  using type = bf16;
};
template <>
struct element_of<WL_F16> {
  using type = f16;
};

// What Launcher::scratch takes of the workspace for `count` elements.
template <class T>
int64_t scratch_bytes(int64_t count) {
  return (count * int64_t(sizeof(T)) + 15) / 16 * 16;
}

// One call: registers buffers, launches in order, stops at the first failure.
class Launcher {
 public:
  explicit Launcher(const wl_exec& exec) : call_(exec), stream_(exec.stream) {
    status_ = call_.status();
  }

  bool ok() const { return status_ == WL_OK; }
  wl_status status() const { return status_; }
  global<int32_t> error() const { return make_global(call_.error_word(), 1, memory::written); }

  // A tensor [n0, n1, n2, width] that kernels read.
  template <class T>
  view<const T> input(const wl_strided& x, int64_t n0, int64_t n1, int64_t n2, int64_t width) {
    const auto r = rows_of(x, n0, n1, n2, width);
    return {make_strided(static_cast<const T*>(x.data), r, memory::written), x.stride[0],
            x.stride[1], x.stride[2]};
  }
  // One that they must write completely.
  template <class T>
  view<T> output(const char* name, const wl_strided& x, int64_t n0, int64_t n1, int64_t n2,
                 int64_t width) {
    const auto r = rows_of(x, n0, n1, n2, width);
    T* data = static_cast<T*>(x.data);
    outputs_.push_back([=] { return all_written(name, data, r); });
    return {make_strided(data, r, memory::unwritten), x.stride[0], x.stride[1], x.stride[2]};
  }
  template <class T>
  global<const T> input(const T* data, int64_t count) {
    return make_global(data, data ? count : 0, memory::written);
  }
  template <class T>
  global<T> output(const char* name, T* data, int64_t count) {
    if (!data) return make_global(data, 0, memory::kept);
    const rows r{{1, 1, 1}, {0, 0, 0}, count};
    outputs_.push_back([=] { return all_written(name, data, r); });
    return make_global(data, count, memory::unwritten);
  }
  // A tensor of which they write some elements and keep the rest.
  template <class T>
  view<T> updated(const wl_strided& x, int64_t n0, int64_t n1, int64_t n2, int64_t width) {
    const auto r = rows_of(x, n0, n1, n2, width);
    return {make_strided(static_cast<T*>(x.data), r, memory::written), x.stride[0], x.stride[1],
            x.stride[2]};
  }
  // The next `count` elements of the caller's workspace, which require_workspace found large
  // enough; kernels must write them before they read.
  template <class T>
  global<T> scratch(const wl_exec& exec, int64_t count) {
    char* at = static_cast<char*>(exec.workspace) + scratch_used_;
    scratch_used_ += scratch_bytes<T>(count);
    return make_global(reinterpret_cast<T*>(at), count, memory::unwritten);
  }

  // What follows refuses a call. Buffers are registered only for one that was not refused.

  // The largest size that kernels hold in 32 bits: sums of a few of them must still fit.
  static constexpr int64_t most = 1 << 29;

  int32_t narrow(const char* name, int64_t size) {
    if (size <= most) return int32_t(size);
    if (ok()) {
      status_ = fail(WL_INVALID, "%s is %lld: GPU kernels take at most %lld", name, (long long)size,
                     (long long)most);
    }
    return 0;
  }

  void require_workspace(const wl_exec& exec, int64_t bytes) {
    const int64_t given = exec.workspace ? exec.workspace_bytes : 0;
    if (!ok() || bytes == 0) return;
    if (given < bytes) {
      status_ = fail(WL_INVALID, "workspace has %lld bytes: this call needs %lld", (long long)given,
                     (long long)bytes);
    } else if (reinterpret_cast<uintptr_t>(exec.workspace) % 16) {
      status_ =
          fail(WL_INVALID, "workspace is at %p: must be at a multiple of 16 bytes", exec.workspace);
    }
  }

  // A block must be able to have this much shared memory.
  void require_shared(const char* kernel, int64_t bytes) {
    if (!ok() || bytes <= call_.shared_limit()) return;
    status_ =
        fail(WL_DEVICE, "%s needs %lld bytes of shared memory a block: this device allows %lld",
             kernel, (long long)bytes, (long long)call_.shared_limit());
  }

  template <class Kernel>
  void launch(int64_t blocks, int64_t smem_bytes, const typename Kernel::params& params) {
    if (!ok() || blocks == 0) return;
    const auto outcome = simt::launch<Kernel>({blocks, 1, 1}, smem_bytes, stream_, params);
    if (!outcome.ok()) status_ = fail_text(WL_DEVICE, outcome.error);
  }

  wl_status finish() {
    for (const auto& written : outputs_) {
      if (!ok()) break;
      const auto outcome = written();
      if (!outcome.ok()) {
        status_ = fail_text(WL_DEVICE, "the kernels ended, but " + outcome.error);
      }
    }
    return status_;
  }

 private:
  static rows rows_of(const wl_strided& x, int64_t n0, int64_t n1, int64_t n2, int64_t width) {
    return {{n0, n1, n2}, {x.stride[0], x.stride[1], x.stride[2]}, width};
  }

  GpuCall call_;
  session session_;
  void* stream_;
  wl_status status_;
  int64_t scratch_used_ = 0;
  std::vector<std::function<outcome()>> outputs_;
};

// Whether every row of the tensor starts at a multiple of 16 bytes. Axes of one entry do not count.
inline bool aligned(const wl_strided& x, std::initializer_list<int64_t> counts, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(x.data) % 16) return false;
  int axis = 0;
  for (const int64_t n : counts) {
    if (n > 1 && x.stride[axis] * bytes % 16) return false;
    ++axis;
  }
  return true;
}

}  // namespace warploom::simt

// Defines the kernel that csrc/<family>/kernels.def calls `name`, and the workspace it needs, from
// warploom::<family>::gpu::Op<M, T, ...>.
#define WL_GPU_OP(family, name, target, dtype, Op, ...)                                \
  namespace warploom::family {                                                         \
  using name##_op = gpu::Op<simt::machine_of<Target::target>::type,                    \
                            simt::element_of<dtype>::type __VA_OPT__(, ) __VA_ARGS__>; \
  wl_status name(const void* params);                                                  \
  wl_status name(const void* params) {                                                 \
    return name##_op::run(*static_cast<const name##_op::params_type*>(params));        \
  }                                                                                    \
  int64_t name##_workspace(const void* params);                                        \
  int64_t name##_workspace(const void* params) {                                       \
    return name##_op::workspace(*static_cast<const name##_op::params_type*>(params));  \
  }                                                                                    \
  }
