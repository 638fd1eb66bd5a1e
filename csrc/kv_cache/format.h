// The format's formulas (docs/kv_cache_format.md), for hosts and kernels alike. None of them has a
// sum of a product: compilers might fuse it, and codes are the same to the bit everywhere.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace warploom::kv_cache {

WL_HOST_DEVICE constexpr int levels_of(int bits) { return (1 << bits) - 1; }

constexpr float kLeastRange = 0x1p-110f;  // the step of any width, and its inverse, are normal

// Adding it rounds to the nearest integer, ties to even, and leaves that in the low bits.
constexpr float kRounder = 0x1.8p23f;

struct Grid {
  uint16_t min, range;  // bfloat16
  float lowest, inverse_step;
  bool finite;
};

WL_HOST_DEVICE inline bool is_finite(float x) {
  return (__builtin_bit_cast(uint32_t, x) & 0x7f800000u) != 0x7f800000u;
}

// To bfloat16, downwards.
WL_HOST_DEVICE inline uint32_t round_down(float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  return x < 0 ? (u + 0xffffu) & 0xffff0000u : u & 0xffff0000u;
}

// To bfloat16, upwards; x is not negative.
WL_HOST_DEVICE inline uint32_t round_up(float x) {
  return (__builtin_bit_cast(uint32_t, x) + 0xffffu) & 0xffff0000u;
}

// The smallest grid in bfloat16 that holds every value of a group.
WL_HOST_DEVICE inline Grid grid_of(float least, float most, int levels) {
  const uint32_t min = round_down(least + 0.0f);  // of two zeros, the positive one
  const float lowest = __builtin_bit_cast(float, min);
  const float width = most - lowest;
  uint32_t range = round_up(width);
  if (width > 0 && width < kLeastRange) range = __builtin_bit_cast(uint32_t, kLeastRange);
  const float wide = __builtin_bit_cast(float, range);
  const bool finite = is_finite(lowest) && is_finite(wide);
  return {uint16_t(min >> 16), uint16_t(range >> 16), lowest,
          wide > 0 ? float(levels) / wide : 0.0f, finite};
}

// --- halving ---
//
// q' = round(q / 17) from 8 bits to 4, round(q / 5) from 4 to 2, by adds, shifts and masks on all
// bytes at once. With n = q + 8, n / 17 rounded down is (n - n / 16) / 16 for every n below 272,
// and n / 16 is q / 16 plus the bit that 8 carries into. Likewise n = q + 2 and (n - n / 4) / 4 on
// half bytes. In the order written no byte overflows. W is a word of 64 bits or a vector of them.

WL_HOST_DEVICE constexpr uint64_t all_bytes(uint8_t x) { return x * uint64_t{0x0101010101010101}; }

// In the high half of each byte: round(q / 17). The low half is rubbish.
template <class W>
WL_HOST_DEVICE inline W round_17(W q) {
  const W carried = ((q >> 4) & all_bytes(0x0f)) + ((q >> 3) & all_bytes(0x01));
  return q - carried + all_bytes(8);
}

// In the upper two bits of each half byte: round(q / 5). The lower two are rubbish.
template <class W>
WL_HOST_DEVICE inline W round_5(W q) {
  const W carried = ((q >> 2) & all_bytes(0x33)) + ((q >> 1) & all_bytes(0x11));
  return q - carried + all_bytes(0x22);
}

// a and b become one: a's codes in the low bits of each byte, b's in the high ones.
template <class W>
WL_HOST_DEVICE inline W join_4(W a, W b) {
  return ((round_17(a) >> 4) & all_bytes(0x0f)) | (round_17(b) & all_bytes(0xf0));
}
template <class W>
WL_HOST_DEVICE inline W join_2(W a, W b) {
  const W u = round_5(a), v = round_5(b);
  return ((u >> 2) & all_bytes(0x03)) | ((u >> 4) & all_bytes(0x0c)) |
         ((v << 2) & all_bytes(0x30)) | (v & all_bytes(0xc0));
}

// The bits / to words that become one.
template <int bits, int to, class W>
WL_HOST_DEVICE inline W join(const W (&words)[bits / to]) {
  if constexpr (bits == 8 && to == 2) {
    return join_2(join_4(words[0], words[1]), join_4(words[2], words[3]));
  } else {
    return to == 4 ? join_4(words[0], words[1]) : join_2(words[0], words[1]);
  }
}

}  // namespace warploom::kv_cache
