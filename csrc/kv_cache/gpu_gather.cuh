// What single positions of pages stand for: a thread takes a strip of channels. Bound by the bytes
// written.
#pragma once

#include "kv_cache/gpu_blocks.cuh"

namespace warploom::kv_cache::gpu {

template <class M, class T>
struct gather_kernel {
  using machine = M;
  struct params {
    pages_view pages;
    int64_t count;
    global<const int64_t> slots;
    global<T> k, v;
    bool vector;
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_gather";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const pages_view& p = a.pages;
    const int key_strips = p.d / kStrip, strips = key_strips + p.dv / kStrip;
    const int64_t id = int64_t{simt::block_x()} * threads + simt::thread_index();
    const int64_t n = id / strips / p.hk;
    if (n >= a.count) return;
    const int head = int(id / strips % p.hk), side = int(id % strips) >= key_strips;
    const int channel = (int(id % strips) - (side ? key_strips : 0)) * kStrip;
    const int64_t slot = simt::load(a.slots, n), page = slot / p.page;
    const bool inside = slot >= 0 && page < p.pages;
    const block b = inside ? p.at((page * p.hk + head) * 2 + side) : block{};
    float values[kStrip];
    if (!b.there()) {
      simt::set_error(a.error, error_word(device_error::slots, n));
      SIMT_UNROLL
      for (int i = 0; i < kStrip; ++i) values[i] = simt::number::bit_cast<float>(0x7fc00000u);
    } else {
      SIMT_UNROLL
      for (int i = 0; i < kStrip; ++i) {
        values[i] = within<T>(p.value(b, int(slot % p.page), channel + i));
      }
    }
    const int64_t row = n * p.hk + head;
    store_strip(side ? a.v + (row * p.dv + channel) : a.k + (row * p.d + channel), values,
                a.vector);
  }
};

template <class M, class T>
struct gather_op {
  using params_type = wl_kv_gather_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = gather_kernel<M, T>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.pages = view_of(launcher, w.pages);
    if (!launcher.ok()) return launcher.status();
    a.count = w.count;
    a.slots = launcher.input(w.slots, w.count);
    const int64_t rows = w.count * w.pages.hk;
    a.k = launcher.output("k", static_cast<T*>(w.k), rows * w.pages.d);
    a.v = launcher.output("v", static_cast<T*>(w.v), rows * w.pages.dv);
    a.vector = uintptr_t(w.k) % 16 == 0 && uintptr_t(w.v) % 16 == 0;
    a.error = launcher.error();
    const int64_t work = rows * ((w.pages.d + w.pages.dv) / kStrip);
    launcher.launch<Kernel>((work + Kernel::threads - 1) / Kernel::threads, 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, gather_op)
