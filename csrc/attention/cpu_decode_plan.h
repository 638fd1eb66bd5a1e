// How decode is cut into pieces of work: from the shapes and each sequence's own length alone, so
// that a result depends neither on the number of threads nor on the other sequences of a batch.
#pragma once

#include <algorithm>
#include <vector>

#include "attention/plan.h"

namespace warploom::attention {

// Query rows of one kv head and one sequence: row r is query r / group of query head
// kv_head * group + r % group.
struct DecodePiece {
  int64_t sequence;
  int64_t head, heads;  // kv heads: all read together, so that whole cache rows are
  int64_t row, rows;
  Range keys;
};

// The pieces of one (sequence, heads, rows), in the order of their keys. One piece writes the
// result; of several, each writes a partial result, and those are merged in that order.
struct DecodeGroup {
  int64_t first_piece, pieces;
  int64_t partial;  // of its first piece, in units of one row's partial result
};

struct DecodePlan {
  std::vector<DecodePiece> pieces;
  std::vector<DecodeGroup> groups;
  int64_t partials = 0;   // rows of partial results
  int64_t most_rows = 0;  // heads * rows of the largest piece
};

// Query rows that one piece takes through its keys: enough to pay for reading them.
inline constexpr int64_t kPieceRows = 32;
// Bytes of queries and sums that a piece keeps in a core's own cache.
inline constexpr int64_t kPieceState = 256 << 10;
// Bytes of keys and values of a piece: about a hundred microseconds of reading.
inline constexpr int64_t kPieceBytes = 2 << 20;
// A piece reads this many times the bytes of its partial result, or more.
inline constexpr int64_t kPieceWorth = 32;

// row_state: bytes that one query row keeps during a piece; row_partial: of its partial result.
inline DecodePlan plan_decode(const wl_attention_decode_params& p, int64_t element_bytes,
                              int64_t block_keys, int64_t row_state, int64_t row_partial) {
  DecodePlan plan;
  const int64_t group = p.h / p.hk, all_rows = p.s * group;
  const int64_t rows = std::min(all_rows, kPieceRows);
  const int64_t heads = std::clamp<int64_t>(kPieceState / (rows * row_state), 1, p.hk);
  const int64_t key_bytes = std::max<int64_t>(heads * (p.d + p.dv) * element_bytes, 1);
  const int64_t wanted = std::max(kPieceBytes, kPieceWorth * heads * rows * row_partial);
  const int64_t chunk = (wanted / key_bytes / block_keys + 1) * block_keys;
  plan.most_rows = heads * rows;
  for (int64_t n = 0; n < p.b; ++n) {
    const Visible visible = Visible::of(p.mask, p.s, p.lengths[n]);
    for (int64_t head = 0; head < p.hk; head += heads) {
      for (int64_t row = 0; row < all_rows; row += rows) {
        DecodePiece piece{
            n, head, std::min(heads, p.hk - head), row, std::min(rows, all_rows - row), {}};
        const Range keys = visible.any_keys(row / group, (row + piece.rows - 1) / group + 1);
        const int64_t first = int64_t(plan.pieces.size());
        // Cuts lie at multiples of the chunk: they do not move as a window does.
        piece.keys.begin = keys.begin;
        do {
          piece.keys.end = std::min(keys.end, (piece.keys.begin / chunk + 1) * chunk);
          plan.pieces.push_back(piece);
          piece.keys.begin = piece.keys.end;
        } while (piece.keys.begin < keys.end);
        const int64_t pieces = int64_t(plan.pieces.size()) - first;
        plan.groups.push_back({first, pieces, plan.partials});
        if (pieces > 1) plan.partials += pieces * piece.heads * piece.rows;
      }
    }
  }
  return plan;
}

}  // namespace warploom::attention
