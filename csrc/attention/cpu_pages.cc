// Attention straight from the pages of a quantized cache.
//
// A piece of work takes the query rows of one kv head through a range of keys, a step of up to 64
// of them at a time: scores, their softmax, values, each block in its own width. Four rows share
// every load of codes, which are multiplied as they are (cpu_codes.h); grids meet scores and
// weights.
//
// Floors for a group of 4 and head dim 128 with AVX-512, in cycles for each key of a kv head, at
// one (two) products of 512 bits a cycle: fast 16 (8) at any width, exact twice that, 16 bits 32
// (16). Reading memory, at 7 cycles a line: 56, 29, 15 and 8 for 16, 8, 4 and 2 bits with their
// grids. So what 16 bits spend on reading, narrow widths spend on arithmetic, and neither may wait
// for the other: each load of a block fetches the same place of a later step's block. Without
// that, 16 bits and exact 8 and 4 bits took more than twice as long from memory.
#include <cmath>
#include <new>

#include "attention/cpu.h"
#include "attention/cpu_pages_coded.h"
#include "attention/cpu_view.h"
#include "base/math_constants.h"
#include "base/vec_math.h"

namespace warploom::attention {
namespace {

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

float exp2_of(float x) { return exp2(broadcast(x))[0]; }

const bf16* as_bf16(const uint16_t* p) { return reinterpret_cast<const bf16*>(p); }

// call(std::integral_constant<int, bits>) for a width of codes.
template <class Call>
void with_bits(int width, const Call& call) {
  if (width == 8) return call(std::integral_constant<int, 8>());
  if (width == 4) return call(std::integral_constant<int, 4>());
  call(std::integral_constant<int, 2>());
}

struct Block {
  const uint8_t* data;
  int width;
};

template <class T, class Engine>
class PagesAttention {
  static constexpr bool kPairRows = kPairDot && std::is_same_v<T, bf16>;
  using Rows = PagesRows<kPairRows, Engine>;
  using Half = HalfQuery<kPairRows>;

 public:
  explicit PagesAttention(const wl_attention_pages_params& params)
      : p(params),
        pages_(params.pages),
        group_(p.h / pages_.hk),
        half_row_(round_up(pages_.d, kHalfStep<kPairRows>)),
        o_row_(round_up(pages_.dv, kHalfStep<kPairRows>)),
        key_groups_(pages_.keys_per_channel ? 1 : pages_.d / pages_.key_group),
        value_groups_(pages_.dv / pages_.value_group),
        key_grids_(2 * pages_.d * pages_.page / pages_.key_group),
        value_grids_(2 * pages_.dv * pages_.page / pages_.value_group),
        inner_(p.softcap != 0 ? p.scale / p.softcap : p.scale * kLog2E),
        plan_(plan_pages(p)) {}

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
      const PagesGroup& group = plan_.groups[g];
      for (int64_t i = 0; i < group.pieces; ++i) group_of[group.first_piece + i] = int64_t(g);
    }
    parallel_for(threads, int64_t(plan_.pieces.size()), [&](int64_t index, int thread) {
      Parts parts(scratch + thread * per_thread);
      const Rows rows = take_rows(parts);
      const PagesPiece& piece = plan_.pieces[index];
      const PagesGroup& group = plan_.groups[group_of[index]];
      attend(piece, rows);
      for (int64_t r = 0; r < piece.rows; ++r) {
        float* sums = collect(rows, r);
        const float total = sum_of(load(rows.sum + r * kLanes));
        if (group.pieces == 1) {
          write(piece, r, rows.maximum[r], total, sums);
        } else {
          float* kept = partial(group.partial + (index - group.first_piece) * piece.rows + r);
          std::memcpy(kept, sums, pages_.dv * sizeof(float));
          kept[pages_.dv] = rows.maximum[r];
          kept[pages_.dv + 1] = total;
        }
      }
    });
    if (plan_.partials == 0) return WL_OK;
    parallel_for(threads, int64_t(plan_.groups.size()), [&](int64_t index, int) {
      if (plan_.groups[index].pieces > 1) merge(plan_.groups[index]);
    });
    return WL_OK;
  }

