// Arithmetic on sizes that a caller may have made up: results stop at the largest int64 instead of
// overflowing, so that one comparison with a limit catches all. No operand may be negative.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace warploom {

constexpr int64_t saturating_add(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

constexpr int64_t saturating_multiply(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

constexpr int64_t saturating_product(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) product = saturating_multiply(product, factor);
  return product;
}

}  // namespace warploom
