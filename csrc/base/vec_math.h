// exp2 and tanh of vectors. Errors are the largest found by comparing every 61st float with
// double: tests/attention/cpu/math_test.cc repeats it.
#pragma once

#include "base/vec.h"

namespace warploom {

inline Floats abs(Floats x) { return from_bits(bits(x) & 0x7fffffffu); }

enum class Exp2 { kFull, kPair };

// 2^x for x up to 127; exactly 1 at 0, exactly 0 below -126.5 and at -infinity; NaN stays NaN.
// Relative error 1.2e-7 (kFull), or 3e-6 (kPair: for what is rounded to bfloat16 next), wherever
// the result is a normal float.
template <Exp2 accuracy = Exp2::kFull>
inline Floats exp2(Floats x) {
  // Adding 1.5 * 2^23 rounds to an integer in the low bits; 127 more makes it the biased exponent,
  // which for -127 is that of zero.
  constexpr float kRound = 12582912.0f + 127.0f;
  x = max(broadcast(-127.0f), x);
  const Floats rounded = x + broadcast(kRound);
  const Floats r = x - (rounded - broadcast(kRound));
  const Floats power = from_bits(bits(rounded) << 23);
  // Least largest relative error on [-1/2, 1/2] among polynomials that are 1 at 0.
  Floats y;
  if constexpr (accuracy == Exp2::kFull) {
    y = broadcast(0x1.41fbbcp-13f);
    y = multiply_add(y, r, broadcast(0x1.5f3e54p-10f));
    y = multiply_add(y, r, broadcast(0x1.3b2d4cp-7f));
    y = multiply_add(y, r, broadcast(0x1.c6aee8p-5f));
    y = multiply_add(y, r, broadcast(0x1.ebfbdcp-3f));
    y = multiply_add(y, r, broadcast(0x1.62e430p-1f));
  } else {
    y = broadcast(0x1.3a02ccp-7f);
    y = multiply_add(y, r, broadcast(0x1.c9fc46p-5f));
    y = multiply_add(y, r, broadcast(0x1.ec0378p-3f));
    y = multiply_add(y, r, broadcast(0x1.62e12cp-1f));
  }
  return multiply_add(y, r, broadcast(1.0f)) * power;
}

// Relative error 3e-7 everywhere; 1 at infinity; NaN stays NaN.
inline Floats tanh(Floats x) {
  const Floats size = abs(x);
  // (1 - e) / (1 + e) with e = exp(-2 |x|), which cancels for small arguments:
  const Floats e = exp2(size * broadcast(-2.885390081777927f));
  const Floats large = (broadcast(1.0f) - e) / (broadcast(1.0f) + e);
  // there, the odd polynomial of least largest relative error on [0, 5/8].
  const Floats z = x * x;
  Floats y = broadcast(-0x1.75e1c6p-8f);
  y = multiply_add(y, z, broadcast(0x1.52269ap-6f));
  y = multiply_add(y, z, broadcast(-0x1.b83c5ap-5f));
  y = multiply_add(y, z, broadcast(0x1.110726p-3f));
  y = multiply_add(y, z, broadcast(-0x1.555532p-2f));
  const Floats small = multiply_add(y * z, size, size);
  const Floats result = size < broadcast(0.625f) ? small : large;
  return from_bits(bits(result) | (bits(x) & 0x80000000u));
}

}  // namespace warploom