 private:
  int64_t partial_row() const { return pages_.dv + 16; }  // sums, maximum, sum; whole lines

  Rows take_rows(Parts& parts) const {
    const int64_t n = std::min(kPagesRows, p.s * group_);
    Rows rows;
    rows.words_row = pages_.d / 4 * Engine::kWords;
    rows.coefficients_row = std::max<int64_t>(pages_.d, kStepKeys) / 4 * Engine::kWords;
    rows.q = parts.take<float>(n * pages_.d);
    rows.words = parts.take<uint32_t>(n * rows.words_row);
    rows.half = parts.take<Half>(kPairRows ? n * half_row_ : 0);
    rows.sums = parts.take<Packed>(n * key_groups_);
    rows.o = parts.take<float>(n * o_row_);
    rows.o_half = parts.take<float>(n * o_row_);
    rows.bases = parts.take<float>(n * value_groups_ * kLanes);
    rows.maximum = parts.take<float>(n);
    rows.sum = parts.take<float>(n * kLanes);
    rows.visible = parts.take<Range>(n);
    rows.scores = parts.take<float>(kDecodeRows * kStepKeys);
    rows.weights = parts.take<Half>(kPairRows ? kDecodeRows * kStepKeys : 0);
    rows.coefficients = parts.take<uint32_t>(kDecodeRows * rows.coefficients_row);
    rows.stepped = parts.take<float>(pages_.keys_per_channel ? pages_.d : 0);
    return rows;
  }

  void load_rows(const PagesPiece& piece, const Rows& rows) const {
    const Visible visible = Visible::of(p.mask, p.s, p.lengths[piece.sequence]);
    if constexpr (kPairRows) std::memset(rows.half, 0, piece.rows * half_row_ * sizeof(Half));
    std::memset(rows.o, 0, piece.rows * o_row_ * sizeof(float));
    std::memset(rows.o_half, 0, piece.rows * o_row_ * sizeof(float));
    std::memset(rows.bases, 0, piece.rows * value_groups_ * kLanes * sizeof(float));
    std::memset(rows.sum, 0, piece.rows * kLanes * sizeof(float));
    for (int64_t r = 0; r < piece.rows; ++r) {
      const int64_t i = (piece.row + r) / group_, head = head_of(piece, r);
      const T* q = row<const T>(p.q, piece.sequence, i, head);
      float* x = rows.q + r * pages_.d;
      for (int64_t c = 0; c < pages_.d; ++c) x[c] = to_float(q[c]) * inner_;
      if constexpr (kPairRows) std::memcpy(rows.half + r * half_row_, q, pages_.d * sizeof(T));
      if (!pages_.keys_per_channel) {
        pack_query<Engine>(x, pages_.d, pages_.key_group, rows.words + r * rows.words_row,
                           plane_of<Engine>(pages_.d / 4), rows.sums + r * key_groups_);
      }
      rows.maximum[r] = -kInfinity;
      rows.visible[r] = visible.keys(i);
    }
  }

  int64_t head_of(const PagesPiece& piece, int64_t r) const {
    return piece.kv_head * group_ + (piece.row + r) % group_;
  }

  void attend(const PagesPiece& piece, const Rows& rows) const {
    const int32_t* table = p.page_table + piece.sequence * p.page_table_stride;
    const auto step_at = [&](int64_t position) {
      const PageStep step = step_from(table, pages_.page, position, piece.keys.end);
      for (int i = 0; i < step.spans; ++i) fetch_tags(piece, step.span[i]);
      return step;
    };
    // Of three steps at a time the first is computed, the second's grids and blocks are fetched,
    // and so are the third's tags, which say where those lie.
    PageStep step = step_at(piece.keys.begin);
    PageStep next = step_at(step.begin + step.keys);
    fetch_grids(piece, step);
    fetch_grids(piece, next);
    load_rows(piece, rows);
    fetch_blocks(piece, step);
    fetch_blocks(piece, next);
    while (step.keys > 0) {
      const PageStep last = step_at(next.begin + next.keys);
      fetch_grids(piece, last);
      for (int64_t r = 0; r < piece.rows;) {
        with_rows(piece.rows - r, [&](auto n) {
          take_in<n>(piece, rows, r, step, last);
          r += n;
        });
      }
      step = next;
      next = last;
    }
  }

