// Backward attention: cells of the plan, which add to float32 sums in a fixed order.
//
// Floors: 2 (3 d + 2 dv) operations a pair at the matrix rate, and eight tensors moved once. At b1
// h8 s4096 d128 these are 172 Gflop and 64 MB: the products decide. Beside them packing costs most,
// so a cell packs its keys once and each block of queries once for all its keys.
//
// Memory: sums of dq, dk and dv in float32 while their cells run, at most kMostSumBytes or those of
// one key/value head; and for each thread one range of packed keys and one block of queries, at
// most 4.1 MB (float, d = dv = 256).
//
// On 2 shared cores (AMD family 26, AVX-512 with BF16), as multiples of torch 2.13's SDPA backward
// in the same run, with 1 and 2 threads: bfloat16 2.4 and 2.4, float 2.0 and 2.2, by
// `warploom perf attention --cases 'backward_*'`. By the same command, with the numbers of
// cpu_backward_tile.h changed, blocks of 128 queries by 256 keys were 9 to 14% faster than 256 by
// 128 in bfloat16, and the same within noise in float.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "attention/cpu.h"
#include "attention/cpu_backward_tile.h"

namespace warploom::attention {
namespace {

// The sums of as many heads and sequences are kept at a time as fit into this; at least those of
// one key/value head of one sequence.
constexpr int64_t kMostSumBytes = int64_t{256} << 20;
constexpr int64_t kCostPerThread = int64_t{1} << 20;  // multiply-adds worth a thread

template <class T>
int64_t sum_bytes(const wl_attention_problem& p, int64_t query_rows, int64_t key_rows,
                  int64_t kv_heads) {
  using Tile = BackwardTile<T>;
  const int64_t group = p.h / p.hk;
  const int64_t key_columns = Tile::columns(p.d) + Tile::columns(p.dv);
  return (query_rows * group * p.d + key_rows * key_columns) * kv_heads * int64_t(sizeof(float));
}

// One plan, for key/value heads [heads.begin, heads.end).
template <class T>
class Backward {
  using Tile = BackwardTile<T>;
  using Keys = typename Tile::Keys;
  using Queries = typename Tile::Queries;

 public:
  Backward(const wl_attention_backward_params& params, const BackwardPlan& plan, Range heads)
      : params_(params),
        p_(params.problem),
        plan_(plan),
        heads_(heads),
        head_count_(heads.end - heads.begin),
        group_(p_.h / p_.hk),
        key_turns_(new std::atomic<int32_t>[plan.key_ranges * head_count_]()),
        query_turns_(new std::atomic<int32_t>[plan.query_ranges * head_count_]()) {}

  wl_status run(int threads) {
    const int64_t pieces = int64_t(plan_.cells.size()) * head_count_;
    const int64_t cost = plan_.pairs * group_ * head_count_ * (p_.d + p_.dv) * 5 / 2;
    threads = int(std::clamp<int64_t>(std::min(cost / kCostPerThread, pieces), 1, threads));
    const size_t bytes = Buffers(nullptr, *this).bytes;
    char* scratch = thread_scratch(bytes * threads);
    if (!scratch) return fail(WL_MEMORY, "no memory for %zu bytes of scratch", bytes * threads);
    const int64_t sums = sum_bytes<T>(p_, plan_.query_rows, plan_.key_rows, head_count_);
    const std::unique_ptr<float, decltype(&std::free)> block(
        static_cast<float*>(std::aligned_alloc(64, round_up(sums, 64))), &std::free);
    if (!block) return fail(WL_MEMORY, "no memory for %lld bytes of sums", (long long)sums);
    dk_ = block.get();
    dv_ = dk_ + plan_.key_rows * head_count_ * Tile::columns(p_.d);
    dq_ = dv_ + plan_.key_rows * head_count_ * Tile::columns(p_.dv);
    // Pieces are taken in order, so that whatever one waits for has been started.
    std::atomic<int64_t> next{0};
    parallel_for(threads, threads, [&](int64_t, int thread) {
      const Buffers buffers(scratch + thread * bytes, *this);
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
        run(plan_.cells[i / head_count_], i % head_count_, buffers);
      }
    });
    return WL_OK;
  }

