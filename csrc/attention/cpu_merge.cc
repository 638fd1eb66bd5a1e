// Merges partial results in the order given.
#include <cmath>

#include "attention/cpu.h"
#include "attention/cpu_view.h"
#include "base/math_constants.h"
#include "base/scratch.h"
#include "base/vec_half.h"

namespace warploom::attention {
namespace {

constexpr float kAbsent = -kInfinity;

// The weights of one row's parts, and their lse. An absent part weighs exactly 0.
float weigh(const wl_attention_merge_params& p, int64_t at, float* weights) {
  float largest = kAbsent, total = 0;
  for (int64_t part = 0; part < p.parts; ++part) {
    const float lse = p.lse_parts[part][at];
    largest = lse > largest || std::isnan(lse) ? lse : largest;
  }
  for (int64_t part = 0; part < p.parts; ++part) {
    const float lse = p.lse_parts[part][at];
    weights[part] = lse == kAbsent ? 0 : std::exp(lse - largest);
    total += weights[part];
  }
  if (total == 0) return kAbsent;
  for (int64_t part = 0; part < p.parts; ++part) weights[part] /= total;
  return largest + std::log(total);
}

// sum of weight * part over the parts that are there, in order: what an absent one holds is not
// looked at. o may be one of the parts.
template <class T>
void add_up(const T* const* parts, const float* weights, int64_t count, int64_t dv, T* o) {
  int64_t c = 0;
  for (; c + kLanes <= dv; c += kLanes) {
    Floats sum = broadcast(0.0f);
    for (int64_t part = 0; part < count; ++part) {
      sum = multiply_add(broadcast(weights[part]), load_floats(parts[part] + c), sum);
    }
    store_floats(o + c, sum);
  }
  for (; c < dv; ++c) {
    float sum = 0;
    for (int64_t part = 0; part < count; ++part) sum += weights[part] * to_float(parts[part][c]);
    o[c] = from_float<T>(sum);
  }
}

}  // namespace

template <class T>
wl_status merge(const wl_attention_merge_params& params) {
  const auto& p = params;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  // Rows in the order of memory, some tens of KiB to a piece.
  const int64_t rows = p.b * p.s * p.h;
  const int64_t row_bytes = std::max<int64_t>(p.parts * p.dv * int64_t(sizeof(T)), 1);
  const int64_t piece = std::max<int64_t>((int64_t{64} << 10) / row_bytes, 1);
  const auto merge_rows = [&](int64_t first, int64_t last, float* weights, const T** there) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t head = r % p.h, i = r / p.h % p.s, n = r / p.h / p.s;
      const int64_t at = (n * p.h + head) * p.s + i;
      p.lse[at] = weigh(p, at, weights);
      int64_t count = 0;
      for (int64_t part = 0; part < p.parts; ++part) {
        if (p.lse_parts[part][at] == kAbsent) continue;
        weights[count] = weights[part];
        there[count++] = row<const T>(p.o_parts[part], n, i, head);
      }
      add_up(there, weights, count, p.dv, row<T>(p.o, n, i, head));
    }
  };
  const int64_t pieces = (rows + piece - 1) / piece;
  Parts count(nullptr);
  count.take<float>(p.parts);
  count.take<const T*>(p.parts);
  char* scratch = thread_scratch(threads * count.used());
  if (!scratch)
    return fail(WL_MEMORY, "no memory for the weights of %lld parts", (long long)p.parts);
  parallel_for(threads, pieces, [&](int64_t index, int thread) {
    Parts parts(scratch + thread * count.used());
    float* weights = parts.take<float>(p.parts);
    const T** there = parts.take<const T*>(p.parts);
    merge_rows(index * piece, std::min((index + 1) * piece, rows), weights, there);
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(merge, wl_attention_merge_params)
