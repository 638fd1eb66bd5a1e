// The merge of partial results that the caller holds.
#pragma once

#include "attention/gpu_launch.h"
#include "attention/gpu_merge_rows.cuh"

namespace warploom::attention::gpu {

template <class M, class T>
struct merge_kernel {
  using machine = M;
  static constexpr int most = 32;  // parts that fit beside each other in a kernel's parameters
  struct source {
    view<const T> o[most];
    global<const float> lses[most];
    int32_t h, s;

    SIMT_DEVICE float lse(int part, int64_t row) const { return simt::load(lses[part], row); }
    SIMT_DEVICE float value(int part, int64_t row, int c) const {
      return simt::to_float(simt::load(o[part].at(row / s / h, row % s, row / s % h), c));
    }
    SIMT_DEVICE float absent(int64_t, int) const { return 0; }
  };
  struct params {
    source from;
    merge_target<T> to;
    int32_t parts;
  };
  static constexpr const char* name = "attention_merge";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) { merge_rows(a.from, a.to, a.parts); }
};

template <class M, class T, int>
struct merge_op {
  using params_type = wl_attention_merge_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = merge_kernel<M, T>;
    if (w.parts > Kernel::most) {
      return fail(WL_INVALID, "parts is %lld: the GPU kernels merge at most %d at a time",
                  (long long)w.parts, Kernel::most);
    }
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.parts = int32_t(w.parts);
    const int64_t rows = w.b * w.h * w.s;
    a.from.h = launcher.narrow("h", w.h);
    a.from.s = launcher.narrow("s", w.s);
    const int32_t dv = launcher.narrow("dv", w.dv);
    if (!launcher.ok()) return launcher.status();
    for (int64_t i = 0; i < w.parts; ++i) {
      a.from.o[i] = launcher.input<T>(w.o_parts[i], w.b, w.s, w.h, w.dv);
      a.from.lses[i] = launcher.input(w.lse_parts[i], rows);
    }
    a.to = {launcher.output<T>("o", w.o, w.b, w.s, w.h, w.dv),
            launcher.output("lse", w.lse, rows),
            rows,
            a.from.h,
            a.from.s,
            dv};
    launcher.launch<Kernel>(merge_blocks(rows, w.dv, Kernel::threads), 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::attention::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, d_max, ...) \
  WL_GPU_OP(attention, name, target, dtype, merge_op, d_max)
