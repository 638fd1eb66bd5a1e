// Results of a decoding whose keys are cut into parts: different blocks take the parts, and a
// second kernel merges them in their order.
#pragma once

#include "attention/gpu_launch.h"
#include "attention/gpu_merge_rows.cuh"

namespace warploom::attention::gpu {

// Where results go. Rows are counted as lse is laid out: [b, h, s].
template <class T>
struct split_output {
  view<T> o;                  // where one part is all
  global<float> lse;          // null: not wanted
  global<float> parts, lses;  // of the parts: [splits, b, h, s, dv] and without dv
  int64_t rows;               // b * h * s
  int32_t splits, h, s, dv;
  bool vector;

  SIMT_DEVICE int64_t index(int split, int n, int head, int position) const {
    return (splits > 1 ? split * rows : 0) + (int64_t{n} * h + head) * s + position;
  }
  // Neighbouring values of a row from column c on; NaN where the sequence is not good.
  template <int N>
  SIMT_DEVICE void store(int split, int n, int head, int position, int c,
                         simt::vec<float, N> values, bool good) const {
    SIMT_UNROLL
    for (int i = 0; i < N; ++i) {
      if (!good) values[i] = quiet_nan();
    }
    if (splits == 1) {
      store_run<T>(o.at(n, position, head), c, values, dv, vector);
    } else {
      store_run<float>(parts + index(split, n, head, position) * dv, c, values, dv, vector);
    }
  }
  SIMT_DEVICE void store_lse(int split, int n, int head, int position, float value,
                             bool good) const {
    if (!good) value = quiet_nan();
    if (splits > 1) {
      simt::store(lses, index(split, n, head, position), value);
    } else if (lse) {
      simt::store(lse, index(split, n, head, position), value);
    }
  }
};

// The parts, as merge_rows reads them.
struct decode_parts {
  global<const float> parts, lses;
  int64_t rows;  // of one part
  int32_t dv;

  SIMT_DEVICE float lse(int part, int64_t row) const { return simt::load(lses, part * rows + row); }
  SIMT_DEVICE float value(int part, int64_t row, int c) const {
    return simt::load(parts, (part * rows + row) * dv + c);
  }
  // Of a row to which no part adds: each holds 0 where nothing was seen, or NaN.
  SIMT_DEVICE float absent(int64_t row, int c) const { return value(0, row, c); }
};

template <class M, class T>
struct decode_merge_kernel {
  using machine = M;
  struct params {
    decode_parts from;
    merge_target<T> to;
    int32_t splits;
  };
  static constexpr const char* name = "attention_decode_merge";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) { merge_rows(a.from, a.to, a.splits); }
};

inline int64_t split_workspace(int64_t splits, int64_t rows, int64_t dv) {
  if (splits == 1) return 0;
  return scratch_bytes<float>(splits * rows * dv) + scratch_bytes<float>(splits * rows);
}

// Of a call's params `w` with q [b, s, h, d] and o [b, s, h, dv].
template <class T, class Params>
split_output<T> output_of(Launcher& launcher, const Params& w, int64_t dv, int64_t splits,
                          bool vector) {
  split_output<T> out{};
  out.rows = w.b * w.h * w.s;
  out.o = launcher.output<T>("o", w.o, w.b, w.s, w.h, dv);
  out.lse = launcher.output("lse", w.lse, out.rows);
  out.splits = int32_t(splits);
  out.h = int32_t(w.h);
  out.s = int32_t(w.s);
  out.dv = int32_t(dv);
  out.vector = vector;
  if (splits > 1) {
    out.parts = launcher.scratch<float>(w.exec, splits * out.rows * dv);
    out.lses = launcher.scratch<float>(w.exec, splits * out.rows);
  }
  return out;
}

template <class M, class T>
void merge_parts(Launcher& launcher, const split_output<T>& out) {
  if (out.splits == 1) return;
  using Merge = decode_merge_kernel<M, T>;
  typename Merge::params m{};
  m.from = {out.parts, out.lses, out.rows, out.dv};
  m.to = {out.o, out.lse, out.rows, out.h, out.s, out.dv};
  m.splits = out.splits;
  launcher.launch<Merge>(merge_blocks(out.rows, out.dv, Merge::threads), 0, m);
}

}  // namespace warploom::attention::gpu