 private:
  // One thread's.
  struct Buffers {
    Buffers(char* block, const Backward& it) : parts(block), tile(it.params_, parts) {
      queries = tile.take_queries(parts);
      const int64_t range = std::min(it.plan_.range, it.p_.sk);
      for (int64_t i = 0; i < range; i += Tile::kKeys) {
        keys[i / Tile::kKeys] = tile.take_keys(parts);
      }
      bytes = parts.used();
    }
    Parts parts;
    Tile tile;
    mutable Queries queries;
    mutable Keys keys[BackwardPlan::kLongest / Tile::kKeys];
    size_t bytes;
  };

  // The sums of a cell's ranges. `head` counts from heads_.begin.
  float* dk(const Cell& cell, int64_t head) const {
    return dk_ + (head * plan_.key_rows + cell.key_row) * Tile::columns(p_.d);
  }
  float* dv(const Cell& cell, int64_t head) const {
    return dv_ + (head * plan_.key_rows + cell.key_row) * Tile::columns(p_.dv);
  }
  float* dq(const Cell& cell, int64_t head, int64_t member) const {
    return dq_ + ((head * group_ + member) * plan_.query_rows + cell.query_row) * p_.d;
  }

  void run(const Cell& cell, int64_t head, const Buffers& buffers) {
    const Sequence sequence = Sequence::of(p_, cell.sequence);
    const Visible visible = Visible::of(p_.mask, sequence.sq, sequence.sk);
    std::atomic<int32_t>* key_turn = turn_of(cell.key_turn, key_turns_.get(), head);
    std::atomic<int32_t>* query_turn = turn_of(cell.query_turn, query_turns_.get(), head);
    wait_for(key_turn, cell.key_turn);
    wait_for(query_turn, cell.query_turn);
    clear_new(cell, head);
    if (key_turn && query_turn) add(cell, head, sequence, visible, buffers);
    if (cell.key_turn.last) write_keys(cell, head, sequence);
    if (cell.query_turn.last) write_queries(cell, head, sequence);
    end(key_turn, cell.key_turn);
    end(query_turn, cell.query_turn);
  }

  std::atomic<int32_t>* turn_of(const Turn& turn, std::atomic<int32_t>* turns, int64_t head) const {
    return turn.range < 0 ? nullptr : turns + turn.range * head_count_ + head;
  }
  static void wait_for(std::atomic<int32_t>* at, const Turn& turn) {
    if (!at) return;
    for (int32_t now; (now = at->load(std::memory_order_acquire)) != turn.index;) {
      at->wait(now, std::memory_order_acquire);
    }
  }
  static void end(std::atomic<int32_t>* at, const Turn& turn) {
    if (!at) return;
    at->store(turn.index + 1, std::memory_order_release);
    at->notify_all();
  }

  void clear_new(const Cell& cell, int64_t head) const {
    if (cell.key_turn.range >= 0 && cell.key_turn.index == 0) {
      const int64_t keys = cell.keys.end - cell.keys.begin;
      std::fill_n(dk(cell, head), keys * Tile::columns(p_.d), 0.0f);
      std::fill_n(dv(cell, head), keys * Tile::columns(p_.dv), 0.0f);
    }
    if (cell.query_turn.range >= 0 && cell.query_turn.index == 0) {
      const int64_t queries = round_up(cell.queries.end - cell.queries.begin, kStrip);
      for (int64_t member = 0; member < group_; ++member) {
        std::fill_n(dq(cell, head, member), queries * p_.d, 0.0f);
      }
    }
  }

  void add(const Cell& cell, int64_t head, const Sequence& sequence, const Visible& visible,
           const Buffers& buffers) const {
    const auto block_of = [](Range range, int64_t first, int64_t size) {
      return Range{first, std::min(first + size, range.end)};
    };
    const Range seen = intersect(visible.any_keys(cell.queries.begin, cell.queries.end), cell.keys);
    const int64_t first_block = (seen.begin - cell.keys.begin) / Tile::kKeys;
    const int64_t last_block = ceil_div(seen.end - cell.keys.begin, Tile::kKeys);
    for (int64_t i = first_block; i < last_block; ++i) {
      const Range block = block_of(cell.keys, cell.keys.begin + i * Tile::kKeys, Tile::kKeys);
      buffers.tile.pack(sequence, heads_.begin + head, block, buffers.keys[i]);
    }
    const Range rows = intersect(visible.any_rows(seen.begin, seen.end), cell.queries);
    for (int64_t member = 0; member < group_; ++member) {
      for (int64_t first = cell.queries.begin; first < rows.end; first += Tile::kQueries) {
        const Range block = block_of(cell.queries, first, Tile::kQueries);
        if (block.end <= rows.begin) continue;
        buffers.tile.pack(sequence, (heads_.begin + head) * group_ + member, block,
                          buffers.queries);
        for (int64_t i = first_block; i < last_block; ++i) {
          const int64_t key = i * Tile::kKeys;
          buffers.tile.add(visible, buffers.keys[i], buffers.queries,
                           {dk(cell, head) + key * Tile::columns(p_.d),
                            dv(cell, head) + key * Tile::columns(p_.dv),
                            dq(cell, head, member) + (first - cell.queries.begin) * p_.d});
        }
      }
    }
  }