  void fetch_tags(const PagesPiece& piece, const PageSpan& span) const {
    fetch_ahead(pages_.tags + block_index(piece, span) * 2);
  }

  void fetch_grids(const PagesPiece& piece, const PageStep& step) const {
    for (int i = 0; i < step.spans; ++i) {
      const int64_t block = block_index(piece, step.span[i]);
      fetch_bytes(pages_.key_grids + block * key_grids_, 2 * key_grids_);
      fetch_bytes(pages_.value_grids + block * value_grids_, 2 * value_grids_);
    }
  }

  // A piece's first; later ones are fetched while those before them are read.
  void fetch_blocks(const PagesPiece& piece, const PageStep& step) const {
    for (int side = 0; step.spans > 0 && side < 2; ++side) {
      const Block block = block_of(piece, step.span[0], side);
      const int64_t values = step.span[0].keys * (side ? pages_.dv : pages_.d);
      fetch_bytes(block.data, values * block.width / 8);
    }
  }

  static void fetch_bytes(const void* data, int64_t bytes) {
    const char* first = static_cast<const char*>(data);
    for (int64_t at = 0; at < bytes; at += kLineBytes) fetch_ahead(first + at);
  }

  // Keys of a step that row r sees, from its first on.
  Range visible_in(const Rows& rows, int64_t r, const PageStep& step) const {
    const Range keys = rows.visible[r];
    const int64_t begin = std::clamp<int64_t>(keys.begin - step.begin, 0, step.keys);
    return {begin, std::clamp<int64_t>(keys.end - step.begin, begin, step.keys)};
  }

  // One step of n rows.
  template <int n>
  void take_in(const PagesPiece& piece, const Rows& rows, int64_t r, const PageStep& step,
               const PageStep& next) const {
    Range all = {0, step.keys}, any = {step.keys, 0};  // keys that every row, that some row sees
    for (int i = 0; i < n; ++i) {
      const Range keys = visible_in(rows, r + i, step);
      all = {std::max(all.begin, keys.begin), std::min(all.end, keys.end)};
      if (keys.begin < keys.end) {
        any = {std::min(any.begin, keys.begin), std::max(any.end, keys.end)};
      }
    }
    if (any.begin >= any.end) return;
    for (int i = 0; i < step.spans; ++i) {
      const PageSpan& span = step.span[i];
      const Block keys = block_of(piece, span, 0);
      const int64_t ahead = ahead_of(piece, keys, next, i, 0);
      if (keys.width == 16) {
        score_half_span<n>(rows, r, keys.data, ahead, span);
      } else {
        score_coded_span<n>(piece, rows, r, keys, ahead, span);
      }
    }
    // A whole step, known to the compiler, is unrolled.
    if (step.keys == kStepKeys) {
      for (int i = 0; i < n; ++i) weigh(rows, r + i, i, step, kStepKeys);
    } else {
      for (int i = 0; i < n; ++i) weigh(rows, r + i, i, step, step.keys);
    }
    for (int i = 0; i < step.spans; ++i) {
      const PageSpan& span = step.span[i];
      const Block values = block_of(piece, span, 1);
      const int64_t ahead = ahead_of(piece, values, next, i, 1);
      if (values.width == 16) {
        sum_half_span<n>(rows, r, values.data, ahead, span, step, all);
      } else {
        sum_coded_span<n>(piece, rows, r, values, ahead, span);
      }
    }
  }

