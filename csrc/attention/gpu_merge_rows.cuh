// Merging partial results in their order: o = sum_n exp(lse_n - lse) o_n. Parts whose lse is
// -infinity are absent. One thread per element; bound by the bytes of the parts.
#pragma once

#include "attention/gpu_common.cuh"

namespace warploom::attention::gpu {

// Rows are counted as lse is laid out: [b, h, s].
template <class T>
struct merge_target {
  view<T> o;
  global<float> lse;  // null: not wanted
  int64_t rows;
  int32_t h, s, dv;

  SIMT_DEVICE global<T> row(int64_t r) const { return o.at(r / s / h, r % s, r / s % h); }
};

inline int64_t merge_blocks(int64_t rows, int64_t dv, int64_t threads) {
  const int64_t elements = rows * std::max<int64_t>(dv, 1);
  return (elements + threads - 1) / threads;
}

// `from.lse(part, row)`, `from.value(part, row, column)`, and `from.absent(row, column)` for a row
// of which every part is absent.
template <class From, class T>
SIMT_DEVICE void merge_rows(const From& from, const merge_target<T>& to, int parts) {
  const int width = to.dv > 0 ? to.dv : 1;
  const int64_t id = int64_t{simt::block_x()} * simt::block_threads() + simt::thread_index();
  const int64_t row = id / width;
  const int c = int(id % width);
  if (row >= to.rows) return;

  float largest = -kInfinity, total = 0, sum = 0;
  for (int part = 0; part < parts; ++part) largest = simt::max(largest, from.lse(part, row));
  const float base = largest == kInfinity ? 0.0f : largest;
  for (int part = 0; part < parts; ++part) {
    const float lse = from.lse(part, row);
    if (lse == -kInfinity) continue;
    const float weight = simt::exp2((lse - base) * kLog2E);
    total += weight;
    if (c < to.dv) sum = simt::fma(weight, from.value(part, row, c), sum);
  }
  if (c < to.dv) {
    simt::store(to.row(row), c, simt::to<T>(total == 0 ? from.absent(row, c) : sum / total));
  }
  if (c == 0 && to.lse) {
    const float lse = total == 0 ? -kInfinity : simt::fma(simt::log2(total), kLn2, base);
    simt::store(to.lse, row, lse);
  }
}

}  // namespace warploom::attention::gpu
