// Forward attention, row by row.
#include <cmath>
#include <limits>
#include <vector>

#include "attention/cpu.h"
#include "attention/cpu_view.h"

namespace warploom::attention {

template <class T>
wl_status prefill(const wl_attention_forward_params& params) {
  const wl_attention_problem& p = params.problem;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(params.exec.threads, &threads));
  parallel_for(threads, p.b * p.h, [&](int64_t piece, int) {
    const int64_t head = piece % p.h, kv_head = head / (p.h / p.hk);
    const Sequence sequence = Sequence::of(p, piece / p.h);
    const Visible visible = Visible::of(p.mask, sequence.sq, sequence.sk);
    std::vector<float> scores(sequence.sk), sum(p.dv);
    for (int64_t i = 0; i < sequence.sq; ++i) {
      const T* q = row<const T>(params.q, sequence.batch, sequence.first_q + i, head);
      T* o = row<T>(params.o, sequence.batch, sequence.first_q + i, head);
      const Range keys = visible.keys(i);
      float largest = -std::numeric_limits<float>::infinity();
      for (int64_t j = keys.begin; j < keys.end; ++j) {
        const T* k = row<const T>(params.k, sequence.batch, sequence.first_k + j, kv_head);
        float dot = 0;
        for (int64_t c = 0; c < p.d; ++c) dot += to_float(q[c]) * to_float(k[c]);
        dot *= p.scale;
        if (p.softcap != 0) dot = p.softcap * std::tanh(dot / p.softcap);
        scores[j] = dot;
        largest = dot > largest || std::isnan(dot) ? dot : largest;
      }
      float total = 0;
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t j = keys.begin; j < keys.end; ++j) {
        const T* v = row<const T>(params.v, sequence.batch, sequence.first_k + j, kv_head);
        const float weight = std::exp(scores[j] - largest);
        total += weight;
        for (int64_t c = 0; c < p.dv; ++c) sum[c] += weight * to_float(v[c]);
      }
      const bool empty = keys.begin >= keys.end;
      for (int64_t c = 0; c < p.dv; ++c) o[c] = from_float<T>(empty ? 0.0f : sum[c] / total);
      if (params.lse) {
        params.lse[sequence.lse_index(p, head, i)] =
            empty ? -std::numeric_limits<float>::infinity() : largest + std::log(total);
      }
    }
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(prefill, wl_attention_forward_params)
