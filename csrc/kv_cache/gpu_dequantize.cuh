// Values from codes: a thread takes a strip. Bound by the bytes of x.
#pragma once

#include "kv_cache/gpu_codes.cuh"

namespace warploom::kv_cache::gpu {

template <class M, class T, int bits>
struct dequantize_kernel {
  using machine = M;
  struct params {
    int64_t count;   // strips in all
    int64_t strips;  // of a group
    global<const uint32_t> codes;
    global<const simt::bf16> min, range;
    global<T> x;
    bool vector, codes_vector;
  };
  static constexpr const char* name = "kv_dequantize";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int64_t strip = int64_t{simt::block_x()} * threads + simt::thread_index();
    if (strip >= a.count) return;
    const auto words = load_words<bits / 2>(a.codes, strip * (bits / 2), a.codes_vector);
    const int64_t group = strip / a.strips;
    const float lowest = simt::to_float(simt::load(a.min, group));
    const float step = simt::to_float(simt::load(a.range, group)) / float(levels_of(bits));
    float values[kStrip];
    SIMT_UNROLL
    for (int i = 0; i < kStrip; ++i) {
      const float value = simt::product(float(code_of<bits>(words, i)), step) + lowest;
      values[i] = within<T>(value);
    }
    store_strip(a.x + strip * kStrip, values, a.vector);
  }
};

template <class M, class T>
struct dequantize_op {
  using params_type = wl_kv_dequantize_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    return with_bits(w.bits, [&]<int bits>() { return run_of<bits>(w); });
  }

  template <int bits>
  static wl_status run_of(const params_type& w) {
    using Kernel = dequantize_kernel<M, T, bits>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    const int64_t elements = w.rows * w.d, groups = elements / w.group;
    a.count = elements / kStrip;
    a.strips = w.group / kStrip;
    a.codes = launcher.input(reinterpret_cast<const uint32_t*>(w.codes), elements * bits / 32);
    a.min = launcher.input(reinterpret_cast<const simt::bf16*>(w.min), groups);
    a.range = launcher.input(reinterpret_cast<const simt::bf16*>(w.range), groups);
    a.x = launcher.output("x", static_cast<T*>(w.x), elements);
    a.vector = uintptr_t(w.x) % 16 == 0;
    a.codes_vector = uintptr_t(w.codes) % (2 * bits) == 0;
    launcher.launch<Kernel>((a.count + Kernel::threads - 1) / Kernel::threads, 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::kv_cache::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, ...) \
  WL_GPU_OP(kv_cache, name, target, dtype, dequantize_op)
