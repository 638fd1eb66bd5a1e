// Codes from values and values from codes. Every operation is one IEEE rounding, in an order that
// does not depend on the target.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/math_constants.h"
#include "base/vec_half.h"
#include "kv_cache/cpu.h"

namespace warploom::kv_cache {
namespace {

constexpr int kRun = 256;                 // codes that are packed at once
constexpr float kLeastRange = 0x1p-110f;  // the step of any width, and its inverse, are normal

typedef uint8_t Codes __attribute__((vector_size(kLanes)));

struct Grid {
  uint16_t min, range;  // bfloat16
  float lowest, inverse_step;
  bool finite;
};

// To bfloat16, downwards.
uint32_t round_down(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  return x < 0 ? (u + 0xffffu) & 0xffff0000u : u & 0xffff0000u;
}

// To bfloat16, upwards; x is not negative.
uint32_t round_up(float x) { return (std::bit_cast<uint32_t>(x) + 0xffffu) & 0xffff0000u; }

// The smallest grid in bfloat16 that holds every value of a group.
Grid grid_of(float least, float most, int levels) {
  const uint32_t min = round_down(least + 0.0f);  // of two zeros, the positive one
  const float lowest = std::bit_cast<float>(min);
  const float width = most - lowest;
  uint32_t range = round_up(width);
  if (width > 0 && width < kLeastRange) range = std::bit_cast<uint32_t>(kLeastRange);
  const float wide = std::bit_cast<float>(range);
  const bool finite = std::isfinite(lowest) && std::isfinite(wide);
  return {uint16_t(min >> 16), uint16_t(range >> 16), lowest, wide > 0 ? float(levels) / wide : 0,
          finite};
}

template <class T>
Grid grid_of(const T* x, int64_t group, int levels) {
  Floats least = load_floats(x), most = least;
  Words odd{};  // all ones in lanes that met an infinity or a NaN
  for (int64_t c = 0; c < group; c += kLanes) {
    const Floats value = load_floats(x + c);
    least = min(least, value);
    most = max(most, value);
    odd |= Words((bits(value) & 0x7f800000u) == 0x7f800000u);
  }
  float low = least[0], high = most[0];
  uint32_t any = odd[0];
  for (int lane = 1; lane < kLanes; ++lane) {
    low = std::min(low, least[lane]);
    high = std::max(high, most[lane]);
    any |= odd[lane];
  }
  Grid grid = grid_of(low, high, levels);
  grid.finite = grid.finite && !any;
  return grid;
}

// Adding it rounds to the nearest integer, ties to even, and leaves that in the low bits.
constexpr float kRounder = 0x1.8p23f;

template <class T>
void encode(const T* x, int64_t count, const Grid& grid, uint8_t* codes) {
  const Floats lowest = broadcast(grid.lowest), inverse = broadcast(grid.inverse_step);
  for (int64_t c = 0; c < count; c += kLanes) {
    const Floats steps = (load_floats(x + c) - lowest) * inverse;
    const Words code = bits(steps + kRounder) & 0xffu;
    const Codes bytes = __builtin_convertvector(code, Codes);
    std::memcpy(codes + c, &bytes, sizeof bytes);
  }
}

// Codes in bytes, four to a word, to words of `width` bits: of the words that meet, the first takes
// the lowest bits of every byte.
void pack(const uint8_t* codes, int64_t count, int width, uint8_t* out) {
  uint32_t words[kRun / 4], packed[kRun / 4];
  std::memcpy(words, codes, count);
  const int64_t results = count * width / 32;
  if (width == 8) {
    std::memcpy(packed, words, count);
  } else if (width == 4) {
    for (int64_t i = 0; i < results; ++i) packed[i] = words[2 * i] | words[2 * i + 1] << 4;
  } else {
    for (int64_t i = 0; i < results; ++i) {
      packed[i] =
          words[4 * i] | words[4 * i + 1] << 2 | words[4 * i + 2] << 4 | words[4 * i + 3] << 6;
    }
  }
  std::memcpy(out, packed, results * 4);
}

void unpack(const uint8_t* in, int64_t count, int width, uint8_t* codes) {
  uint32_t words[kRun / 4], packed[kRun / 4];
  const int64_t results = count * width / 32;
  std::memcpy(packed, in, results * 4);
  if (width == 8) {
    std::memcpy(words, packed, count);
  } else if (width == 4) {
    for (int64_t i = 0; i < 2 * results; ++i) words[i] = packed[i / 2] >> i % 2 * 4 & 0x0f0f0f0fu;
  } else {
    for (int64_t i = 0; i < 4 * results; ++i) words[i] = packed[i / 4] >> i % 4 * 2 & 0x03030303u;
  }
  std::memcpy(codes, words, count);
}

template <class T>
constexpr float kLargest = std::numeric_limits<float>::max();
template <>
constexpr float kLargest<f16> = 65504;
template <>
constexpr float kLargest<bf16> = 0x1.fep127f;

// Rounds to nearest, ties to even, subnormals too: AVX-512's instruction for bfloat16 loses those.
template <class T>
void store_rounded(T* p, Floats x) {
  store_floats(p, x);
}
template <>
void store_rounded(bf16* p, Floats x) {
  const Words u = bits(x);
  const Halves narrow = __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, Halves);
  std::memcpy(p, &narrow, sizeof narrow);
}

template <class T>
void decode(const uint8_t* codes, int64_t count, float lowest, float step, T* x) {
  const Floats largest = broadcast(kLargest<T>);
  for (int64_t c = 0; c < count; c += kLanes) {
    Codes bytes;
    std::memcpy(&bytes, codes + c, sizeof bytes);
    // By way of signed integers, which every target converts in one instruction.
    const Ints wide = Ints(__builtin_convertvector(bytes, Words));
    const Floats value = __builtin_convertvector(wide, Floats) * step + lowest;
    store_rounded(x + c, max(min(value, largest), -largest));
  }
}

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

float widen(uint16_t x) { return to_float(bf16{x}); }

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
