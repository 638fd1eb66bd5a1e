// The two products of attention with blocks of codes, for a few query rows of one kv head. Neither
// knows the dtype of queries: they come as what the engine multiplies.
#pragma once

#include "attention/cpu_pages_rows.h"

namespace warploom::attention {

// Positions [first, first + keys) of one block of codes; multiples of kKeyMultiple.
struct CodedSpan {
  const uint8_t* block;
  const bf16* grids;  // of the block
  int64_t page;       // positions of a whole page
  int64_t ahead;      // bytes from the block to the one of the next step
  int first, keys;
};

// tiles(vectors, first) for `count` lanes, a multiple of kTileRows, in vectors side by side.
template <class Engine, class Tiles>
inline void for_tiles(int64_t count, const Tiles& tiles) {
  constexpr int kFull = Engine::kVectors * kLanes;
  int64_t at = 0;
  for (; at + kFull <= count; at += kFull) {
    tiles(std::integral_constant<int, Engine::kVectors>(), at);
  }
  for (; at < count; at += kLanes) tiles(std::integral_constant<int, 1>(), at);
}

// Steps of grids of a width, from their ranges.
template <int bits>
inline Floats load_steps(const bf16* ranges) {
  return load_floats(ranges) * broadcast(1.0f / float((1 << bits) - 1));
}

// The middles of grids, from their least values and steps.
template <int bits>
inline Floats load_middles(const bf16* lowest, Floats step) {
  return multiply_add(broadcast(kMiddleOf<bits>), step, load_floats(lowest));
}

// scores[row * kStepKeys + j] = <q[row], k_j>. Grids are [groups, 2, page]: lanes are keys.
template <class Engine, int bits, int n>
[[gnu::noinline]] void score_codes(const CodedSpan& span, int64_t d, int64_t group,
                                   const uint32_t* words, int64_t words_row, const Packed* sums,
                                   float* scores) {
  const int64_t groups = d / group;
  for (int64_t g = 0; g < groups; ++g) {
    const bf16* lowest = span.grids + g * 2 * span.page + span.first;
    const Coefficients c{words + g * (group / 4) * Engine::kStep, words_row,
                         plane_of<Engine>(d / 4)};
    float constant[n];
    for (int i = 0; i < n; ++i) constant[i] = constant_of<Engine, bits>(sums[i * groups + g]);
    for_tiles<Engine>(span.keys, [&](auto vectors, int64_t j) {
      Floats totals[n][vectors];
      dot_tiles<Engine, Side::kKeys, bits, n, vectors>(span.block, kTileRows * d * bits / 8,
                                                       span.first + j, g * group * bits / 32,
                                                       group * bits / 32, span.ahead, c, totals);
      for (int m = 0; m < vectors; ++m) {
        const Floats step = load_steps<bits>(lowest + span.page + j + m * kLanes);
        const Floats middle = load_middles<bits>(lowest + j + m * kLanes, step);
        for (int i = 0; i < n; ++i) {
          const Packed& sum = sums[i * groups + g];
          float* score = scores + i * kStepKeys + j + m * kLanes;
          const Floats deviation =
              multiply_add(totals[i][m], broadcast(sum.scale), broadcast(constant[i]));
          const Floats base = middle * broadcast(sum.sum);
          store(score, multiply_add(step, deviation, g == 0 ? base : load(score) + base));
        }
      }
    });
  }
}

// The same where grids are [groups of positions, 2, d]: their steps go to the query, once for all
// keys of a group. q is [n, d]; stepped [d] and coefficients [n, row] are scratch.
template <class Engine, int bits, int n>
[[gnu::noinline]] void score_channel_codes(const CodedSpan& span, int64_t d, int64_t group,
                                           const float* q, float* stepped, uint32_t* coefficients,
                                           int64_t row, float* scores) {
  for (int begin = 0; begin < span.keys;) {
    const int64_t g = (span.first + begin) / group;
    const int end = int(std::min<int64_t>((g + 1) * group - span.first, span.keys));
    const bf16* lowest = span.grids + g * 2 * d;
    float scale[n], constant[n];
    for (int i = 0; i < n; ++i) {
      Floats middles = broadcast(0.0f);
      for (int64_t c = 0; c < d; c += kLanes) {
        const Floats x = load(q + i * d + c), step = load_steps<bits>(lowest + d + c);
        middles = multiply_add(x, load_middles<bits>(lowest + c, step), middles);
        store(stepped + c, x * step);
      }
      Packed sums;
      pack_query<Engine>(stepped, d, d, coefficients + i * row, plane_of<Engine>(d / 4), &sums);
      scale[i] = sums.scale;
      constant[i] = constant_of<Engine, bits>(sums) + sum_of(middles);
    }
    for_tiles<Engine>(end - begin, [&](auto vectors, int64_t j) {
      Floats totals[n][vectors];
      dot_tiles<Engine, Side::kKeys, bits, n, vectors>(
          span.block, kTileRows * d * bits / 8, span.first + begin + j, 0, d * bits / 32,
          span.ahead, {coefficients, row, plane_of<Engine>(d / 4)}, totals);
      for (int i = 0; i < n; ++i) {
        for (int m = 0; m < vectors; ++m) {
          store(scores + i * kStepKeys + begin + j + m * kLanes,
                multiply_add(totals[i][m], broadcast(scale[i]), broadcast(constant[i])));
        }
      }
    });
    begin = end;
  }
}

// Weights p of `keys` keys times the steps of their grids, as coefficients; returns their scale.
// What the grids' middles add goes to `base`, less what codes that are not taken from the middle
// add.
template <class Engine, int bits>
[[gnu::always_inline]] inline float fold_weights(const float* weights, const float* steps,
                                                 const float* middles, int keys, uint32_t* words,
                                                 float* base) {
  constexpr float kLost = kMiddleOf<bits> - Engine::template offset<Side::kValues, bits>();
  float folded[kStepKeys];
  Floats largest = broadcast(0.0f), sum = load(base);
  for (int j = 0; j < keys; j += kLanes) {
    const Floats weight = load(weights + j), x = weight * load(steps + j);
    sum = multiply_add(weight, load(middles + j), sum);
    largest = max(x, largest);
    store(folded + j, x);
  }
  Scaling scaling{1, 1};
  if constexpr (!kFloats<Engine>) {
    scaling = Scaling::of(largest_of(largest), Engine::kWeightLimit);
  }
  for (int j = 0; j < keys; j += kTileRows) {
    Floats x[kChunkVectors], rounded[kChunkVectors];
    for (int m = 0; m < kChunkVectors; ++m) x[m] = load(folded + j + m * kLanes);
    pack_chunk<Engine, Side::kValues>(x, scaling.inverse, words, j / kTileRows,
                                      plane_of<Engine>(kStepKeys / 4), rounded);
    if constexpr (kLost != 0) {
      for (int m = 0; m < kChunkVectors; ++m) {
        sum = multiply_add(broadcast(-kLost * scaling.scale), rounded[m], sum);
      }
    }
  }
  store(base, sum);
  return scaling.scale;
}

// o[row] + the sums of bases[row], over lanes, gains the sum of weights[row][j] * v_j. Grids are
// [groups, 2, page]: lanes are keys while weights meet them, and channels after.
template <class Engine, int bits, int n>
[[gnu::noinline]] void sum_codes(const CodedSpan& span, int64_t dv, int64_t group,
                                 const float* weights, uint32_t* coefficients, int64_t row,
                                 float* bases, float* o, int64_t o_row) {
  const int64_t groups = dv / group;
  for (int64_t g = 0; g < groups; ++g) {
    const bf16* lowest = span.grids + g * 2 * span.page + span.first;
    float scale[n], steps[kStepKeys], middles[kStepKeys];
    for (int j = 0; j < span.keys; j += kLanes) {
      const Floats step = load_steps<bits>(lowest + span.page + j);
      store(steps + j, step);
      store(middles + j, load_middles<bits>(lowest + j, step));
    }
    const auto fold = [&](int keys) __attribute__((always_inline)) {
      for (int i = 0; i < n; ++i) {
        scale[i] =
            fold_weights<Engine, bits>(weights + i * kStepKeys, steps, middles, keys,
                                       coefficients + i * row, bases + (i * groups + g) * kLanes);
      }
    };
    // A whole step, known to the compiler, is unrolled.
    if (span.keys == kStepKeys) {
      fold(kStepKeys);
    } else {
      fold(span.keys);
    }
    for_tiles<Engine>(group, [&](auto vectors, int64_t j) {
      Floats totals[n][vectors];
      const int64_t channel = g * group + j;
      dot_tiles<Engine, Side::kValues, bits, n, vectors>(
          span.block, kTileRows * span.page * bits / 8, channel, span.first * bits / 32,
          span.keys * bits / 32, span.ahead, {coefficients, row, plane_of<Engine>(kStepKeys / 4)},
          totals);
      for (int i = 0; i < n; ++i) {
        for (int m = 0; m < vectors; ++m) {
          float* at = o + i * o_row + channel + m * kLanes;
          store(at, multiply_add(totals[i][m], broadcast(scale[i]), load(at)));
        }
      }
    });
  }
}

}  // namespace warploom::attention
