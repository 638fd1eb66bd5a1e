// bf16 and f16 as plain 16-bit values, their conversions, small vectors that live in registers,
// and the fast mathematics whose spelling differs between targets.
#pragma once

#include "simt/target.h"

#if defined(WARPLOOM_SIMT_EMULATED)
#include <cmath>
#include <cstring>
#endif
#if defined(WARPLOOM_SIMT_HIP)
extern "C" __device__ float __ocml_native_exp2_f32(float);
extern "C" __device__ float __ocml_native_log2_f32(float);
#endif

namespace warploom::simt {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// N values of T in registers, aligned so that one instruction moves them (at most 16 bytes).
template <class T, int N>
struct alignas(sizeof(T) * N) vec {
  static_assert(sizeof(T) * N <= 16, "a vector access moves at most 16 bytes");
  T v[N];
  SIMT_HOST_DEVICE constexpr T& operator[](int i) { return v[i]; }
  SIMT_HOST_DEVICE constexpr const T& operator[](int i) const { return v[i]; }
};

namespace number {

template <class To, class From>
SIMT_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}

// Round to nearest even; a NaN stays a (quiet) NaN.
SIMT_HOST_DEVICE uint16_t bf16_bits(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

SIMT_HOST_DEVICE float bf16_value(uint16_t bits) {
  return bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// The integer forms of the half conversions: used wherever no instruction is at hand.
SIMT_HOST_DEVICE uint16_t f16_bits_portable(float x) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (a < 0x33000001u) return static_cast<uint16_t>(sign);             // at most half the least
  const int exponent = static_cast<int>(a >> 23) - 127;
  const uint32_t mantissa = (a & 0x7fffffu) | 0x800000u;
  const int shift = exponent < -14 ? -1 - exponent : 13;  // bits to drop
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rounded = kept + ((rest > half || (rest == half && (kept & 1u))) ? 1u : 0u);
  // The hidden bit carries into the exponent, so normal numbers start one exponent lower.
  const uint32_t base = exponent < -14 ? 0u : static_cast<uint32_t>(exponent + 14) << 10;
  return static_cast<uint16_t>(sign | (base + rounded));
}

SIMT_HOST_DEVICE float f16_value_portable(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) return bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero and subnormals: exact in float
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  return bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

}  // namespace number

SIMT_HOST_DEVICE float to_float(float x) { return x; }
SIMT_HOST_DEVICE float to_float(bf16 x) { return number::bf16_value(x.bits); }
SIMT_HOST_DEVICE float to_float(f16 x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#elif defined(__HIP_DEVICE_COMPILE__)
  return static_cast<float>(number::bit_cast<_Float16>(x.bits));
#else
  return number::f16_value_portable(x.bits);
#endif
}

// to<T>(x): round a float to T, to nearest even.
template <class T>
SIMT_HOST_DEVICE T to(float x);
template <>
SIMT_HOST_DEVICE float to<float>(float x) {
  return x;
}
template <>
SIMT_HOST_DEVICE bf16 to<bf16>(float x) {
#if defined(__CUDA_ARCH__)
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  return {number::bf16_bits(x)};
#endif
}
template <>
SIMT_HOST_DEVICE f16 to<f16>(float x) {
#if defined(__CUDA_ARCH__)
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#elif defined(__HIP_DEVICE_COMPILE__)
  return {number::bit_cast<uint16_t>(static_cast<_Float16>(x))};
#else
  return {number::f16_bits_portable(x)};
#endif
}

// Two floats rounded into one register, `low` in the low half: the order of memory.
template <class T>
SIMT_HOST_DEVICE uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t y;
  if constexpr (__is_same(T, bf16)) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  }
  return y;
#else
  return static_cast<uint32_t>(to<T>(low).bits) | static_cast<uint32_t>(to<T>(high).bits) << 16;
#endif
}

// The reverse of pack: element 0 is the low half.
template <class T>
SIMT_HOST_DEVICE float unpack(uint32_t pair, int element) {
  return to_float(T{static_cast<uint16_t>(element ? pair >> 16 : pair)});
}

// The low Bits (8, 4, 2) bits of each half of u, less 2^(Bits - 1), as two bf16: exact, for bf16
// has eight bits of precision. The rest of u is ignored.
template <int Bits>
SIMT_DEVICE uint32_t centred(uint32_t u) {
  static_assert(Bits == 8 || Bits == 4 || Bits == 2);
#if defined(__CUDA_ARCH__)
  // In the mantissa of 128, seven bits count ones; the eighth decides whether 256 or 128 goes off.
  constexpr uint32_t low = ((1u << Bits) - 1) & 0x7f;
  const uint32_t raised = (u & low * 0x00010001u) | 0x43004300u;
  const uint32_t off = Bits == 8 ? 0xc380c380u ^ (u & 0x00800080u)
                                 : 0xc3000000u + 0xc300u + (1u << (Bits - 1)) * 0x00010001u;
  uint32_t y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(raised), "r"(0x3f803f80u), "r"(off));
  return y;
#else
  constexpr uint32_t all = (1u << Bits) - 1;
  constexpr float centre = 1 << (Bits - 1);
  const auto low = number::bit_cast<uint32_t>(static_cast<float>(u & all) - centre);
  const auto high = number::bit_cast<uint32_t>(static_cast<float>(u >> 16 & all) - centre);
  return (high & 0xffff0000u) | low >> 16;
#endif
}

// x * y, rounded by itself: no compiler fuses it with a sum.
SIMT_DEVICE float product(float x, float y) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(x, y);
#elif defined(__HIP_DEVICE_COMPILE__)
  float z = x * y;
  asm volatile("" : "+v"(z));
  return z;
#else
  volatile float z = x * y;
  return z;
#endif
}

#if defined(WARPLOOM_SIMT_CUDA)
SIMT_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SIMT_DEVICE float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#elif defined(WARPLOOM_SIMT_HIP)
SIMT_DEVICE float exp2(float x) { return __ocml_native_exp2_f32(x); }
SIMT_DEVICE float log2(float x) { return __ocml_native_log2_f32(x); }
#else
SIMT_DEVICE float exp2(float x) { return std::exp2(x); }
SIMT_DEVICE float log2(float x) { return std::log2(x); }
#endif

#if defined(WARPLOOM_SIMT_EMULATED)
SIMT_DEVICE float tanh(float x) { return std::tanh(x); }
SIMT_DEVICE float rsqrt(float x) { return 1.0f / std::sqrt(x); }
SIMT_DEVICE float sqrt(float x) { return std::sqrt(x); }
SIMT_DEVICE float fma(float a, float b, float c) { return std::fma(a, b, c); }
SIMT_DEVICE float max(float a, float b) { return std::fmax(a, b); }
SIMT_DEVICE float min(float a, float b) { return std::fmin(a, b); }
#else
SIMT_DEVICE float tanh(float x) { return ::tanhf(x); }
SIMT_DEVICE float rsqrt(float x) { return ::rsqrtf(x); }
SIMT_DEVICE float sqrt(float x) { return ::sqrtf(x); }
SIMT_DEVICE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
SIMT_DEVICE float max(float a, float b) { return ::fmaxf(a, b); }  // a NaN loses to a number
SIMT_DEVICE float min(float a, float b) { return ::fminf(a, b); }
#endif
SIMT_HOST_DEVICE constexpr int max(int a, int b) { return a > b ? a : b; }
SIMT_HOST_DEVICE constexpr int min(int a, int b) { return a < b ? a : b; }
SIMT_HOST_DEVICE constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
SIMT_HOST_DEVICE constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
SIMT_HOST_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
SIMT_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace warploom::simt
