// Vectors of 16-bit floats: exact widening, and narrowing to nearest, ties to even.
#pragma once

#include "base/half.h"
#include "base/vec.h"

namespace warploom {

typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

inline Halves load_halves(const void* p) {
  Halves x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline Floats load_floats(const float* p) { return load(p); }
inline Floats load_floats(const bf16* p) {
  return from_bits(__builtin_convertvector(load_halves(p), Words) << 16);
}
inline Floats load_floats(const f16* p) {
  const Halves x = load_halves(p);
#if defined(__AVX512F__)
  return Floats(_mm512_maskz_cvtph_ps(0xffff, __m256i(x)));
#elif defined(__F16C__)
  return Floats(_mm256_cvtph_ps(__m128i(x)));
#elif defined(__aarch64__)
  return Floats(vcvt_f32_f16(float16x4_t(x)));
#else  // as to_float(f16)
  const Words wide = __builtin_convertvector(x, Words);
  const Words sign = (wide & 0x8000u) << 16, magnitude = wide & 0x7fffu;
  const Words finite = bits(from_bits(magnitude << 13) * 0x1p112f);
  const Words other = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  return from_bits(sign | (magnitude >= 0x7c00u ? other : finite));
#endif
}

inline void store_floats(float* p, Floats x) { store(p, x); }
inline void store_floats(bf16* p, Floats x) {
#if defined(__AVX512BF16__)
  const __m256bh narrow = _mm512_cvtneps_pbh(__m512(x));
  std::memcpy(p, &narrow, sizeof narrow);
#else  // as from_float<bf16>
  const Words u = bits(x);
  const Words nan = (u >> 16) | 0x40u, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Words word = (u & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
  const Halves narrow = __builtin_convertvector(word, Halves);
  std::memcpy(p, &narrow, sizeof narrow);
#endif
}
inline void store_floats(f16* p, Floats x) {
#if defined(__AVX512F__)
  const __m256i narrow = _mm512_maskz_cvtps_ph(0xffff, __m512(x), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &narrow, sizeof narrow);
#elif defined(__F16C__)
  const __m128i narrow = _mm256_cvtps_ph(__m256(x), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &narrow, sizeof narrow);
#elif defined(__aarch64__)
  const float16x4_t narrow = vcvt_f16_f32(float32x4_t(x));
  std::memcpy(p, &narrow, sizeof narrow);
#else
  for (int lane = 0; lane < kLanes; ++lane) p[lane] = from_float<f16>(x[lane]);
#endif
}

// Pairs of (even, odd) in each lane. The AVX-512 instruction takes subnormal inputs for zero.
inline Words pair_up(Floats even, Floats odd) {
#if defined(__AVX512BF16__)
  static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                               21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                               11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh narrow = _mm512_cvtne2ps_pbh(__m512(odd), __m512(even));
  return Words(_mm512_permutexvar_epi16(_mm512_loadu_si512(kInterleave), __m512i(narrow)));
#else
  bf16 low[kLanes], high[kLanes];
  store_floats(low, even);
  store_floats(high, odd);
  return __builtin_convertvector(load_halves(low), Words) |
         (__builtin_convertvector(load_halves(high), Words) << 16);
#endif
}

}  // namespace warploom
