// The type that a dtype of the C interface is stored as.
#pragma once

#include "base/half.h"
#include "warploom/base.h"

namespace warploom {

template <int dtype>  // -1: none
struct Storage {
  using type = void;
};
template <>
struct Storage<WL_F32> {
  using type = float;
};
template <>
struct Storage<WL_F16> {
  using type = f16;
};
template <>
struct Storage<WL_BF16> {
  using type = bf16;
};

}  // namespace warploom
