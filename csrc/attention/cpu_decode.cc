// Decode from contiguous or paged caches, row by row.
#include <cmath>
#include <limits>
#include <vector>

#include "attention/cpu.h"
#include "attention/cpu_view.h"

namespace warploom::attention {

template <class T>
wl_status decode(const wl_attention_decode_params& params) {
  const auto& p = params;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  parallel_for(threads, p.b * p.h, [&](int64_t piece, int) {
    const int64_t n = piece / p.h, head = piece % p.h, kv_head = head / (p.h / p.hk);
    const int64_t length = p.lengths[n];
    const Visible visible = Visible::of(p.mask, p.s, length);
    std::vector<float> scores(length), sum(p.dv);
    const auto cached = [&](const wl_strided& cache, int64_t j) {
      if (!p.page_table) return row<const T>(cache, n, j, kv_head);
      const int64_t page = p.page_table[n * p.page_table_stride + j / p.capacity];
      return row<const T>(cache, page, j % p.capacity, kv_head);
    };
    for (int64_t i = 0; i < p.s; ++i) {
      const T* q = row<const T>(p.q, n, i, head);
      const Range keys = visible.keys(i);
      float largest = -std::numeric_limits<float>::infinity(), total = 0;
      for (int64_t j = keys.begin; j < keys.end; ++j) {
        const T* k = cached(p.k_cache, j);
        float dot = 0;
        for (int64_t c = 0; c < p.d; ++c) dot += to_float(q[c]) * to_float(k[c]);
        dot *= p.scale;
        if (p.softcap != 0) dot = p.softcap * std::tanh(dot / p.softcap);
        scores[j] = dot;
        largest = dot > largest || std::isnan(dot) ? dot : largest;
      }
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t j = keys.begin; j < keys.end; ++j) {
        const T* v = cached(p.v_cache, j);
        const float weight = std::exp(scores[j] - largest);
        total += weight;
        for (int64_t c = 0; c < p.dv; ++c) sum[c] += weight * to_float(v[c]);
      }
      const bool empty = keys.begin >= keys.end;
      T* o = row<T>(p.o, n, i, head);
      for (int64_t c = 0; c < p.dv; ++c) o[c] = from_float<T>(empty ? 0.0f : sum[c] / total);
      if (p.lse) {
        p.lse[(n * p.h + head) * p.s + i] =
            empty ? -std::numeric_limits<float>::infinity() : largest + std::log(total);
      }
    }
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(decode, wl_attention_decode_params)
