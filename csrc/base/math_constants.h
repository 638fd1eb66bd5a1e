// Numbers that loops share, on the host and in device code.
#pragma once

#include <limits>

namespace warploom {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLog2E = 1.4426950408889634f;  // log2(e)
inline constexpr float kLn2 = 0.6931471805599453f;    // log(2)

}  // namespace warploom
