// Decode from contiguous or paged caches.
//
// A piece of work takes the query rows of several kv heads through a range of keys, a block of keys
// at a time: scores of every head, then their softmax, then the values of every head. All heads of
// a cache row are used together because they lie side by side: reading one head of row after row
// skips through memory, which costs almost half of the bandwidth.
//
// Reading memory and computing go on at once. Three things matter for that, measured on a Zen 5
// core that reads 64 bytes in 7 cycles: tiles take few keys and all heads, so that what they use
// lies in one or two stretches; prefetch instructions go through the rows in the order of memory,
// a few lines at a time and 8 KiB ahead (half, double, or bursts of 16 lines are slower: what is
// prefetched must find the first cache with the sums of the values still in it); and the softmax of
// a block is spread through the values of the block before, whose reading it then hides behind.
//
// Floors for a group of 4 and head dim 128 with AVX-512 and two multiply-adds a cycle, in cycles
// for each key of a kv head: bfloat16 8 for scores, 8 for values and 2 to 4 for the sums across
// lanes, so 20 for 512 bytes, which take 52 to read; float32 36 for 1024 bytes, which take 104.
// Where memory and arithmetic overlap they still do not hide one another: bfloat16 scores took 35
// and values 42 cycles, against 26 of reading each and 17 and 25 of arithmetic.
// (Thread CPU time on a machine shared with other work; `warploom perf attention --cases 'decode*'`
// compares the kernel with a read of the same moment.)
#include <cmath>
#include <new>

#include "attention/cpu.h"
#include "attention/cpu_decode_plan.h"
#include "attention/cpu_decode_tile.h"
#include "attention/cpu_view.h"
#include "base/math_constants.h"
#include "base/scratch.h"
#include "base/vec_math.h"

namespace warploom::attention {
namespace {

// Bytes of a cache that are prefetched ahead of the arithmetic.
constexpr int64_t kAhead = 8 << 10;

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

using Lanes = std::make_integer_sequence<int, kLanes>;

template <int... lane>
float largest_lane(Floats x, std::integer_sequence<int, lane...>) {
#pragma GCC unroll 4
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const Ints across = {(lane ^ step)...};
    x = max(__builtin_shuffle(x, across), x);
  }
  return x[0];
}

float lane_sum(const float* lanes) {
  float sum = 0;
  for (int n = 0; n < kLanes; ++n) sum += lanes[n];
  return sum;
}

float exp2_of(float x) { return exp2(broadcast(x))[0]; }

// What the query rows of a piece have seen so far. Row r of head n is row n * rows + r.
template <class T>
struct Rows {
  QueryWord<T>* q;  // [heads * rows, q_row], packed by tiles
  float* o;         // [heads * rows, o_row]: sums of weight * value, packed by tiles
  float* row;       // [o_row]: those of one row
  float* maximum;   // of log2(e) * score
  float* sum;       // [heads * rows, kLanes]: of weights, to be summed across
  float* scores;    // [heads * rows, kBlockKeys] of the newest block
  Range* visible;   // [rows]: keys that a row sees
  // For the newest block and the one before, whose values are still to be added:
  float* rescale[2];      // what a block asks of earlier sums
  Weight<T>* weights[2];  // [heads * rows, kBlockKeys]
};

// Where the keys and values of a block lie, for the first head of a piece. Beyond the last key `k`
// repeats it, so that tiles of scores may be full; what they give is hidden.
template <class T>
struct Block {
  int64_t begin = 0, keys = 0;
  const T* k[kBlockKeys];
  const T* v[kBlockKeys];
  float* rescale;
  Weight<T>* weights;
};

template <class T>
class Decode {
 public:
  explicit Decode(const wl_attention_decode_params& params)
      : p(params),
        group_(p.h / p.hk),
        q_row_(round_up(p.d, kQueryStep<T>) / (kQueryStep<T> / kLanes)),
        o_row_(round_up(p.dv, kQueryStep<T>)),
        plan_(plan_decode(p, sizeof(T), kBlockKeys, (q_row_ + o_row_) * sizeof(float),
                          partial_row() * sizeof(float))) {}

