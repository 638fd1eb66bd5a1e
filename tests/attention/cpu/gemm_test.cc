// The CPU loops' matrix product and packing against sums in double, for this target.
#include <cmath>
#include <limits>
#include <vector>

#include "attention/cpu_pack.h"
#include "cpu_test.h"

namespace warploom::attention {
namespace {

// Small multiples of 1/8: exact in every storage type, and so are all the sums below.
float value(int64_t i) { return float((i * 7919) % 31 - 15) * 0.125f; }

// Rows of `stride` elements with NaN wherever nothing may be read.
template <class T>
std::vector<T> matrix(int64_t rows, int64_t d, int64_t stride, int64_t seed) {
  std::vector<T> x(rows * stride + 1, from_float<T>(std::numeric_limits<float>::quiet_NaN()));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < d; ++c) x[1 + r * stride + c] = from_float<T>(value(seed + r * d + c));
  return x;  // starts one element in: unaligned on purpose
}

// S^T = K Q^T from packed queries and raw or packed keys, then O^T = V^T S^T (S as float or pairs).
template <class T, int vectors>
void products(int64_t keys, int count, int64_t d, int64_t stride) {
  using Word = WordOf<T>;
  const int64_t depth = words<Word>(d);
  const std::vector<T> q = matrix<T>(count, d, stride, 1), k = matrix<T>(keys, d, stride, 2);
  std::vector<const T*> q_rows(count);
  for (int r = 0; r < count; ++r) q_rows[r] = q.data() + 1 + r * stride;
  std::vector<Word> q_packed(depth * kStrip), k_packed(depth * keys);
  pack_lanes(q_rows.data(), count, d, q_packed.data());
  pack_rows(k.data() + 1, stride, keys, d, k_packed.data());

  const auto q_at = [&](int64_t r, int64_t c) { return double(to_float(q_rows[r][c])); };
  const auto k_at = [&](int64_t j, int64_t c) { return double(to_float(k[1 + j * stride + c])); };
  for (const bool raw : {false, true}) {
    if (raw && !can_read_raw<T>(d, stride)) continue;
    std::vector<float> s(keys * kStrip, -1.0f);
    gemm_strip<vectors>(keys, depth, raw ? raw_words(k.data() + 1) : k_packed.data(),
                        raw ? stride / kPerWord<Word> : depth, 1, q_packed.data(), kStrip, s.data(),
                        kStrip, nullptr);
    for (int64_t j = 0; j < keys; ++j) {
      for (int n = 0; n < std::min(count, vectors * kLanes); ++n) {
        double expected = 0;
        for (int64_t c = 0; c < d; ++c) expected += k_at(j, c) * q_at(n, c);
        EXPECT(s[j * kStrip + n] == float(expected), "keys %d d %d raw %d", int(keys), int(d), raw);
      }
      for (int n = count; n < vectors * kLanes; ++n) EXPECT(s[j * kStrip + n] == 0, "lane %d", n);
    }
  }

  // O^T: columns of k as "values", weights of one row in every lane of another value.
  std::vector<float> weights(words<Word>(keys) * kPerWord<Word> * kStrip, 0.0f);
  for (int64_t j = 0; j < keys; ++j)
    for (int n = 0; n < kStrip; ++n) weights[j * kStrip + n] = value(j * kStrip + n + 5);
  std::vector<Word> p(words<Word>(keys) * kStrip), v(words<Word>(keys) * (d + 3));
  for (int64_t j = 0; j < words<Word>(keys); ++j) {
    for (int n = 0; n < kStrip; n += kLanes) {
      const float* at = weights.data() + j * kPerWord<Word> * kStrip + n;
      if constexpr (std::is_same_v<Word, Pair>) {
        store(p.data() + j * kStrip + n, pair_up(load(at), load(at + kStrip)));
      } else {
        store(p.data() + j * kStrip + n, load(at));
      }
    }
  }
  pack_depth(k.data() + 1, stride, keys, d, d + 3, v.data());
  std::vector<float> o((d + 3) * kStrip, 2.0f), beta(kStrip);
  for (int n = 0; n < kStrip; ++n) beta[n] = 0.5f * n;
  gemm_strip<vectors>(d + 3, words<Word>(keys), v.data(), 1, d + 3, p.data(), kStrip, o.data(),
                      kStrip, beta.data());
  for (int64_t c = 0; c < d + 3; ++c) {
    for (int n = 0; n < vectors * kLanes; ++n) {
      double expected = n;  // beta * 2
      for (int64_t j = 0; c < d && j < keys; ++j) expected += k_at(j, c) * weights[j * kStrip + n];
      EXPECT(o[c * kStrip + n] == float(expected), "column %d lane %d of d %d keys %d", int(c), n,
             int(d), int(keys));
    }
  }

  std::vector<T> back(count * stride, from_float<T>(7.0f));
  std::vector<T*> back_rows(count);
  for (int r = 0; r < count; ++r) back_rows[r] = back.data() + r * stride;
  std::vector<float> lanes(d * kStrip);
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = value(int64_t(i));
  unpack_lanes<T>(lanes.data(), d, count, back_rows.data());
  for (int r = 0; r < count; ++r) {
    for (int64_t c = 0; c < stride; ++c) {
      const float expected = c < d ? lanes[c * kStrip + r] : 7.0f;
      EXPECT(to_float(back_rows[r][c]) == expected, "row %d column %d", r, int(c));
    }
  }
}

// Widening and narrowing of all 16-bit values, and of floats between them.
template <class T>
void conversions() {
  for (uint32_t first = 0; first < 0x10000; first += kLanes) {
    T narrow[kLanes], again[kLanes];
    for (int i = 0; i < kLanes; ++i) narrow[i].bits = uint16_t(first + i);
    const Floats wide = load_floats(narrow);
    store_floats(again, wide);
    for (int i = 0; i < kLanes; ++i) {
      const float expected = to_float(narrow[i]);
      if (std::isnan(expected)) {
        EXPECT(std::isnan(wide[i]) && std::isnan(to_float(again[i])), "NaN %x", narrow[i].bits);
        continue;
      }
      EXPECT(wide[i] == expected, "%x", narrow[i].bits);
      const bool subnormal = expected != 0 && std::abs(expected) < 0x1p-126f;
      EXPECT(again[i].bits == narrow[i].bits || (kPairDot && subnormal), "%x", narrow[i].bits);
      for (const float nudge : {0.999999f, 1.000001f, 1.0009765625f, 1.00390625f}) {
        const float x = expected * nudge;
        T one[kLanes];
        store_floats(one, broadcast(x));
        const bool tiny = std::abs(x) < 0x1p-125f;
        EXPECT(one[0].bits == from_float<T>(x).bits || (kPairDot && tiny), "%a", x);
      }
    }
  }
}

}  // namespace
}  // namespace warploom::attention

int main() {
  using namespace warploom;
  using namespace warploom::attention;
  WL_SKIP_WITHOUT_TARGET();
  for (const int64_t d : {1, 2, 7, 8, 33, 40, 72, 128}) {
    for (const int64_t keys : {1, 2, 3, 5, 6, 8, 15, 31}) {
      for (const int count : {1, kLanes, kStrip - 1, kStrip}) {
        for (const int64_t stride : {d, d + 5, d + 6}) {
          products<float, 2>(keys, count, d, stride);
          products<float, 1>(keys, count, d, stride);
          products<f16, 2>(keys, count, d, stride);
          products<bf16, 2>(keys, count, d, stride);
          products<bf16, 1>(keys, count, d, stride);
        }
      }
    }
  }
  conversions<bf16>();
  conversions<f16>();
  return report();
}
