// Transposes a kLanes x kLanes block held in registers.
#pragma once

#include <utility>

#include "base/vec.h"

namespace warploom {
namespace transpose_detail {

// Exchanges the off-diagonal step x step blocks of every 2 step x 2 step block.
template <int step, int... lane>
inline void exchange(Words* rows, std::integer_sequence<int, lane...>) {
  constexpr Words kUpper = {uint32_t(lane & step ? lane - step + kLanes : lane)...};
  constexpr Words kLower = {uint32_t(lane & step ? lane + kLanes : lane + step)...};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & step) continue;
    const Words upper = rows[i], lower = rows[i + step];
    rows[i] = __builtin_shuffle(upper, lower, kUpper);
    rows[i + step] = __builtin_shuffle(upper, lower, kLower);
  }
}

template <int step>
inline void exchange_from(Words* rows) {
  if constexpr (step < kLanes) {
    exchange<step>(rows, std::make_integer_sequence<int, kLanes>());
    exchange_from<2 * step>(rows);
  }
}

}  // namespace transpose_detail

inline void transpose(Words* rows) { transpose_detail::exchange_from<1>(rows); }

}  // namespace warploom
