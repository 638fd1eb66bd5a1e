// Stored keys at another position of rotary embedding: a block of threads turns a block of keys in
// shared memory, a warp to a position, and writes it back, by new grids where it has codes.
#pragma once

#include "kv_cache/gpu_encode.cuh"

namespace warploom::kv_cache::gpu {

template <class M>
struct rotate_kernel {
  using machine = M;
  struct params {
    pages_view pages;
    global<const int32_t> index;
    int32_t half;
    bool interleaved;
    global<const float> cos, sin;
    int64_t page_stride, position_stride;
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_rotate";
  static constexpr int threads = 256, min_blocks = 1, warps = threads / M::lanes;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const pages_view& p = a.pages;
    const int n = simt::block_x() / p.hk, head = simt::block_x() % p.hk;
    const int64_t page = simt::load(a.index, n);
    const bool known = page >= 0 && page < p.pages;
    const block b = known ? p.at((page * p.hk + head) * 2) : block{};
    if (!b.there()) {
      if (simt::thread_index() == 0) simt::set_error(a.error, error_word(device_error::index, n));
      return;
    }
    simt::arena smem;
    const auto x = smem.take<float>(p.page * b.dim);
    bool good = true;
    for (int position = simt::warp<M>(); position < p.page; position += warps) {
      good = turn(a, b, x, n, position) && good;
    }
    if (!simt::sync_block_all(good)) {
      if (simt::thread_index() == 0) simt::set_error(a.error, error_word(device_error::turned, n));
      return;
    }
    const auto value = [&](int position, int channel) {
      return simt::load(x, position * b.dim + channel);
    };
    if (b.width == 16) {
      for (int i = simt::thread_index(); i < p.page * b.dim / 2; i += threads) {
        const auto two = simt::load_vec<2>(x, 2 * i);
        simt::store(p.pool, b.at + i, simt::pack<bf16>(two[0], two[1]));
      }
    } else {
      make_grids<threads>(p, b, b.width, value);
      make_codes<threads>(p, b, b.width, value,
                          [&](int at, uint32_t word) { simt::store(p.pool, b.at + at, word); });
    }
  }

  // One position. False where it could be stored before and cannot any more: what lies beyond a
  // sequence's end may be anything.
  SIMT_DEVICE static bool turn(const params& a, const block& b, simt::shared<float> x, int n,
                               int position) {
    const int64_t angles = n * a.page_stride + position * a.position_stride;
    const int apart = a.interleaved ? 1 : a.half, step = a.interleaved ? 2 : 1;
    bool were = true, are = true;
    const auto put = [&](int channel, float before, float after) {
      were = were && storable(before);
      are = are && storable(after);
      simt::store(x, position * b.dim + channel, after);
    };
    for (int i = simt::lane<M>(); i < a.half; i += M::lanes) {
      const float cos = simt::load(a.cos, angles + i), sin = simt::load(a.sin, angles + i);
      const int first = i * step, second = first + apart;
      const float u = a.pages.value(b, position, first), v = a.pages.value(b, position, second);
      put(first, u, simt::product(u, cos) - simt::product(v, sin));
      put(second, v, simt::product(v, cos) + simt::product(u, sin));
    }
    for (int c = 2 * a.half + simt::lane<M>(); c < b.dim; c += M::lanes) {
      const float same = a.pages.value(b, position, c);
      put(c, same, same);
    }
    were = simt::all<M>(were);
    are = simt::all<M>(are);
    return !were || are;
  }
};

template <class M, class>
struct rotate_op {
  using params_type = wl_kv_rotate_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = rotate_kernel<M>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.pages = view_of(launcher, w.pages);
    const int64_t values = int64_t{a.pages.page} * a.pages.d;
    launcher.require_shared(Kernel::name, values * 4);
    if (!launcher.ok()) return launcher.status();
    a.index = launcher.input(w.index, w.count);
    a.half = int32_t(w.half);
    a.interleaved = w.interleaved != 0;
    const int64_t reach =
        w.count ? (w.count - 1) * w.page_stride + (w.pages.page - 1) * w.position_stride + w.half
                : 0;
    a.cos = launcher.input(w.cos, reach);
    a.sin = launcher.input(w.sin, reach);
    a.page_stride = w.page_stride;
    a.position_stride = w.position_stride;
    a.error = launcher.error();
    launcher.launch<Kernel>(w.count * w.pages.hk, simt::arena_bytes<float>(int(values)), a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, rotate_op)
