// How attention to pages is cut into pieces of work, and pieces into steps: from the shapes and
// each sequence's own length alone, so that a result depends neither on the number of threads, nor
// on the other sequences of a batch, nor on where a sequence's pages lie.
#pragma once

#include <algorithm>
#include <vector>

#include "attention/plan.h"

namespace warploom::attention {

inline constexpr int64_t kPagesRows = 32;    // query rows of a piece, at most
inline constexpr int64_t kPagesKeys = 2048;  // keys of a piece
inline constexpr int kStepKeys = 64;         // keys that a softmax step takes in, at most
inline constexpr int kKeyMultiple = 16;

// Query rows of one kv head and one sequence: row r is query r / group of query head
// kv_head * group + r % group.
struct PagesPiece {
  int64_t sequence, kv_head;
  int64_t row, rows;
  Range keys;
};

// The pieces of one (sequence, kv head, rows), in the order of their keys: one writes the result;
// of several, each writes a partial one.
struct PagesGroup {
  int64_t first_piece, pieces;
  int64_t partial;  // of its first piece, in rows of partial results
};

struct PagesPlan {
  std::vector<PagesPiece> pieces;
  std::vector<PagesGroup> groups;
  int64_t partials = 0;
};

inline PagesPlan plan_pages(const wl_attention_pages_params& p) {
  PagesPlan plan;
  const int64_t group = p.h / p.pages.hk, all_rows = p.s * group;
  for (int64_t n = 0; n < p.b; ++n) {
    const Visible visible = Visible::of(p.mask, p.s, p.lengths[n]);
    for (int64_t head = 0; head < p.pages.hk; ++head) {
      for (int64_t row = 0; row < all_rows; row += kPagesRows) {
        PagesPiece piece{n, head, row, std::min(kPagesRows, all_rows - row), {}};
        const Range keys = visible.any_keys(row / group, (row + piece.rows - 1) / group + 1);
        const int64_t first = int64_t(plan.pieces.size());
        // Cuts lie at multiples of kPagesKeys: they do not move as a window does.
        piece.keys.begin = keys.begin;
        do {
          piece.keys.end = std::min(keys.end, (piece.keys.begin / kPagesKeys + 1) * kPagesKeys);
          plan.pieces.push_back(piece);
          piece.keys.begin = piece.keys.end;
        } while (piece.keys.begin < keys.end);
        const int64_t pieces = int64_t(plan.pieces.size()) - first;
        plan.groups.push_back({first, pieces, plan.partials});
        if (pieces > 1) plan.partials += pieces * piece.rows;
      }
    }
  }
  return plan;
}

// Positions of one page that a step takes in: multiples of kKeyMultiple.
struct PageSpan {
  int64_t page;
  int first, keys;  // within the page
  int at;           // within the step
};

struct PageStep {
  int64_t begin = 0;  // position in the sequence
  int keys = 0;       // of all spans; those beyond the sequence's end lie in a page all the same
  int spans = 0;
  PageSpan span[kStepKeys / kKeyMultiple];
};

// The step that starts at `position`, before `end`. A page of up to kStepKeys positions is not
// split, but where a piece starts within it.
inline PageStep step_from(const int32_t* page_table, int64_t page_size, int64_t position,
                          int64_t end) {
  PageStep step;
  position = position / kKeyMultiple * kKeyMultiple;
  end = (end + kKeyMultiple - 1) / kKeyMultiple * kKeyMultiple;
  step.begin = position;
  while (position < end) {
    const int64_t first = position % page_size, left = kStepKeys - step.keys;
    const int64_t there = std::min(page_size - first, end - position);
    if (step.keys > 0 && there > left) break;
    const int keys = int(std::min(there, left));
    step.span[step.spans++] = {page_table[position / page_size], int(first), keys, step.keys};
    step.keys += keys;
    position += keys;
    if (step.keys == kStepKeys) break;
  }
  return step;
}

}  // namespace warploom::attention
