// A miniature flash attention, right and clean, and with each of twelve planted bugs.
#include "harness.h"

#include <cmath>
#include <random>

#include "kernels/attention.cuh"

namespace {

using namespace warploom::simt;  // NOLINT
using emulator::fault;
using warploom::simt::test::attention_bug;

constexpr int heads = 1, s = 100;  // two tiles, the second one ragged

template <class M, class T, attention_bug Bug>
outcome start(float* worst = nullptr) {
  using kernel = warploom::simt::test::attention<M, T, Bug>;
  constexpr int d = kernel::d;
  const int64_t count = int64_t{heads} * s * d;
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  std::vector<T> q(static_cast<size_t>(count)), k(q), v(q);
  for (auto* m : {&q, &k, &v}) {
    for (T& x : *m) x = to<T>(normal(rng));
  }
  std::vector<float> o(q.size());
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const auto outcome =
      launch<kernel>({(s + 63) / 64, heads}, kernel::smem_bytes, nullptr,
                     {make_global<const T>(q.data(), count, memory::written),
                      make_global<const T>(k.data(), count, memory::written),
                      make_global<const T>(v.data(), count, memory::written),
                      make_global(o.data(), count, memory::unwritten), s, scale * 1.44269504f});
  if (!worst) return outcome;
  *worst = 0.0f;
  for (int i = 0; i < s; ++i) {
    std::vector<double> p(s), out(d);
    double sum = 0;
    for (int j = 0; j < s; ++j) {
      double x = 0;
      for (int c = 0; c < d; ++c) {
        x += static_cast<double>(to_float(q[static_cast<size_t>(i * d + c)])) *
             static_cast<double>(to_float(k[static_cast<size_t>(j * d + c)]));
      }
      sum += p[static_cast<size_t>(j)] = std::exp(x * static_cast<double>(scale));
    }
    for (int j = 0; j < s; ++j) {
      for (int c = 0; c < d; ++c) {
        out[static_cast<size_t>(c)] +=
            p[static_cast<size_t>(j)] / sum *
            static_cast<double>(to_float(v[static_cast<size_t>(j * d + c)]));
      }
    }
    for (int c = 0; c < d; ++c) {
      const auto off = static_cast<float>(std::abs(
          out[static_cast<size_t>(c)] - static_cast<double>(o[static_cast<size_t>(i * d + c)])));
      if (!(off <= *worst)) *worst = off;
    }
  }
  return outcome;
}

// P is rounded to T before the second product: half a unit in the last place of each p_ij, whose
// sum is one, times values of a few units.
template <class T>
void check_values(float bound) {
  simt_test::expect_clean([=]<class M>() {
    float worst = 0.0f;
    const auto o = start<M, T, attention_bug::none>(&worst);
    simt_test::expect(worst <= bound, "off by " + std::to_string(worst));
    return o;
  });
}

}  // namespace

SIMT_CASE(attention_bf16_is_clean_and_right) { check_values<bf16>(4e-3f); }
SIMT_CASE(attention_f16_is_clean_and_right) { check_values<f16>(5e-4f); }

#define ATTENTION_FAULT(bug, kind)                                                                 \
  SIMT_CASE(attention_##bug##_is_found) {                                                          \
    simt_test::expect_fault(kind, []<class M>() { return start<M, bf16, attention_bug::bug>(); }); \
  }

ATTENTION_FAULT(no_barrier_after_landing, fault::race)
ATTENTION_FAULT(warp_barrier_after_landing, fault::race)
ATTENTION_FAULT(no_landing, fault::not_landed)
ATTENTION_FAULT(refill_while_read, fault::not_landed)
ATTENTION_FAULT(keys_past_the_end, fault::out_of_bounds)
ATTENTION_FAULT(tile_too_small, fault::out_of_bounds)
ATTENTION_FAULT(lane_skips_shuffle, fault::deadlock)
ATTENTION_FAULT(barrier_in_first_warp, fault::divergence)
ATTENTION_FAULT(no_commit, fault::ticket)
ATTENTION_FAULT(divergent_product, fault::divergence)
ATTENTION_FAULT(query_rows_unwritten, fault::unwritten)
ATTENTION_FAULT(output_past_the_end, fault::out_of_bounds)
