// New keys and values into open pages: all are looked at, then all are written.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/vec_half.h"
#include "kv_cache/cpu.h"
#include "kv_cache/pages.h"

namespace warploom::kv_cache {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
constexpr float kLimit = 0x1p127f;

template <class T>
struct Side {
  const wl_strided& x;
  int64_t dim;

  const T* row(int64_t i, int64_t j, int64_t head) const {
    return static_cast<const T*>(x.data) + i * x.stride[0] + j * x.stride[1] + head * x.stride[2];
  }
};

// As bfloat16 in the low half of each lane: to nearest, ties to even, subnormals too.
inline Words rounded(Floats x) {
  const Words u = bits(x);
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

// 2^127 and above, infinities and NaNs have exponents from 254 on, after rounding. (Rounding a NaN
// may carry into its sign: looked at before, too.)
template <class T>
Words odd_of(const T* x, int64_t dim) {
  Words odd{};
  for (int64_t c = 0; c < dim; c += kLanes) {
    const Floats value = load_floats(x + c);
    odd |= Words((bits(value) & 0x7f800000u) >= 0x7f000000u);
    odd |= Words((rounded(value) & 0x7f80u) >= 0x7f00u);
  }
  return odd;
}
template <>
Words odd_of(const bf16* x, int64_t dim) {
  Words odd{};
  for (int64_t c = 0; c < dim; c += kLanes) {
    odd |= Words((bits(load_floats(x + c)) & 0x7f800000u) >= 0x7f000000u);
  }
  return odd;
}

template <class T>
void copy(const T* x, int64_t dim, bf16* out) {
  for (int64_t c = 0; c < dim; c += kLanes) {
    const Halves narrow = __builtin_convertvector(rounded(load_floats(x + c)), Halves);
    std::memcpy(out + c, &narrow, sizeof narrow);
  }
}
template <>
void copy(const bf16* x, int64_t dim, bf16* out) {
  std::memcpy(out, x, dim * sizeof *x);
}

template <class T>
wl_status refuse(const char* name, const Side<T>& side, int64_t i, int64_t j, int64_t hk) {
  using ll = long long;
  for (int64_t head = 0; head < hk; ++head) {
    for (int64_t c = 0; c < side.dim; ++c) {
      const float value = to_float(side.row(i, j, head)[c]);
      if (std::fabs(to_float(from_float<bf16>(value))) < kLimit) continue;
      return fail(WL_INVALID,
                  "%s[%lld, %lld, %lld, %lld] is %g: must be finite and, in bfloat16, below 2^127; "
                  "nothing is written",
                  name, ll(i), ll(j), ll(head), ll(c), double(value));
    }
  }
  return WL_OK;
}

}  // namespace

template <class T>
wl_status append(const wl_kv_append_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const wl_kv_pages& pages = p.pages;
  const int64_t rows = p.n[0] * p.n[1];
  const Side<T> k{p.k, pages.d}, v{p.v, pages.dv};
  const int64_t piece = std::max<int64_t>(
      (int64_t{1} << 15) / std::max<int64_t>(pages.hk * (pages.d + pages.dv), 1), 1);
  const int64_t pieces = (rows + piece - 1) / piece;
  std::atomic<int64_t> bad{kNone};  // the first row of all
  parallel_for(threads, pieces, [&](int64_t index, int) {
    for (int64_t row = index * piece; row < std::min((index + 1) * piece, rows); ++row) {
      const int64_t i = row / p.n[1], j = row % p.n[1];
      Words odd{};
      for (int64_t head = 0; head < pages.hk; ++head) {
        odd |= odd_of(k.row(i, j, head), k.dim) | odd_of(v.row(i, j, head), v.dim);
      }
      uint32_t any = 0;
      for (int lane = 0; lane < kLanes; ++lane) any |= odd[lane];
      if (any == 0) continue;
      int64_t before = bad.load();
      while (row < before && !bad.compare_exchange_weak(before, row)) {
      }
      return;
    }
  });
  if (bad != kNone) {
    const int64_t i = bad / p.n[1], j = bad % p.n[1];
    WL_RETURN_IF_ERROR(refuse("k", k, i, j, pages.hk));
    return refuse("v", v, i, j, pages.hk);
  }
  parallel_for(threads, pieces, [&](int64_t index, int) {
    for (int64_t row = index * piece; row < std::min((index + 1) * piece, rows); ++row) {
      const int64_t slot = p.slots[row];
      if (slot < 0) continue;
      const int64_t i = row / p.n[1], j = row % p.n[1];
      const int64_t page = slot / pages.page, at = slot % pages.page;
      for (int64_t head = 0; head < pages.hk; ++head) {
        bf16* keys = reinterpret_cast<bf16*>(block_at(pages, page, head, 0));
        bf16* values = reinterpret_cast<bf16*>(block_at(pages, page, head, 1));
        copy(k.row(i, j, head), k.dim, keys + at * k.dim);
        copy(v.row(i, j, head), v.dim, values + at * v.dim);
      }
    }
  });
  return WL_OK;
}

template wl_status append<float>(const wl_kv_append_params&);
template wl_status append<f16>(const wl_kv_append_params&);
template wl_status append<bf16>(const wl_kv_append_params&);

}  // namespace warploom::kv_cache
