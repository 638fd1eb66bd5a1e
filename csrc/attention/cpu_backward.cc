// Backward attention, one key/value head at a time.
#include <cmath>
#include <limits>
#include <vector>

#include "attention/cpu.h"
#include "attention/cpu_view.h"

namespace warploom::attention {

template <class T>
wl_status backward(const wl_attention_backward_params& params) {
  const wl_attention_problem& p = params.problem;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(params.exec.threads, &threads));
  const int64_t group = p.hk ? p.h / p.hk : 1;
  parallel_for(threads, p.b * p.hk, [&](int64_t piece, int) {
    const int64_t kv_head = piece % p.hk;
    const Sequence sequence = Sequence::of(p, piece / p.hk);
    const Visible visible = Visible::of(p.mask, sequence.sq, sequence.sk);
    std::vector<float> dk(sequence.sk * p.d), dv(sequence.sk * p.dv), dq(p.d);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t i = 0; i < sequence.sq; ++i) {
        const int64_t r = sequence.first_q + i;
        const T* q = row<const T>(params.q, sequence.batch, r, head);
        const T* o = row<const T>(params.o, sequence.batch, r, head);
        const T* grad_o = row<const T>(params.grad_o, sequence.batch, r, head);
        const int64_t at = sequence.lse_index(p, head, i);
        const Range keys = visible.keys(i);
        float delta = params.grad_lse ? -params.grad_lse[at] : 0.0f;
        for (int64_t c = 0; c < p.dv; ++c) delta += to_float(o[c]) * to_float(grad_o[c]);
        std::fill(dq.begin(), dq.end(), 0.0f);
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          const T* k = row<const T>(params.k, sequence.batch, sequence.first_k + j, kv_head);
          const T* v = row<const T>(params.v, sequence.batch, sequence.first_k + j, kv_head);
          float s = 0, dp = 0;
          for (int64_t c = 0; c < p.d; ++c) s += to_float(q[c]) * to_float(k[c]);
          for (int64_t c = 0; c < p.dv; ++c) dp += to_float(grad_o[c]) * to_float(v[c]);
          s *= p.scale;
          float slope = p.scale;
          if (p.softcap != 0) {
            const float t = std::tanh(s / p.softcap);
            s = p.softcap * t;
            slope *= 1 - t * t;
          }
          const float weight = std::exp(s - params.lse[at]);
          const float ds = weight * (dp - delta) * slope;
          for (int64_t c = 0; c < p.dv; ++c) dv[j * p.dv + c] += weight * to_float(grad_o[c]);
          for (int64_t c = 0; c < p.d; ++c) dk[j * p.d + c] += ds * to_float(q[c]);
          for (int64_t c = 0; c < p.d; ++c) dq[c] += ds * to_float(k[c]);
        }
        T* out = row<T>(params.dq, sequence.batch, r, head);
        for (int64_t c = 0; c < p.d; ++c) out[c] = from_float<T>(dq[c]);
      }
    }
    for (int64_t j = 0; j < sequence.sk; ++j) {
      T* out_k = row<T>(params.dk, sequence.batch, sequence.first_k + j, kv_head);
      T* out_v = row<T>(params.dv, sequence.batch, sequence.first_k + j, kv_head);
      for (int64_t c = 0; c < p.d; ++c) out_k[c] = from_float<T>(dk[j * p.d + c]);
      for (int64_t c = 0; c < p.dv; ++c) out_v[c] = from_float<T>(dv[j * p.dv + c]);
    }
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(backward, wl_attention_backward_params)