  wl_status run(int threads) {
    Parts count(nullptr);
    take_rows(count);
    const size_t per_thread = count.used();
    const size_t bytes = threads * per_thread + plan_.partials * partial_row() * sizeof(float);
    char* scratch = thread_scratch(bytes);
    if (!scratch) return fail(WL_MEMORY, "no memory for %zu bytes of scratch", bytes);
    partials_ = reinterpret_cast<float*>(scratch + threads * per_thread);
    std::vector<int64_t> group_of(plan_.pieces.size());
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      const DecodeGroup& group = plan_.groups[g];
      for (int64_t i = 0; i < group.pieces; ++i) group_of[group.first_piece + i] = int64_t(g);
    }
    parallel_for(threads, int64_t(plan_.pieces.size()), [&](int64_t index, int thread) {
      Parts parts(scratch + thread * per_thread);
      const Rows<T> rows = take_rows(parts);
      const DecodePiece& piece = plan_.pieces[index];
      const DecodeGroup& group = plan_.groups[group_of[index]];
      attend(piece, rows);
      if (group.pieces == 1) {
        finish(piece, rows);
      } else {
        keep(piece, rows, group.partial + (index - group.first_piece) * piece.heads * piece.rows);
      }
    });
    if (plan_.partials == 0) return WL_OK;
    parallel_for(threads, int64_t(plan_.groups.size()) * p.hk, [&](int64_t index, int) {
      const DecodeGroup& group = plan_.groups[index / p.hk];
      const int64_t head = index % p.hk;
      if (group.pieces > 1 && head < plan_.pieces[group.first_piece].heads) merge(group, head);
    });
    return WL_OK;
  }

 private:
  int64_t partial_row() const { return o_row_ + 16; }  // sums, maximum, sum; whole cache lines

  Rows<T> take_rows(Parts& parts) const {
    const int64_t n = plan_.most_rows;
    return {parts.take<QueryWord<T>>(n * q_row_),
            parts.take<float>(n * o_row_),
            parts.take<float>(o_row_),
            parts.take<float>(n),
            parts.take<float>(n * kLanes),
            parts.take<float>(n * kBlockKeys),
            parts.take<Range>(kPieceRows),
            {parts.take<float>(n), parts.take<float>(n)},
            {parts.take<Weight<T>>(n * kBlockKeys), parts.take<Weight<T>>(n * kBlockKeys)}};
  }

  void load_rows(const DecodePiece& piece, const Rows<T>& rows) const {
    const Visible visible = Visible::of(p.mask, p.s, p.lengths[piece.sequence]);
    for (int64_t r = 0; r < piece.rows; ++r) {
      rows.visible[r] = visible.keys((piece.row + r) / group_);
    }
    const int64_t n = piece.heads * piece.rows;
    std::memset(rows.q, 0, n * q_row_ * sizeof *rows.q);
    std::memset(rows.o, 0, n * o_row_ * sizeof *rows.o);
    std::memset(rows.sum, 0, n * kLanes * sizeof *rows.sum);
    std::fill(rows.maximum, rows.maximum + n, -kInfinity);
    constexpr int64_t kWords = kQueryStep<T> / kLanes;  // elements of a query word
    for (int64_t at = 0; at < n; ++at) {
      const int64_t head = piece.head + at / piece.rows, r = piece.row + at % piece.rows;
      const T* q = row<const T>(p.q, piece.sequence, r / group_, head * group_ + r % group_);
      const auto [tile, i, tile_rows] = place(piece, at);
      for (int64_t c = 0; c < p.d; c += kQueryStep<T>) {
        QueryWord<T>* to = rows.q + tile * q_row_ + c / kWords * tile_rows + i * kLanes;
        const int64_t count = std::min<int64_t>(p.d - c, kQueryStep<T>);
        if constexpr (kPairs<T>) {
          std::memcpy(to, q + c, count * sizeof(T));
        } else {
          for (int64_t e = 0; e < count; ++e) to[e] = to_float(q[c + e]);
        }
      }
    }
  }

