// Conversions of the 16-bit types against the compiler's own and against double, every value.
#include <cmath>
#include <cstring>

#include "harness.h"

using namespace warploom::simt;  // NOLINT

SIMT_CASE(bf16_and_f16_values_survive_the_way_to_float_and_back) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = to_float(bf16{half});
    const float narrow = to_float(f16{half});
    if (!std::isnan(wide))
      simt_test::expect(to<bf16>(wide).bits == half, "bf16 " + std::to_string(bits));
    if (!std::isnan(narrow))
      simt_test::expect(to<f16>(narrow).bits == half, "f16 " + std::to_string(bits));
    const bool nan16 = (half & 0x7c00) == 0x7c00 && (half & 0x3ff);
    simt_test::expect(std::isnan(narrow) == nan16, "f16 nan " + std::to_string(bits));
  }
}

// Between every two neighbours: just below, at and just above the middle.
template <class T>
static void check_rounding(uint16_t infinity) {
  for (uint16_t bits = 0; bits < infinity - 1; ++bits) {
    const double low = static_cast<double>(to_float(T{bits}));
    const double high = static_cast<double>(to_float(T{static_cast<uint16_t>(bits + 1)}));
    const auto middle = static_cast<float>((low + high) / 2);
    const float below = std::nextafter(middle, 0.0f), above = std::nextafter(middle, INFINITY);
    const auto even = static_cast<uint16_t>(bits + (bits & 1));
    const auto next = static_cast<uint16_t>(bits + 1);
    for (const uint16_t sign : {uint16_t{0}, uint16_t{0x8000}}) {
      const float s = sign ? -1.0f : 1.0f;
      const bool exact = static_cast<double>(middle) == (low + high) / 2;
      if (exact)
        simt_test::expect(to<T>(s * middle).bits == (even | sign),
                          "middle " + std::to_string(bits));
      if (exact)
        simt_test::expect(to<T>(s * below).bits == (bits | sign), "below " + std::to_string(bits));
      if (exact)
        simt_test::expect(to<T>(s * above).bits == (next | sign), "above " + std::to_string(bits));
    }
  }
}
SIMT_CASE(rounding_to_bf16_is_to_nearest_even) { check_rounding<bf16>(0x7f80); }
SIMT_CASE(rounding_to_f16_is_to_nearest_even) { check_rounding<f16>(0x7c00); }

template <int Bits>
static void check_centred() {
  for (uint32_t low = 0; low < 1u << Bits; ++low) {
    const uint32_t high = (low * 5 + 3) & ((1u << Bits) - 1);
    for (const uint32_t rest : {0u, ~0u}) {
      const uint32_t mask = ((1u << Bits) - 1) * 0x00010001u;
      const uint32_t pair = centred<Bits>((low | high << 16) | (rest & ~mask));
      const std::string which = std::to_string(Bits) + " bits: " + std::to_string(low);
      const int centre = 1 << (Bits - 1);
      simt_test::expect(unpack<bf16>(pair, 0) == float(int(low) - centre), which);
      simt_test::expect(unpack<bf16>(pair, 1) == float(int(high) - centre), which);
    }
  }
}
SIMT_CASE(codes_of_every_width_are_centred_exactly) {
  check_centred<8>();
  check_centred<4>();
  check_centred<2>();
}

SIMT_CASE(a_product_is_not_fused_with_a_sum) {
  const float x = 1 + 0x1p-12f;  // its square is 1 + 2^-11 + 2^-24, which rounds to 1 + 2^-11
  simt_test::expect(product(x, x) - (1 + 0x1p-11f) == 0.0f, "rounded by itself");
  simt_test::expect(std::fma(x, x, -(1 + 0x1p-11f)) != 0.0f, "fused it would show");
}

SIMT_CASE(conversion_of_the_extremes) {
  simt_test::expect(to<f16>(65519.0f).bits == 0x7bff, "just below f16's overflow");
  simt_test::expect(to<f16>(65520.0f).bits == 0x7c00, "f16's overflow");
  simt_test::expect(to<f16>(-1e30f).bits == 0xfc00, "f16's negative overflow");
  simt_test::expect(to<f16>(1e-30f).bits == 0, "f16's underflow");
  simt_test::expect(to<bf16>(3.4e38f).bits == 0x7f80, "bf16's overflow");
  simt_test::expect(to<bf16>(INFINITY).bits == 0x7f80, "bf16 of infinity");
  simt_test::expect(std::isnan(to_float(to<bf16>(NAN))), "bf16 of a NaN");
  simt_test::expect(std::isnan(to_float(to<f16>(NAN))), "f16 of a NaN");
  const uint32_t high_nan = 0x7fffffffu, low_nan = 0x7f800001u;
  for (const uint32_t bits : {high_nan, low_nan}) {
    float x;
    std::memcpy(&x, &bits, 4);
    simt_test::expect(std::isnan(to_float(to<bf16>(x))), "bf16 keeps each NaN");
    simt_test::expect(std::isnan(to_float(to<f16>(x))), "f16 keeps each NaN");
  }
}

SIMT_CASE(pack_puts_the_first_element_low) {
  const uint32_t u = pack<bf16>(1.0f, -2.0f);
  simt_test::expect(u == (0x3f80u | 0xc000u << 16), "pack");
  simt_test::expect(unpack<bf16>(u, 0) == 1.0f && unpack<bf16>(u, 1) == -2.0f, "unpack");
}
