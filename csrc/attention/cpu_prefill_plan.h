// How the CPU forward is cut into pieces: by shapes alone, so that results do not depend on the
// number of threads.
#pragma once

#include <algorithm>
#include <vector>

#include "attention/cpu_view.h"
#include "attention/plan.h"
#include "base/saturating.h"

namespace warploom::attention {

// Rows [first, first + rows) of one sequence's folded list: row r is position r / group of the
// query head r % group of the group, for any key/value head.
struct Piece {
  int64_t sequence, first, rows;
  int64_t cost;  // rows times keys
};

// The step, a multiple of `unit` and at most `most` (one too), that cuts n most evenly.
inline int64_t even_step(int64_t n, int64_t most, int64_t unit) {
  if (n <= 0) return unit;
  const int64_t cuts = (n + most - 1) / most;
  return ((n + cuts - 1) / cuts + unit - 1) / unit * unit;
}

struct PrefillPlan {
  // Rows and keys of a block. More rows share a packed block of keys, until their queries and
  // outputs (4 bytes an element at worst, d + dv elements a row) leave no room in 1 MiB of L2
  // cache. At d = 128 against 256 x 256: 512 x 256 was 1% faster in bfloat16 and 6% in float32,
  // 512 x 512 neither, by `warploom perf attention --cases forward_bf16,forward_fp32` with these
  // numbers changed.
  static constexpr int64_t kRows = 512, kElements = kRows * 256, kKeys = 256, kKeysUnit = 16;
  // Blocks of rows are halved while there are fewer pieces than this: a machine of many cores
  // wants pieces, and packing keys and values for fewer rows costs some percent.
  static constexpr int64_t kEnoughPieces = 32, kFewestRows = 64;
  static constexpr int64_t kCostPerThread = int64_t{1} << 20;  // multiply-adds worth a thread

  std::vector<Piece> pieces;   // most expensive first
  int64_t rows = 0, keys = 0;  // the largest block of any piece
  int64_t most_threads = 1;

  static PrefillPlan of(const wl_attention_problem& p, int64_t strip) {
    PrefillPlan plan;
    if (p.hk == 0) return plan;
    const int64_t group = p.h / p.hk;
    int64_t block = kRows;
    while (block * (p.d + p.dv) > kElements && block > kFewestRows) block /= 2;
    const auto count = [&] {
      int64_t pieces = 0;
      for (int64_t n = 0; n < p.b; ++n) {
        pieces += (Sequence::of(p, n).sq * group + block - 1) / block * p.hk;
      }
      return pieces;
    };
    while (block > kFewestRows && count() < kEnoughPieces) block /= 2;
    int64_t total = 0;
    for (int64_t n = 0; n < p.b; ++n) {
      const Sequence sequence = Sequence::of(p, n);
      const Visible visible = Visible::of(p.mask, sequence.sq, sequence.sk);
      const int64_t rows = sequence.sq * group;
      const int64_t step = even_step(rows, block, strip);
      for (int64_t first = 0; first < rows; first += step) {
        const int64_t length = std::min(step, rows - first);
        const Range any = visible.any_keys(first / group, (first + length - 1) / group + 1);
        const int64_t keys = std::max<int64_t>(any.end - any.begin, 0);
        const int64_t cost = saturating_multiply(length, keys);
        plan.pieces.push_back({n, first, length, cost});
        plan.rows = std::max(plan.rows, length);
        plan.keys = std::max(plan.keys, std::min(keys, kKeys));
        total = saturating_add(total, cost);
      }
    }
    std::stable_sort(plan.pieces.begin(), plan.pieces.end(),
                     [](const Piece& a, const Piece& b) { return a.cost > b.cost; });
    plan.most_threads = saturating_product({total, p.d + p.dv, p.hk}) / kCostPerThread;
    return plan;
  }
};

}  // namespace warploom::attention