  int64_t block_index(const PagesPiece& piece, const PageSpan& span) const {
    return span.page * pages_.hk + piece.kv_head;
  }

  Block block_of(const PagesPiece& piece, const PageSpan& span, int side) const {
    const uint32_t tag = uint32_t(pages_.tags[block_index(piece, span) * 2 + side]);
    return {pages_.pool + int64_t{tag >> 2} * pages_.quantum_bytes, 2 << (tag & 3)};
  }

  // Bytes from a block to the one that takes its place in the next step, 0 where none does.
  int64_t ahead_of(const PagesPiece& piece, const Block& block, const PageStep& next, int span,
                   int side) const {
    return span < next.spans ? block_of(piece, next.span[span], side).data - block.data : 0;
  }

  template <int n>
  void score_half_span(const Rows& rows, int64_t r, const uint8_t* block, int64_t ahead,
                       const PageSpan& span) const {
    const bf16* k = reinterpret_cast<const bf16*>(block) + span.first * pages_.d;
    constexpr int tile = n == 3 ? kTileKeys<4> : kTileKeys<n>;
    for (int j = 0; j < span.keys; j += tile) {
      float* scores = rows.scores + span.at + j;
      if constexpr (kPairRows) {
        score_half<true, n>(rows.half + r * half_row_, half_row_, k + j * pages_.d, pages_.d, ahead,
                            inner_, scores, kStepKeys);
      } else {
        score_half<false, n>(rows.q + r * pages_.d, pages_.d, k + j * pages_.d, pages_.d, ahead,
                             1.0f, scores, kStepKeys);
      }
    }
  }

  template <int n>
  void score_coded_span(const PagesPiece& piece, const Rows& rows, int64_t r, const Block& block,
                        int64_t ahead, const PageSpan& span) const {
    const int64_t d = pages_.d, group = pages_.key_group;
    const CodedSpan coded{
        block.data,  as_bf16(pages_.key_grids) + block_index(piece, span) * key_grids_,
        pages_.page, ahead,
        span.first,  span.keys};
    float* scores = rows.scores + span.at;
    with_bits(block.width, [&](auto bits) {
      if (pages_.keys_per_channel) {
        score_channel_codes<Engine, bits, n>(coded, d, group, rows.q + r * d, rows.stepped,
                                             rows.coefficients, rows.coefficients_row, scores);
      } else {
        score_codes<Engine, bits, n>(coded, d, group, rows.words + r * rows.words_row,
                                     rows.words_row, rows.sums + r * key_groups_, scores);
      }
    });
  }

  template <int n>
  void sum_coded_span(const PagesPiece& piece, const Rows& rows, int64_t r, const Block& block,
                      int64_t ahead, const PageSpan& span) const {
    const CodedSpan coded{
        block.data,  as_bf16(pages_.value_grids) + block_index(piece, span) * value_grids_,
        pages_.page, ahead,
        span.first,  span.keys};
    with_bits(block.width, [&](auto bits) {
      sum_codes<Engine, bits, n>(coded, pages_.dv, pages_.value_group, rows.scores + span.at,
                                 rows.coefficients, rows.coefficients_row,
                                 rows.bases + r * value_groups_ * kLanes, rows.o + r * o_row_,
                                 o_row_);
    });
  }

