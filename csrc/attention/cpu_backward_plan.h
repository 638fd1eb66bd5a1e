// How the CPU backward is cut into cells, and in which order they add up: by shapes alone, so that
// results do not depend on the number of threads.
//
// A cell is a range of keys by a range of queries of one sequence, for any key/value head. It adds
// to the gradients of both ranges, so cells that share one must run one after the other, in a fixed
// order. Cells are listed by diagonals: on one diagonal no two share a range, and a cell waits only
// for cells of earlier diagonals, which by then are mostly done.
#pragma once

#include <algorithm>
#include <vector>

#include "attention/cpu_view.h"
#include "attention/plan.h"

namespace warploom::attention {

inline int64_t ceil_div(int64_t n, int64_t step) { return (n + step - 1) / step; }

inline int64_t round_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

inline Range intersect(Range a, Range b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Where a cell stands among those that add to the same range.
struct Turn {
  int64_t range;  // index among the ranges of all the plan's sequences; -1: no range
  int32_t index;
  bool last;
};

struct Cell {
  int64_t sequence;
  Range keys, queries;         // of the sequence
  int64_t key_row, query_row;  // where those ranges start among the plan's rows
  Turn key_turn, query_turn;
};

struct BackwardPlan {
  static constexpr int64_t kLongest = 1024, kShortest = 512;
  // Ranges are halved while a diagonal has fewer cells than this over all heads: a machine of many
  // cores wants cells. Operands are packed once for each range of the other side, so halving cost
  // 6 to 10% of the speed at d = 128 in bfloat16, by `warploom perf attention --cases
  // backward_bf16` with kLongest halved.
  static constexpr int64_t kEnoughCells = 16;
  static constexpr int64_t kRowUnit = 32;  // a multiple of every target's strip

  int64_t range = kLongest;
  int64_t key_ranges = 0, query_ranges = 0;  // of all sequences
  int64_t key_rows = 0, query_rows = 0;      // likewise, each sequence's rounded up to kRowUnit
  int64_t pairs = 0;                         // of a key and a query, in all cells
  std::vector<Cell> cells;

  // The longest range, for the whole call: however it is cut into plans, results are the same.
  static int64_t range_of(const wl_attention_problem& p) {
    const auto diagonal = [&](int64_t range) {
      int64_t cells = 0;
      for (int64_t n = 0; n < p.b; ++n) {
        const Sequence sequence = Sequence::of(p, n);
        cells += ceil_div(std::max(sequence.sq, sequence.sk), range);
      }
      return cells * p.hk;
    };
    int64_t range = kLongest;
    while (range > kShortest && diagonal(range) < kEnoughCells) range /= 2;
    return range;
  }

  // Sequences [first, last).
  static BackwardPlan of(const wl_attention_problem& p, int64_t first, int64_t last,
                         int64_t range) {
    BackwardPlan plan;
    plan.range = range;
    struct Grid {
      int64_t keys, queries, first_key, first_query;  // ranges, and index of the first one
      int64_t key_row, query_row;
    };
    std::vector<Grid> grids;
    int64_t longest = 0;
    for (int64_t n = first; n < last; ++n) {
      const Sequence sequence = Sequence::of(p, n);
      const Grid grid{ceil_div(sequence.sk, range),
                      ceil_div(sequence.sq, range),
                      plan.key_ranges,
                      plan.query_ranges,
                      plan.key_rows,
                      plan.query_rows};
      grids.push_back(grid);
      plan.key_ranges += grid.keys;
      plan.query_ranges += grid.queries;
      plan.key_rows += round_up(sequence.sk, kRowUnit);
      plan.query_rows += round_up(sequence.sq, kRowUnit);
      longest = std::max({longest, grid.keys, grid.queries});
    }
    std::vector<int32_t> key_turns(plan.key_ranges), query_turns(plan.query_ranges);
    const auto add = [&](int64_t n, int64_t key_range, int64_t query_range) {
      const Sequence sequence = Sequence::of(p, n);
      const Grid& grid = grids[n - first];
      Cell cell{n, {0, 0}, {0, 0}, 0, 0, {-1, 0, false}, {-1, 0, false}};
      if (key_range >= 0) {
        const int64_t index = grid.first_key + key_range;
        cell.key_row = grid.key_row + key_range * range;
        cell.keys = {key_range * range, std::min((key_range + 1) * range, sequence.sk)};
        cell.key_turn = {index, key_turns[index]++, false};
      }
      if (query_range >= 0) {
        const int64_t index = grid.first_query + query_range;
        cell.query_row = grid.query_row + query_range * range;
        cell.queries = {query_range * range, std::min((query_range + 1) * range, sequence.sq)};
        cell.query_turn = {index, query_turns[index]++, false};
      }
      plan.pairs += (cell.keys.end - cell.keys.begin) * (cell.queries.end - cell.queries.begin);
      plan.cells.push_back(cell);
    };
    for (int64_t diagonal = 0; diagonal < longest; ++diagonal) {
      for (int64_t n = first; n < last; ++n) {
        const Grid& grid = grids[n - first];
        const Sequence sequence = Sequence::of(p, n);
        const Visible visible = Visible::of(p.mask, sequence.sq, sequence.sk);
        const int64_t side = std::max(grid.keys, grid.queries);
        for (int64_t i = 0; diagonal < side && i < grid.keys; ++i) {
          const int64_t j = (i + diagonal) % side;
          if (j >= grid.queries) continue;
          const Range queries{j * range, std::min((j + 1) * range, sequence.sq)};
          const Range any = visible.any_keys(queries.begin, queries.end);
          if (any.begin < std::min((i + 1) * range, any.end) && any.end > i * range) add(n, i, j);
        }
      }
    }
    // Ranges that nothing adds to are cells of their own: their gradients are written too.
    for (int64_t n = first; n < last; ++n) {
      const Grid& grid = grids[n - first];
      for (int64_t i = 0; i < grid.keys; ++i) {
        if (key_turns[grid.first_key + i] == 0) add(n, i, -1);
      }
      for (int64_t j = 0; j < grid.queries; ++j) {
        if (query_turns[grid.first_query + j] == 0) add(n, -1, j);
      }
    }
    for (Cell& cell : plan.cells) {
      Turn &key = cell.key_turn, &query = cell.query_turn;
      key.last = key.range >= 0 && key.index + 1 == key_turns[key.range];
      query.last = query.range >= 0 && query.index + 1 == query_turns[query.range];
    }
    return plan;
  }
};

}  // namespace warploom::attention
