// New keys and values into blocks of 16 bits: a warp takes a row of a head, keys or values, and
// writes it if all of it can be stored. Bound by the bytes of k and v.
#pragma once

#include "kv_cache/gpu_blocks.cuh"

namespace warploom::kv_cache::gpu {

template <class M, class T>
struct append_kernel {
  using machine = M;
  struct params {
    pages_view pages;
    int64_t n1, rows;
    simt::view<const T> k, v;
    global<const int64_t> slots;
    bool vector;
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_append";
  static constexpr int threads = 128, min_blocks = 1, warps = threads / M::lanes;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int64_t id = int64_t{simt::block_x()} * warps + simt::warp<M>();
    const int64_t row = id / 2 / a.pages.hk;
    const int head = int(id / 2 % a.pages.hk), side = int(id % 2);
    const bool active = row < a.rows;
    const auto& source = side ? a.v : a.k;
    const auto x = active ? source.at(row / a.n1, row % a.n1, head) : source.data;
    const int strips = active ? (side ? a.pages.dv : a.pages.d) / kStrip : 0;

    bool good = true;
    for (int strip = simt::lane<M>(); strip < strips; strip += M::lanes) {
      float values[kStrip];
      load_strip(values, x + strip * kStrip, a.vector);
      SIMT_UNROLL
      for (int i = 0; i < kStrip; ++i) good = good && storable(values[i]);
    }
    good = simt::all<M>(good);
    if (!active) return;
    if (!good) {
      simt::set_error(a.error, error_word(device_error::rows, row));
      return;
    }
    const int64_t slot = simt::load(a.slots, row);
    if (slot == -1) return;
    const int64_t page = slot / a.pages.page;
    if (slot < 0 || page >= a.pages.pages) {
      simt::set_error(a.error, error_word(device_error::slots, row));
      return;
    }
    const block b = a.pages.at((page * a.pages.hk + head) * 2 + side);
    if (b.width != 16) {
      simt::set_error(a.error, error_word(device_error::pages, page));
      return;
    }
    for (int strip = simt::lane<M>(); strip < strips; strip += M::lanes) {
      float values[kStrip];
      load_strip(values, x + strip * kStrip, a.vector);
      const int64_t at = b.at + (slot % a.pages.page * b.dim + strip * kStrip) / 2;
      SIMT_UNROLL
      for (int part = 0; part < 2; ++part) {
        simt::vec<uint32_t, 4> words;
        SIMT_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int c = part * 8 + i * 2;
          words[i] = simt::pack<bf16>(values[c], values[c + 1]);
        }
        simt::store_vec(a.pages.pool, at + part * 4, words);
      }
    }
  }
};

template <class M, class T>
struct append_op {
  using params_type = wl_kv_append_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = append_kernel<M, T>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.pages = view_of(launcher, w.pages);
    if (!launcher.ok()) return launcher.status();
    a.n1 = w.n[1];
    a.rows = w.n[0] * w.n[1];
    a.k = launcher.input<T>(w.k, w.n[0], w.n[1], w.pages.hk, w.pages.d);
    a.v = launcher.input<T>(w.v, w.n[0], w.n[1], w.pages.hk, w.pages.dv);
    a.slots = launcher.input(w.slots, a.rows);
    a.vector = simt::aligned(w.k, {w.n[0], w.n[1], w.pages.hk}, sizeof(T)) &&
               simt::aligned(w.v, {w.n[0], w.n[1], w.pages.hk}, sizeof(T));
    a.error = launcher.error();
    const int64_t work = a.rows * w.pages.hk * 2;
    launcher.launch<Kernel>((work + Kernel::warps - 1) / Kernel::warps, 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, append_op)
