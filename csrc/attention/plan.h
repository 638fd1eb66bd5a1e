// What a mask means for rows and tiles: pure functions of shapes, shared by every loop.
#pragma once

#include <algorithm>
#include <cstdint>

#include "warploom/attention.h"

#if defined(__CUDACC__) || defined(__HIPCC__)
#define WL_HOST_DEVICE __host__ __device__
#else
#define WL_HOST_DEVICE
#endif

namespace warploom::attention {

struct Range {
  int64_t begin, end;  // empty when begin >= end
};

// The keys that one sequence's query rows see. Built from the mask and that sequence's lengths.
struct Visible {
  int64_t sq, sk;
  int64_t before, after;  // keys before and after the diagonal; sk when unlimited

  WL_HOST_DEVICE static Visible of(const wl_mask& mask, int64_t sq, int64_t sk) {
    const bool window = mask.kind == WL_MASK_WINDOW;
    return {sq, sk, window && mask.left >= 0 && mask.left < sk + sq ? mask.left : sk + sq,
            window && mask.right >= 0 && mask.right < sk + sq ? mask.right : sk + sq};
  }

  // Keys that query row i sees.
  WL_HOST_DEVICE Range keys(int64_t i) const {
    const int64_t diagonal = i + sk - sq;
    const int64_t begin = diagonal - before, end = diagonal + after + 1;
    return {begin > 0 ? begin : 0, end < sk ? end : sk};
  }

  // Keys that at least one of the rows [first, last) sees, and keys that all of them see.
  WL_HOST_DEVICE Range any_keys(int64_t first, int64_t last) const {
    return {keys(first).begin, keys(last - 1).end};
  }
  WL_HOST_DEVICE Range all_keys(int64_t first, int64_t last) const {
    return {keys(last - 1).begin, keys(first).end};
  }

  // Query rows that see key j.
  WL_HOST_DEVICE Range rows(int64_t j) const {
    const int64_t diagonal = j + sq - sk;
    const int64_t begin = diagonal - after, end = diagonal + before + 1;
    return {begin > 0 ? begin : 0, end < sq ? end : sq};
  }
  WL_HOST_DEVICE Range any_rows(int64_t first, int64_t last) const {
    return {rows(first).begin, rows(last - 1).end};
  }
};

}  // namespace warploom::attention
