// Merges partial results in the order given.
#include <cmath>
#include <limits>

#include "attention/cpu.h"
#include "attention/cpu_view.h"

namespace warploom::attention {

template <class T>
wl_status merge(const wl_attention_merge_params& params) {
  const auto& p = params;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  constexpr float kAbsent = -std::numeric_limits<float>::infinity();
  parallel_for(threads, p.b * p.h, [&](int64_t piece, int) {
    const int64_t n = piece / p.h, head = piece % p.h;
    for (int64_t i = 0; i < p.s; ++i) {
      const int64_t at = piece * p.s + i;
      float largest = kAbsent, total = 0;
      for (int64_t part = 0; part < p.parts; ++part) {
        const float lse = p.lse_parts[part][at];
        largest = lse > largest || std::isnan(lse) ? lse : largest;
      }
      for (int64_t part = 0; part < p.parts; ++part) {
        if (p.lse_parts[part][at] != kAbsent) total += std::exp(p.lse_parts[part][at] - largest);
      }
      T* o = row<T>(p.o, n, i, head);
      for (int64_t c = 0; c < p.dv; ++c) {
        float sum = 0;
        for (int64_t part = 0; part < p.parts; ++part) {
          const float lse = p.lse_parts[part][at];
          if (lse == kAbsent) continue;
          sum += std::exp(lse - largest) / total *
                 to_float(row<const T>(p.o_parts[part], n, i, head)[c]);
        }
        o[c] = from_float<T>(sum);
      }
      p.lse[at] = largest == kAbsent ? kAbsent : largest + std::log(total);
    }
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(merge, wl_attention_merge_params)
