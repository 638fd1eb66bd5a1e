// Grids, codes from values and values from codes, a few at a time. Every operation is one IEEE
// rounding, in an order that does not depend on the target: what includes this is compiled without
// contraction.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/vec_half.h"
#include "kv_cache/format.h"

namespace warploom::kv_cache {

inline constexpr int kRun = 256;  // codes that are packed at once

typedef uint8_t Codes __attribute__((vector_size(kLanes)));

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

template <class T>
void encode_lanes(const T* x, Floats lowest, Floats inverse, uint8_t* codes) {
  const Floats steps = (load_floats(x) - lowest) * inverse;
  const Words code = bits(steps + kRounder) & 0xffu;
  const Codes bytes = __builtin_convertvector(code, Codes);
  std::memcpy(codes, &bytes, sizeof bytes);
}

template <class T>
void encode(const T* x, int64_t count, const Grid& grid, uint8_t* codes) {
  const Floats lowest = broadcast(grid.lowest), inverse = broadcast(grid.inverse_step);
  for (int64_t c = 0; c < count; c += kLanes) encode_lanes(x + c, lowest, inverse, codes + c);
}

// Codes in bytes, four to a word, to words of `width` bits: of the words that meet, the first takes
// the lowest bits of every byte.
inline void pack(const uint8_t* codes, int64_t count, int width, uint8_t* out) {
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

inline void unpack(const uint8_t* in, int64_t count, int width, uint8_t* codes) {
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
inline void store_rounded(bf16* p, Floats x) {
  const Words u = bits(x);
  const Halves narrow = __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, Halves);
  std::memcpy(p, &narrow, sizeof narrow);
}

template <class T>
void decode_lanes(const uint8_t* codes, Floats lowest, Floats step, T* x) {
  const Floats largest = broadcast(kLargest<T>);
  Codes bytes;
  std::memcpy(&bytes, codes, sizeof bytes);
  // By way of signed integers, which every target converts in one instruction.
  const Ints wide = Ints(__builtin_convertvector(bytes, Words));
  const Floats value = __builtin_convertvector(wide, Floats) * step + lowest;
  store_rounded(x, max(min(value, largest), -largest));
}

template <class T>
void decode(const uint8_t* codes, int64_t count, float lowest, float step, T* x) {
  for (int64_t c = 0; c < count; c += kLanes) {
    decode_lanes(codes + c, broadcast(lowest), broadcast(step), x + c);
  }
}

inline float widen(uint16_t x) { return to_float(bf16{x}); }

}  // namespace warploom::kv_cache