  void write_keys(const Cell& cell, int64_t head, const Sequence& sequence) const {
    for (int64_t j = cell.keys.begin; j < cell.keys.end; ++j) {
      const int64_t at = j - cell.keys.begin, key = sequence.first_k + j;
      write_row(dk(cell, head) + at * Tile::columns(p_.d), p_.scale, p_.d,
                row<T>(params_.dk, sequence.batch, key, heads_.begin + head));
      write_row(dv(cell, head) + at * Tile::columns(p_.dv), 1.0f, p_.dv,
                row<T>(params_.dv, sequence.batch, key, heads_.begin + head));
    }
  }

  static void write_row(const float* from, float factor, int64_t n, T* to) {
    for (int64_t c = 0; c < n; c += kLanes) {
      T narrow[kLanes];
      store_floats(narrow, load(from + c) * broadcast(factor));
      std::memcpy(to + c, narrow, std::min<int64_t>(kLanes, n - c) * sizeof(T));
    }
  }

  void write_queries(const Cell& cell, int64_t head, const Sequence& sequence) const {
    for (int64_t member = 0; member < group_; ++member) {
      float* strip = dq(cell, head, member);
      for (int64_t i = cell.queries.begin; i < cell.queries.end;
           i += kStrip, strip += kStrip * p_.d) {
        scale_scores(strip, p_.d, p_.scale);
        const int count = int(std::min<int64_t>(kStrip, cell.queries.end - i));
        T* rows[kStrip];
        for (int n = 0; n < count; ++n) {
          rows[n] = row<T>(params_.dq, sequence.batch, sequence.first_q + i + n,
                           (heads_.begin + head) * group_ + member);
        }
        unpack_lanes(strip, p_.d, count, rows);
      }
    }
  }

  const wl_attention_backward_params& params_;
  const wl_attention_problem& p_;
  const BackwardPlan& plan_;
  Range heads_;
  int64_t head_count_, group_;
  std::unique_ptr<std::atomic<int32_t>[]> key_turns_, query_turns_;
  float *dk_, *dv_, *dq_;  // [head][row of the plan]: see BackwardTile::Sums
};

}  // namespace

template <class T>
wl_status backward(const wl_attention_backward_params& params) try {
  const wl_attention_problem& p = params.problem;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(params.exec.threads, &threads));
  if (p.hk == 0) return WL_OK;
  const auto bytes_of = [&](int64_t n) {
    const Sequence sequence = Sequence::of(p, n);
    return sum_bytes<T>(p, round_up(sequence.sq, BackwardPlan::kRowUnit),
                        round_up(sequence.sk, BackwardPlan::kRowUnit), p.hk);
  };
  const int64_t range = BackwardPlan::range_of(p);
  for (int64_t first = 0, last; first < p.b; first = last) {
    int64_t bytes = bytes_of(first);
    for (last = first + 1; last < p.b && bytes + bytes_of(last) <= kMostSumBytes; ++last) {
      bytes += bytes_of(last);
    }
    const BackwardPlan plan = BackwardPlan::of(p, first, last, range);
    const int64_t heads =
        std::clamp<int64_t>(bytes > 0 ? p.hk * kMostSumBytes / bytes : p.hk, 1, p.hk);
    for (int64_t head = 0; head < p.hk; head += heads) {
      Backward<T> part(params, plan, {head, std::min(head + heads, p.hk)});
      WL_RETURN_IF_ERROR(part.run(threads));
    }
  }
  return WL_OK;
} catch (const std::bad_alloc&) {
  return fail(WL_MEMORY, "no memory for the list of cells");
}

}  // namespace warploom::attention

WL_INSTANTIATE(backward, wl_attention_backward_params)
