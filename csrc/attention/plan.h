// What a mask means for rows and tiles: pure functions of shapes, shared by every loop.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/host_device.h"
#include "warploom/attention.h"

namespace warploom::attention {

// The axes of a tensor of rows, before the last one: [b, s, heads], or ragged [1, tokens, heads].
struct Axes {
  int64_t batch, rows, heads;

  int64_t count() const { return batch * rows * heads; }
};
inline Axes query_axes(const wl_attention_problem& p, int64_t heads) {
  return p.cu_seqlens_q ? Axes{1, p.tq, heads} : Axes{p.b, p.sq, heads};
}
inline Axes key_axes(const wl_attention_problem& p, int64_t heads) {
  return p.cu_seqlens_k ? Axes{1, p.tk, heads} : Axes{p.b, p.sk, heads};
}

template <class Int>
struct BasicRange {
  Int begin, end;  // empty when begin >= end
};

// The keys that one sequence's query rows see. Built from the mask and that sequence's lengths; in
// 32 bits the lengths must be at most 2^29.
template <class Int>
struct BasicVisible {
  using Range = BasicRange<Int>;
  Int sq, sk;
  Int before, after;  // keys before and after the diagonal; sq + sk when unlimited

  WL_HOST_DEVICE static BasicVisible of(const wl_mask& mask, Int sq, Int sk) {
    const bool window = mask.kind == WL_MASK_WINDOW;
    const Int all = sk + sq;
    return {sq, sk, window && mask.left >= 0 && mask.left < all ? Int(mask.left) : all,
            window && mask.right >= 0 && mask.right < all ? Int(mask.right) : all};
  }

  // Keys that query row i sees.
  WL_HOST_DEVICE Range keys(Int i) const {
    const Int diagonal = i + sk - sq;
    const Int begin = diagonal - before, end = diagonal + after + 1;
    return {begin > 0 ? begin : 0, end < sk ? end : sk};
  }

  // Keys that at least one of the rows [first, last) sees, and keys that all of them see.
  WL_HOST_DEVICE Range any_keys(Int first, Int last) const {
    return {keys(first).begin, keys(last - 1).end};
  }
  WL_HOST_DEVICE Range all_keys(Int first, Int last) const {
    return {keys(last - 1).begin, keys(first).end};
  }

  // Query rows that see key j.
  WL_HOST_DEVICE Range rows(Int j) const {
    const Int diagonal = j + sq - sk;
    const Int begin = diagonal - after, end = diagonal + before + 1;
    return {begin > 0 ? begin : 0, end < sq ? end : sq};
  }
  WL_HOST_DEVICE Range any_rows(Int first, Int last) const {
    return {rows(first).begin, rows(last - 1).end};
  }
  WL_HOST_DEVICE Range all_rows(Int first, Int last) const {
    return {rows(last - 1).begin, rows(first).end};
  }
};

using Range = BasicRange<int64_t>;
using Visible = BasicVisible<int64_t>;

}  // namespace warploom::attention
