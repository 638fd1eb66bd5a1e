// Softmax over strips of transposed scores: s[key * kStrip + lane], lanes are queries, so nothing
// is summed across a vector. Exponents are base 2 throughout.
#pragma once

#include "attention/cpu_pack.h"
#include "attention/plan.h"
#include "base/math_constants.h"
#include "base/vec_math.h"

namespace warploom::attention {

// s = factor * s
inline void scale_scores(float* s, int64_t keys, float factor) {
  for (int64_t i = 0; i < keys * kStrip; i += kLanes) store(s + i, load(s + i) * broadcast(factor));
}

// s = outer * tanh(inner * s)
inline void cap_scores(float* s, int64_t keys, float inner, float outer) {
  for (int64_t i = 0; i < keys * kStrip; i += kLanes) {
    store(s + i, broadcast(outer) * tanh(broadcast(inner) * load(s + i)));
  }
}

// s = -infinity for keys outside [begin[lane], end[lane]), whatever they were.
inline void hide_scores(float* s, Range keys, const int32_t* begin, const int32_t* end) {
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    for (int n = 0; n < kStrip; n += kLanes) {
      Ints first, last;
      std::memcpy(&first, begin + n, sizeof first);
      std::memcpy(&last, end + n, sizeof last);
      const Ints key = int32_t(j) - Ints{};
      float* at = s + j * kStrip + n;
      store(at, (key >= first) & (key < last) ? load(at) : broadcast(-kInfinity));
    }
  }
}

// What one strip's lanes have seen so far.
struct RunningSoftmax {
  float maximum[kStrip];  // of log2(e) * score; -infinity: nothing but -infinity or NaN
  float sum[kStrip];      // of 2^(log2(e) * score - maximum)

  void reset() {
    for (int n = 0; n < kStrip; ++n) maximum[n] = -kInfinity, sum[n] = 0;
  }
};

// Takes in more keys, whose scores are s * factor / log2(e), factor > 0. Writes their weights under
// the new maximum to p, as words along the keys, and to `rescale` what earlier weights are to be
// multiplied by. p may be s. An infinite or NaN score acts as in the plain formula.
template <int vectors, class Word>
void update_softmax(float* s, int64_t keys, float factor, RunningSoftmax& running, Word* p,
                    float* rescale) {
  constexpr bool kPairs = std::is_same_v<Word, Pair>;
  constexpr Exp2 kAccuracy = kPairs ? Exp2::kPair : Exp2::kFull;
  Floats largest[vectors], shift[vectors], sum[vectors];
  for (int n = 0; n < vectors; ++n) largest[n] = broadcast(-kInfinity);
  for (int64_t j = 0; j < keys; ++j) {
    for (int n = 0; n < vectors; ++n) {
      largest[n] = max(load(s + j * kStrip + n * kLanes), largest[n]);
    }
  }
  for (int n = 0; n < vectors; ++n) {
    const Floats before = load(running.maximum + n * kLanes);
    const Floats after = max(largest[n] * broadcast(factor), before);
    // Nothing may be subtracted from -infinity but a number: 2^(-infinity - 0) is the 0 wanted.
    shift[n] = after == broadcast(-kInfinity) ? broadcast(0.0f) : after;
    const Floats scale = exp2(before - shift[n]);
    store(running.maximum + n * kLanes, after);
    store(rescale + n * kLanes, scale);
    store(running.sum + n * kLanes, load(running.sum + n * kLanes) * scale);
    sum[n] = broadcast(0.0f);
  }
  const auto weight = [&](int64_t j, int n) {
    const Floats score = load(s + j * kStrip + n * kLanes);
    const Floats w = exp2<kAccuracy>(multiply_add(score, broadcast(factor), -shift[n]));
    sum[n] += w;
    return w;
  };
  int64_t j = 0;
  for (; j + 2 <= keys; j += 2) {
    for (int n = 0; n < vectors; ++n) {
      const Floats even = weight(j, n), odd = weight(j + 1, n);
      if constexpr (kPairs) {
        store(p + j / 2 * kStrip + n * kLanes, pair_up(even, odd));
      } else {
        store(p + j * kStrip + n * kLanes, even);
        store(p + (j + 1) * kStrip + n * kLanes, odd);
      }
    }
  }
  for (int n = 0; j < keys && n < vectors; ++n) {
    const Floats last = weight(j, n);
    if constexpr (kPairs) {
      store(p + j / 2 * kStrip + n * kLanes, pair_up(last, broadcast(0.0f)));
    } else {
      store(p + j * kStrip + n * kLanes, last);
    }
  }
  for (int n = 0; n < vectors; ++n) {
    store(running.sum + n * kLanes, load(running.sum + n * kLanes) + sum[n]);
  }
}

}  // namespace warploom::attention