  // Scores of a row become weights under its new maximum; earlier sums follow it.
  [[gnu::always_inline]] void weigh(const Rows& rows, int64_t r, int i, const PageStep& step,
                                    int keys) const {
    float* scores = rows.scores + i * kStepKeys;
    const Range visible = visible_in(rows, r, step);
    if (visible.begin >= visible.end) {
      std::memset(scores, 0, keys * sizeof(float));
      return;
    }
    if (p.softcap != 0) {
      for (int j = 0; j < keys; j += kLanes) {
        store(scores + j, tanh(load(scores + j)) * broadcast(p.softcap * kLog2E));
      }
    }
    if (visible.begin > 0 || visible.end < keys) {
      for (int j = 0; j < keys; j += kLanes) {
        const Ints key = kLaneIndex + j;
        const auto seen = (key >= int32_t(visible.begin)) & (key < int32_t(visible.end));
        store(scores + j, seen ? load(scores + j) : broadcast(-kInfinity));
      }
    }
    Floats largest = broadcast(-kInfinity);
    for (int j = 0; j < keys; j += kLanes) largest = max(load(scores + j), largest);
    const float before = rows.maximum[r], in_step = largest_of(largest);
    const float after = in_step > before ? in_step : before;
    // Nothing may be subtracted from -infinity but a number: 2^(-infinity - 0) is the 0 wanted.
    const float shift = after == -kInfinity ? 0.0f : after;
    if (after != before) {
      if (before != -kInfinity) rescale(rows, r, exp2_of(before - shift));
      rows.maximum[r] = after;
    }
    Floats sum = load(rows.sum + r * kLanes);
    for (int j = 0; j < keys; j += kLanes) {
      const Floats weight = exp2<kAccuracy>(load(scores + j) - broadcast(shift));
      store(scores + j, weight);
      sum += weight;
    }
    store(rows.sum + r * kLanes, sum);
  }

  void rescale(const Rows& rows, int64_t r, float factor) const {
    const auto multiply = [&](float* x, int64_t count) {
      for (int64_t c = 0; c < count; c += kLanes) store(x + c, load(x + c) * broadcast(factor));
    };
    multiply(rows.sum + r * kLanes, kLanes);
    multiply(rows.o + r * o_row_, o_row_);
    multiply(rows.o_half + r * o_row_, o_row_);
    multiply(rows.bases + r * value_groups_ * kLanes, value_groups_ * kLanes);
  }