  // Query row `at` of a piece is row `row` of the tile that starts at row `tile`.
  struct Place {
    int64_t tile, row, rows;
  };
  static Place place(const DecodePiece& piece, int64_t at) {
    const int64_t r = at % piece.rows, in_tile = r % kDecodeRows;
    return {at - in_tile, in_tile, std::min<int64_t>(kDecodeRows, piece.rows - (r - in_tile))};
  }

  void locate(const CacheRows<T>& k, const CacheRows<T>& v, Range keys, Block<T>& block) const {
    block.begin = keys.begin;
    block.keys = std::min<int64_t>(keys.end - keys.begin, kBlockKeys);
    for (int64_t j = 0; j < block.keys; ++j) {
      block.k[j] = k[keys.begin + j];
      block.v[j] = v[keys.begin + j];
    }
    for (int64_t j = block.keys; j < kBlockKeys; ++j) block.k[j] = block.k[j - 1];
  }

  void attend(const DecodePiece& piece, const Rows<T>& rows) const {
    load_rows(piece, rows);
    if (piece.keys.begin >= piece.keys.end) return;
    const CacheRows<T> k(p.k_cache, p, piece.sequence, piece.head);
    const CacheRows<T> v(p.v_cache, p, piece.sequence, piece.head);
    const int64_t value_step = value_keys(piece);
    const auto distance = [&](int64_t keys, int64_t d) {
      return std::max(kAhead, keys * piece.heads * d * int64_t(sizeof(T)));
    };
    Ahead<T> keys(k, piece.keys, piece.heads, p.d, distance(2, p.d));
    Ahead<T> values(v, piece.keys, piece.heads, p.dv, distance(value_step, p.dv));
    Block<T> blocks[2];
    for (int n = 0; n < 2; ++n) {
      blocks[n].rescale = rows.rescale[n];
      blocks[n].weights = rows.weights[n];
    }
    Block<T>*block = &blocks[0], *next = &blocks[1];
    const int64_t all = piece.heads * piece.rows;  // rows of all heads
    const auto weigh_some = [&](const Block<T>& some, int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        weigh(rows, some, at, rows.visible[at % piece.rows]);
      }
    };
    locate(k, v, piece.keys, *block);
    score(piece, rows, *block, keys);
    weigh_some(*block, 0, all);
    for (int64_t begin = piece.keys.begin; begin < piece.keys.end; begin += kBlockKeys) {
      const bool last = begin + kBlockKeys >= piece.keys.end;
      if (!last) {
        locate(k, v, {begin + kBlockKeys, piece.keys.end}, *next);
        score(piece, rows, *next, keys);
      }
      for (int64_t j = 0; j < block->keys; j += value_step) {
        const int64_t end = std::min(j + value_step, block->keys);
        accumulate(piece, rows, *block, {j, end}, values);
        if (!last) weigh_some(*next, all * j / block->keys, all * end / block->keys);
      }
      std::swap(block, next);
    }
  }

  // Keys of a block whose values every head takes in turn: about as many bytes as the sums have
  // that are read and written for them. Sums add up in the order of the keys whatever the step is.
  static int64_t value_keys(const DecodePiece& piece) {
    return std::clamp<int64_t>(4 * piece.rows / int64_t(sizeof(T)) / 2 * 2, 2, kBlockKeys);
  }

  void score(const DecodePiece& piece, const Rows<T>& rows, const Block<T>& block,
             Ahead<T>& ahead) const {
    constexpr int64_t kStep = kDecodeSums;  // keys: a multiple of every tile's
    for (int64_t first = 0; first < block.keys; first += kStep) {
      const int64_t last = std::min(first + kStep, block.keys);
      for (int64_t r = 0; r < piece.rows; r += kDecodeRows) {
        with_rows(piece.rows - r, [&](auto n) {
          with_heads<n>(piece.heads, [&](auto heads) {
            for (int64_t j = first; j < last; j += kTileKeys<n, heads>) {
              score_tile<T, n, heads>(
                  rows.q + r * q_row_, piece.rows * q_row_, p.d, block.k + j, p.k_cache.stride[2],
                  piece.heads,
                  {rows.scores + r * kBlockKeys + j, kBlockKeys, piece.rows * kBlockKeys},
                  r == 0 ? &ahead : nullptr);
            }
          });
        });
      }
    }
  }

  // Scores of a row become weights under its new maximum.
  void weigh(const Rows<T>& rows, const Block<T>& block, int64_t at, Range visible) const {
    const int32_t first = int32_t(std::max<int64_t>(visible.begin - block.begin, 0));
    const int32_t last = int32_t(std::min(visible.end - block.begin, block.keys));
    block.rescale[at] = 1;
    if (first >= last) return;
    float* scores = rows.scores + at * kBlockKeys;
    const int64_t padded = round_up(block.keys, kLanes);
    const float inner = p.softcap != 0 ? p.scale / p.softcap : p.scale * kLog2E;
    Floats largest = broadcast(-kInfinity);
    for (int32_t j = 0; j < padded; j += kLanes) {
      Floats s = load(scores + j) * broadcast(inner);
      if (p.softcap != 0) s = tanh(s) * broadcast(p.softcap * kLog2E);
      const Ints key = kLaneIndex + j;
      s = (key >= first) & (key < last) ? s : broadcast(-kInfinity);
      store(scores + j, s);
      largest = max(s, largest);
    }
    const float before = rows.maximum[at], in_block = largest_lane(largest, Lanes());
    const float after = in_block > before ? in_block : before;
    // Nothing may be subtracted from -infinity but a number: 2^(-infinity - 0) is the 0 wanted.
    const float shift = after == -kInfinity ? 0.0f : after;
    if (after != before) block.rescale[at] = exp2_of(before - shift);
    rows.maximum[at] = after;
    Floats sum = load(rows.sum + at * kLanes) * broadcast(block.rescale[at]);
    for (int32_t j = 0; j < padded; j += kLanes) {
      const Floats weight = exp2<kAccuracy>(load(scores + j) - broadcast(shift));
      store_floats(block.weights + at * kBlockKeys + j, weight);
      sum += weight;
    }
    store(rows.sum + at * kLanes, sum);
  }

  // Every head takes some keys of a block before any takes the next ones: that is their order in
  // memory.
  void accumulate(const DecodePiece& piece, const Rows<T>& rows, const Block<T>& block, Range keys,
                  Ahead<T>& ahead) const {
    for (int64_t r = 0; r < piece.rows; r += kDecodeRows) {
      with_rows(piece.rows - r, [&](auto n) {
        Range seen[n], all = keys;  // by each row, and by every row of the tile
        for (int i = 0; i < n; ++i) {
          const Range visible = rows.visible[r + i];
          seen[i].begin = std::clamp(visible.begin - block.begin, keys.begin, keys.end);
          seen[i].end = std::clamp(visible.end - block.begin, seen[i].begin, keys.end);
          all = {std::max(all.begin, seen[i].begin), std::min(all.end, seen[i].end)};
        }
        all.end = std::max(all.begin, all.end);
        const bool same = all.begin == keys.begin && all.end == keys.end;
        const ValueTiles<T> tiles = {block.weights + r * kBlockKeys,
                                     block.rescale + r,
                                     block.v,
                                     rows.o + r * o_row_,
                                     n,
                                     piece.rows,
                                     p.v_cache.stride[2],
                                     o_row_,
                                     p.dv,
                                     piece.heads};
        value_rows<T, n>(tiles, keys.begin == 0, 0, all, r == 0 ? &ahead : nullptr);
        // Keys that some rows of the tile do not see may hold anything: each row takes its own.
        for (int i = 0; i < n && !same; ++i) {
          const Range before = {seen[i].begin, std::min(all.begin, seen[i].end)};
          const Range after = {std::max(all.end, seen[i].begin), seen[i].end};
          if (before.begin < before.end) value_rows<T, 1>(tiles, false, i, before, nullptr);
          if (after.begin < after.end) value_rows<T, 1>(tiles, false, i, after, nullptr);
        }
      });
    }
  }

  void write(int64_t sequence, int64_t kv_head, int64_t r, float maximum, float sum,
             float* sums) const {
    const int64_t i = r / group_, head = kv_head * group_ + r % group_;
    const Range keys = Visible::of(p.mask, p.s, p.lengths[sequence]).keys(i);
    const bool empty = keys.begin >= keys.end;
    const float factor = empty ? 0.0f : 1.0f / sum;
    T* o = row<T>(p.o, sequence, i, head);
    int64_t c = 0;
    for (; c + kLanes <= p.dv; c += kLanes) {
      store_floats(o + c, load(sums + c) * broadcast(factor));
    }
    for (; c < p.dv; ++c) o[c] = from_float<T>(sums[c] * factor);
    if (p.lse) {
      // An infinite score makes the sum NaN, but its logarithm's limit is known.
      p.lse[(sequence * p.h + head) * p.s + i] = empty ? -kInfinity
                                                 : maximum == kInfinity
                                                     ? maximum
                                                     : (maximum + std::log2(sum)) * kLn2;
    }
  }

  void unpack(const DecodePiece& piece, const Rows<T>& rows, int64_t at, float* sums) const {
    const auto [tile, i, tile_rows] = place(piece, at);
    unpack_row<T>(rows.o + tile * o_row_, i, tile_rows, p.dv, sums);
  }

  void finish(const DecodePiece& piece, const Rows<T>& rows) const {
    for (int64_t at = 0; at < piece.heads * piece.rows; ++at) {
      unpack(piece, rows, at, rows.row);
      write(piece.sequence, piece.head + at / piece.rows, piece.row + at % piece.rows,
            rows.maximum[at], lane_sum(rows.sum + at * kLanes), rows.row);
    }
  }

  float* partial(int64_t index) const { return partials_ + index * partial_row(); }

  void keep(const DecodePiece& piece, const Rows<T>& rows, int64_t first) const {
    for (int64_t at = 0; at < piece.heads * piece.rows; ++at) {
      float* kept = partial(first + at);
      unpack(piece, rows, at, kept);
      kept[o_row_] = rows.maximum[at];
      kept[o_row_ + 1] = lane_sum(rows.sum + at * kLanes);
    }
  }

  // One kv head of a group: its pieces in the order of their keys.
  void merge(const DecodeGroup& group, int64_t head) const {
    const DecodePiece& piece = plan_.pieces[group.first_piece];
    const int64_t stride = piece.heads * piece.rows;
    for (int64_t r = 0; r < piece.rows; ++r) {
      const int64_t first = group.partial + head * piece.rows + r;
      float maximum = -kInfinity, total = 0;
      for (int64_t i = 0; i < group.pieces; ++i) {
        const float other = partial(first + i * stride)[o_row_];
        maximum = other > maximum ? other : maximum;
      }
      const float shift = maximum == -kInfinity ? 0.0f : maximum;
      float* sums = partial(first);
      for (int64_t i = 0; i < group.pieces; ++i) {
        const float* part = partial(first + i * stride);
        const float weight = exp2_of(part[o_row_] - shift);
        total += weight * part[o_row_ + 1];
        for (int64_t c = 0; c < o_row_; c += kLanes) {
          const Floats scaled = load(part + c) * broadcast(weight);
          store(sums + c, i == 0 ? scaled : load(sums + c) + scaled);
        }
      }
      write(piece.sequence, piece.head + head, piece.row + r, maximum, total, sums);
    }
  }

  static constexpr Exp2 kAccuracy = kPairs<T> ? Exp2::kPair : Exp2::kFull;

  static Ints lane_index() {
    Ints lanes = {};
    for (int n = 0; n < kLanes; ++n) lanes[n] = n;
    return lanes;
  }
  const Ints kLaneIndex = lane_index();

  const wl_attention_decode_params& p;
  const int64_t group_;
  const int64_t q_row_, o_row_;  // words and floats from one row to the next
  const DecodePlan plan_;
  float* partials_ = nullptr;
};

}  // namespace

template <class T>
wl_status decode(const wl_attention_decode_params& params) try {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(params.exec.threads, &threads));
  if (params.b * params.s * params.h == 0) return WL_OK;
  return Decode<T>(params).run(threads);
} catch (const std::bad_alloc&) {
  return fail(WL_MEMORY, "no memory for the list of pieces");
}

}  // namespace warploom::attention

WL_INSTANTIATE(decode, wl_attention_decode_params)
