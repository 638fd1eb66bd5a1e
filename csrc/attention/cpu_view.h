// Rows of strided tensors, and one sequence's share of a dense or ragged batch.
#pragma once

#include "attention/plan.h"
#include "warploom/attention.h"

namespace warploom::attention {

template <class T>
T* row(const wl_strided& t, int64_t b, int64_t s, int64_t h) {
  return static_cast<T*>(t.data) + b * t.stride[0] + s * t.stride[1] + h * t.stride[2];
}

// Sequence n of a problem: where its rows start, and how many it has.
struct Sequence {
  int64_t batch;             // index on the batch axis (0 when ragged)
  int64_t first_q, first_k;  // first rows (0 when dense)
  int64_t sq, sk;

  static Sequence of(const wl_attention_problem& p, int64_t n) {
    if (!p.cu_seqlens_q) return {n, 0, 0, p.sq, p.sk};
    return {0, p.cu_seqlens_q[n], p.cu_seqlens_k[n], p.cu_seqlens_q[n + 1] - p.cu_seqlens_q[n],
            p.cu_seqlens_k[n + 1] - p.cu_seqlens_k[n]};
  }

  // Index of (head, row i) in a contiguous lse: [b, h, sq], or [h, tq] when ragged.
  int64_t lse_index(const wl_attention_problem& p, int64_t head, int64_t i) const {
    return p.cu_seqlens_q ? head * p.tq + first_q + i : (batch * p.h + head) * p.sq + i;
  }
};

}  // namespace warploom::attention