  template <int n>
  void sum_half_span(const Rows& rows, int64_t r, const uint8_t* block, int64_t ahead,
                     const PageSpan& span, const PageStep& step, const Range& all) const {
    const bf16* v = reinterpret_cast<const bf16*>(block) + span.first * pages_.dv;
    const Half* weights;
    if constexpr (kPairRows) {
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < span.keys; j += kLanes) {
          const int at = i * kStepKeys + span.at + j;
          store_floats(rows.weights + at, load(rows.scores + at));
        }
      }
      weights = rows.weights;
    } else {
      weights = rows.scores;
    }
    const auto add = [&](auto count, int64_t i, int64_t begin, int64_t end) {
      begin = std::max<int64_t>(begin - span.at, 0);
      end = std::min<int64_t>(end - span.at, span.keys);
      sum_half_rows<kPairRows, count>(weights + i * kStepKeys + span.at + begin, kStepKeys,
                                      v + begin * pages_.dv, pages_.dv, end - begin, ahead,
                                      rows.o_half + (r + i) * o_row_, o_row_);
    };
    const Range shared = {all.begin, std::max(all.begin, all.end)};
    add(std::integral_constant<int, n>(), 0, shared.begin, shared.end);
    // Keys that some rows do not see may hold anything: each row takes its own.
    for (int i = 0; i < n; ++i) {
      const Range keys = visible_in(rows, r + i, step);
      constexpr std::integral_constant<int, 1> one;
      if (keys.begin < shared.begin) {
        add(one, i, keys.begin, std::min(shared.begin, keys.end));
      }
      if (keys.end > shared.end) add(one, i, std::max(shared.end, keys.begin), keys.end);
    }
  }

  // All that a row has summed, in rows.o.
  float* collect(const Rows& rows, int64_t r) const {
    float *o = rows.o + r * o_row_, *half = rows.o_half + r * o_row_;
    if constexpr (kPairRows) restore_order<bf16>(half, o_row_);
    for (int64_t g = 0; g < value_groups_; ++g) {
      const float base = sum_of(load(rows.bases + (r * value_groups_ + g) * kLanes));
      const int64_t first = g * pages_.value_group;
      for (int64_t c = first; c < first + pages_.value_group; c += kLanes) {
        store(o + c, load(o + c) + (load(half + c) + broadcast(base)));
      }
    }
    return o;
  }

  void write(const PagesPiece& piece, int64_t r, float maximum, float sum,
             const float* sums) const {
    const int64_t i = (piece.row + r) / group_, head = head_of(piece, r);
    const Range keys = Visible::of(p.mask, p.s, p.lengths[piece.sequence]).keys(i);
    const bool empty = keys.begin >= keys.end;
    const float factor = empty ? 0.0f : 1.0f / sum;
    T* o = row<T>(p.o, piece.sequence, i, head);
    for (int64_t c = 0; c < pages_.dv; c += kLanes) {
      store_floats(o + c, load(sums + c) * broadcast(factor));
    }
    if (p.lse) {
      // An infinite score makes the sum NaN, but its logarithm's limit is known.
      p.lse[(piece.sequence * p.h + head) * p.s + i] = empty ? -kInfinity
                                                       : maximum == kInfinity
                                                           ? maximum
                                                           : (maximum + std::log2(sum)) * kLn2;
    }
  }

  float* partial(int64_t index) const { return partials_ + index * partial_row(); }

  // The pieces of a group, in the order of their keys.
  void merge(const PagesGroup& group) const {
    const PagesPiece& piece = plan_.pieces[group.first_piece];
    const int64_t dv = pages_.dv;
    for (int64_t r = 0; r < piece.rows; ++r) {
      float maximum = -kInfinity, total = 0;
      for (int64_t i = 0; i < group.pieces; ++i) {
        const float other = partial(group.partial + i * piece.rows + r)[dv];
        maximum = other > maximum ? other : maximum;
      }
      const float shift = maximum == -kInfinity ? 0.0f : maximum;
      float* sums = partial(group.partial + r);
      for (int64_t i = 0; i < group.pieces; ++i) {
        const float* part = partial(group.partial + i * piece.rows + r);
        const float weight = exp2_of(part[dv] - shift);
        total += weight * part[dv + 1];
        for (int64_t c = 0; c < dv; c += kLanes) {
          const Floats scaled = load(part + c) * broadcast(weight);
          store(sums + c, i == 0 ? scaled : load(sums + c) + scaled);
        }
      }
      write(piece, r, maximum, total, sums);
    }
  }

  static constexpr Exp2 kAccuracy = kFloats<Engine> ? Exp2::kFull : Exp2::kPair;

  static Ints lane_index() {
    Ints lanes = {};
    for (int n = 0; n < kLanes; ++n) lanes[n] = n;
    return lanes;
  }
  const Ints kLaneIndex = lane_index();

  const wl_attention_pages_params& p;
  const wl_kv_pages& pages_;
  const int64_t group_;
  const int64_t half_row_, o_row_;  // elements from one row to the next
  const int64_t key_groups_, value_groups_;
  const int64_t key_grids_, value_grids_;  // numbers that belong to a block
  const float inner_;                      // of scores, before a soft cap or an exponent of two
  const PagesPlan plan_;
  float* partials_ = nullptr;
};

template <class T, class Engine>
wl_status attend(const wl_attention_pages_params& params, int threads) {
  return PagesAttention<T, Engine>(params).run(threads);
}

}  // namespace

template <class T>
wl_status pages(const wl_attention_pages_params& params) try {
  using Exact = std::conditional_t<std::is_same_v<T, float>, FloatCodes, ExactCodes>;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(params.exec.threads, &threads));
  if (params.b * params.s * params.h == 0) return WL_OK;
  if (params.precision == WL_PRECISION_FAST) return attend<T, FastCodes>(params, threads);
  return attend<T, Exact>(params, threads);
} catch (const std::bad_alloc&) {
  return fail(WL_MEMORY, "no memory for the list of pieces");
}

}  // namespace warploom::attention

WL_INSTANTIATE(pages, wl_attention_pages_params)
