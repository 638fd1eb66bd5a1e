// Codes from values: a team of lanes takes a group, a strip each at a time. Bound by the bytes of
// x.
#pragma once

#include "kv_cache/gpu_codes.cuh"

namespace warploom::kv_cache::gpu {

template <class M, class T, int bits>
struct quantize_kernel {
  using machine = M;
  struct params {
    int64_t n1, n2, count;  // groups in all
    int64_t groups;         // of a row
    int32_t strips, team;   // of a group; lanes that share it, a power of two
    simt::view<const T> x;
    global<uint32_t> codes;
    global<simt::bf16> min, range;
    bool vector, codes_vector;
    global<int32_t> error;
  };
  static constexpr const char* name = "kv_quantize";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int64_t id =
        int64_t{simt::block_x()} * (threads / a.team) + simt::thread_index() / a.team;
    const int first = simt::thread_index() % a.team;
    const bool active = id < a.count;
    const int64_t row = active ? id / a.groups : 0, group = active ? id % a.groups : 0;
    const auto x =
        a.x.at(row / (a.n1 * a.n2), row / a.n2 % a.n1, row % a.n2) + group * a.strips * kStrip;

    float values[kStrip] = {};  // of this lane's first strip; later ones are read again
    float least = kInfinity, most = -kInfinity;
    for (int strip = first; active && strip < a.strips; strip += a.team) {
      float next[kStrip];
      load_strip(next, x + strip * kStrip, a.vector);
      SIMT_UNROLL
      for (int i = 0; i < kStrip; ++i) {
        least = simt::min(least, next[i]);
        // A NaN, which both would drop, counts as an infinity: the group has no grid.
        most = simt::max(most, next[i] == next[i] ? next[i] : kInfinity);
        if (strip == first) values[i] = next[i];
      }
    }
    for (int mask = 1; mask < a.team; mask *= 2) {
      least = simt::min(least, simt::shuffle_xor<M>(least, mask));
      most = simt::max(most, simt::shuffle_xor<M>(most, mask));
    }
    if (!active) return;

    const Grid grid = grid_of(least, most, levels_of(bits));
    if (first == 0) {
      if (!grid.finite) simt::set_error(a.error, error_word(device_error::x, row));
      simt::store(a.min, id, simt::bf16{grid.min});
      simt::store(a.range, id, simt::bf16{grid.range});
    }
    for (int strip = first; strip < a.strips; strip += a.team) {
      if (strip != first) load_strip(values, x + strip * kStrip, a.vector);
      uint32_t codes[kStrip];
      SIMT_UNROLL
      for (int i = 0; i < kStrip; ++i) {
        const float steps = simt::product(values[i] - grid.lowest, grid.inverse_step);
        codes[i] = simt::number::bit_cast<uint32_t>(steps + kRounder) & uint32_t(levels_of(bits));
      }
      store_words(a.codes, (id * a.strips + strip) * (bits / 2), pack_strip<bits>(codes),
                  a.codes_vector);
    }
  }
};

template <class M, class T>
struct quantize_op {
  using params_type = wl_kv_quantize_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    return with_bits(w.bits, [&]<int bits>() { return run_of<bits>(w); });
  }

  template <int bits>
  static wl_status run_of(const params_type& w) {
    using Kernel = quantize_kernel<M, T, bits>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.n1 = w.n[1];
    a.n2 = w.n[2];
    a.groups = w.d / w.group;
    a.strips = launcher.narrow("group / 16", w.group / kStrip);
    if (!launcher.ok()) return launcher.status();
    a.team = 1;
    while (a.team < a.strips && a.team < M::lanes) a.team *= 2;
    const int64_t rows = w.n[0] * w.n[1] * w.n[2];
    a.count = rows * a.groups;
    a.x = launcher.input<T>(w.x, w.n[0], w.n[1], w.n[2], w.d);
    const int64_t words = rows * w.d * bits / 32;
    a.codes = launcher.output("codes", reinterpret_cast<uint32_t*>(w.codes), words);
    a.min = launcher.output("min", reinterpret_cast<simt::bf16*>(w.min), a.count);
    a.range = launcher.output("range", reinterpret_cast<simt::bf16*>(w.range), a.count);
    a.vector = simt::aligned(w.x, {w.n[0], w.n[1], w.n[2]}, sizeof(T));
    a.codes_vector = uintptr_t(w.codes) % (2 * bits) == 0;
    a.error = launcher.error();
    const int64_t teams = Kernel::threads / a.team;
    launcher.launch<Kernel>((a.count + teams - 1) / teams, 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, quantize_op)
