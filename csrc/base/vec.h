// The thin vector type of the CPU loops: GCC vector extensions, and a few instructions by name.
//
// Compiled once per CPU target, each time into that target's own shared object: the core must not
// include it. Lanes are 32 bits wide: 16 with AVX-512, 8 with AVX2, 4 elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace warploom {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

// Whether one instruction multiplies pairs of bfloat16 and adds both products in float32.
#if defined(__AVX512BF16__)
inline constexpr bool kPairDot = true;
#else
inline constexpr bool kPairDot = false;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));

// Two bfloat16 in one lane; the one that comes first in memory is in the low half.
enum class Pair : uint32_t {};

// No alignment is assumed.
inline Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Words load(const Pair* p) {
  Words x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Words load(const uint32_t* p) {
  Words x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
inline void store(Pair* p, Words x) { std::memcpy(p, &x, sizeof x); }
inline void store(uint32_t* p, Words x) { std::memcpy(p, &x, sizeof x); }

inline Floats broadcast(float x) { return x - Floats{}; }
inline Words broadcast(uint32_t x) { return x + Words{}; }

// One word from anywhere into every lane.
inline Floats load_broadcast(const float* p) { return broadcast(*p); }
inline Words load_broadcast(const Pair* p) {
  uint32_t x;
  std::memcpy(&x, p, sizeof x);
  return broadcast(x);
}

inline Words bits(Floats x) { return Words(x); }
inline Floats from_bits(Words x) { return Floats(x); }

// The larger one; b where either is NaN. (maskz here and elsewhere: the plain forms make GCC 12
// warn of its own header's undefined register.)
inline Floats max(Floats a, Floats b) {
#if defined(__AVX512F__)
  return Floats(_mm512_maskz_max_ps(0xffff, __m512(a), __m512(b)));
#elif defined(__AVX2__)
  return Floats(_mm256_max_ps(__m256(a), __m256(b)));
#elif defined(__x86_64__)
  return Floats(_mm_max_ps(__m128(a), __m128(b)));
#else
  return a > b ? a : b;
#endif
}

// The smaller one; b where either is NaN.
inline Floats min(Floats a, Floats b) {
#if defined(__AVX512F__)
  return Floats(_mm512_maskz_min_ps(0xffff, __m512(a), __m512(b)));
#elif defined(__AVX2__)
  return Floats(_mm256_min_ps(__m256(a), __m256(b)));
#elif defined(__x86_64__)
  return Floats(_mm_min_ps(__m128(a), __m128(b)));
#else
  return a < b ? a : b;
#endif
}

// sum + a * b, in one rounding where the target has it. Pairs: sum + both products; the
// instruction takes subnormal inputs and results for zero.
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return a * b + sum; }
#if defined(__AVX512BF16__)
inline Floats multiply_add(Words a, Words b, Floats sum) {
  return Floats(_mm512_dpbf16_ps(__m512(sum), __m512bh(a), __m512bh(b)));
}
#endif

}  // namespace warploom
