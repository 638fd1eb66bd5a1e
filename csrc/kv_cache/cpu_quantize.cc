// Codes from values and values from codes. Every operation is one IEEE rounding, in an order that
// does not depend on the target.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "kv_cache/cpu.h"
#include "kv_cache/cpu_codes.h"

namespace warploom::kv_cache {
namespace {

// What is wrong with the group that the loop could not quantize.
template <class T>
wl_status refuse(const wl_kv_quantize_params& p, int64_t row, int64_t first, const T* x) {
  using ll = long long;
  const ll i0 = row / (p.n[1] * p.n[2]), i1 = row / p.n[2] % p.n[1], i2 = row % p.n[2];
  for (int64_t c = first; c < first + p.group; ++c) {
    const float value = to_float(x[c]);
    if (std::isfinite(value)) continue;
    return fail(WL_INVALID, "x[%lld, %lld, %lld, %lld] is %g: must be finite", i0, i1, i2, ll(c),
                double(value));
  }
  return fail(
      WL_INVALID,
      "x[%lld, %lld, %lld, %lld:%lld] spans more than bfloat16 holds: a group's least value "
      "and its range must be at most 3.39e38",
      i0, i1, i2, ll(first), ll(first + p.group));
}

int64_t rows_to_a_piece(int64_t d) {
  return std::max<int64_t>((int64_t{1} << 14) / std::max<int64_t>(d, 1), 1);
}

}  // namespace

template <class T>
wl_status quantize(const wl_kv_quantize_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const int64_t rows = p.n[0] * p.n[1] * p.n[2], groups = p.d / p.group;
  const int levels = levels_of(p.bits);
  const auto row_of = [&](int64_t row) {
    return static_cast<const T*>(p.x.data) + row / (p.n[1] * p.n[2]) * p.x.stride[0] +
           row / p.n[2] % p.n[1] * p.x.stride[1] + row % p.n[2] * p.x.stride[2];
  };
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};  // the first group of all
  const int64_t piece = rows_to_a_piece(p.d);
  parallel_for(threads, (rows + piece - 1) / piece, [&](int64_t index, int) {
    alignas(64) uint8_t codes[kRun];
    for (int64_t row = index * piece; row < std::min((index + 1) * piece, rows); ++row) {
      const T* x = row_of(row);
      uint8_t* out = p.codes + row * (p.d * p.bits / 8);
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = row * groups + g;
        const Grid grid = grid_of(x + g * p.group, p.group, levels);
        if (!grid.finite) {
          int64_t before = bad.load();
          while (at < before && !bad.compare_exchange_weak(before, at)) {
          }
          return;
        }
        p.min[at] = grid.min;
        p.range[at] = grid.range;
        for (int64_t c = 0; c < p.group; c += kRun) {
          const int64_t count = std::min<int64_t>(kRun, p.group - c);
          encode(x + g * p.group + c, count, grid, codes);
          pack(codes, count, p.bits, out + (g * p.group + c) * p.bits / 8);
        }
      }
    }
  });
  if (bad == std::numeric_limits<int64_t>::max()) return WL_OK;
  const int64_t row = bad / groups;
  return refuse(p, row, bad % groups * p.group, row_of(row));
}

template <class T>
wl_status dequantize(const wl_kv_dequantize_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const int64_t groups = p.d / p.group;
  const int levels = levels_of(p.bits);
  const int64_t piece = rows_to_a_piece(p.d);
  parallel_for(threads, (p.rows + piece - 1) / piece, [&](int64_t index, int) {
    alignas(64) uint8_t codes[kRun];
    const int64_t last = std::min((index + 1) * piece, p.rows) * groups;
    for (int64_t at = index * piece * groups; at < last; ++at) {
      const float lowest = widen(p.min[at]), step = widen(p.range[at]) / float(levels);
      for (int64_t c = 0; c < p.group; c += kRun) {
        const int64_t count = std::min<int64_t>(kRun, p.group - c), first = at * p.group + c;
        unpack(p.codes + first * p.bits / 8, count, p.bits, codes);
        decode(codes, count, lowest, step, static_cast<T*>(p.x) + first);
      }
    }
  });
  return WL_OK;
}

#define WL_INSTANTIATE(T)                                       \
  template wl_status quantize<T>(const wl_kv_quantize_params&); \
  template wl_status dequantize<T>(const wl_kv_dequantize_params&);
WL_INSTANTIATE(float)
WL_INSTANTIATE(f16)
WL_INSTANTIATE(bf16)

}  // namespace warploom::kv_cache
