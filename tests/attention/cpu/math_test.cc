// Errors and special values of the vector functions, for this target.
#include "base/vec_math.h"

#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "cpu_test.h"

namespace warploom {
namespace {

// Largest relative error over every `step`th float from `first` to `last` (of one sign).
template <class Function, class Exact>
double worst(float first, float last, uint32_t step, Function function, Exact exact) {
  double largest = 0;
  const uint32_t end = std::bit_cast<uint32_t>(last);
  for (uint32_t u = std::bit_cast<uint32_t>(first); u < end; u += step * kLanes) {
    float x[kLanes], y[kLanes];
    for (int i = 0; i < kLanes; ++i) x[i] = std::bit_cast<float>(u + i * step);
    store(y, function(load(x)));
    for (int i = 0; i < kLanes; ++i) {
      const double expected = exact(double(x[i]));
      largest = std::fmax(largest, std::abs(y[i] - expected) / std::abs(expected));
    }
  }
  return largest;
}

float exp2_of(float x) { return exp2<Exp2::kFull>(broadcast(x))[0]; }
float tanh_of(float x) { return tanh(broadcast(x))[0]; }

}  // namespace
}  // namespace warploom

int main() {
  using namespace warploom;
  WL_SKIP_WITHOUT_TARGET();
  const auto full = [](Floats x) { return exp2<Exp2::kFull>(x); };
  const auto pair = [](Floats x) { return exp2<Exp2::kPair>(x); };
  const auto exact_exp2 = [](double x) { return std::exp2(x); };
  const float infinity = std::numeric_limits<float>::infinity();
  const uint32_t step = 61;
  for (const double sign : {1.0, -1.0}) {
    const float tiny = float(sign * 1e-9), far = float(sign * 125.9);
    const double full_error = worst(tiny, far, step, full, exact_exp2);
    const double pair_error = worst(tiny, far, step, pair, exact_exp2);
    std::printf("exp2 %.2g %.2g\n", full_error, pair_error);
    EXPECT(full_error < 1.2e-7, "%g", full_error);
    EXPECT(pair_error < 3e-6, "%g", pair_error);
    const double tanh_error = worst(
        float(sign * 1e-30), float(sign * 20), step, [](Floats x) { return tanh(x); },
        [](double x) { return std::tanh(x); });
    std::printf("tanh %.2g\n", tanh_error);
    EXPECT(tanh_error < 3e-7, "%g", tanh_error);
    EXPECT(tanh_of(float(sign) * infinity) == float(sign), "infinity");
    EXPECT(std::signbit(tanh_of(float(sign * 0.0))) == (sign < 0), "zero");
  }
  EXPECT(exp2_of(0) == 1, "one");
  EXPECT(exp2_of(-126.6f) == 0 && exp2_of(-1e30f) == 0 && exp2_of(-infinity) == 0, "zero");
  EXPECT(exp2_of(10) == 1024, "%g", exp2_of(10));
  // NaN with any payload and sign: an exponent added to its bits would turn some into numbers.
  for (const uint32_t nan : {0x7fc00000u, 0x7fc00001u, 0xffc00001u, 0x7fffffffu, 0xffffffffu}) {
    const float x = std::bit_cast<float>(nan);
    EXPECT(std::isnan(exp2_of(x)) && std::isnan(tanh_of(x)), "%x", nan);
  }
  return report();
}
