// Forward attention with transposed products: S^T = K Q^T, then O^T = V^T P^T, lanes are queries.
//
// A piece of work is a block of query rows of one key/value head; the rows of its query heads are
// folded into one list, position by position, so that a group shares packed keys and values. Per
// block of keys: pack them, then for every strip of rows multiply, take the softmax, multiply.
//
// Floors. Both products: 2 (d + dv) operations a pair, at the rate of the processor's multiply-adds
// (`f32_fma` or `bf16_dot`). Memory: a block of keys is read once per 512 rows, 1024 operations a
// float read, so that bandwidth never binds. What is left above the floors: the softmax, which does
// not shrink with d, and packing. `warploom perf attention --cases 'forward_*'` measures the rates
// and the loop beside each other, at d = 128 and 64.
#include <cmath>
#include <new>
#include <vector>

#include "attention/cpu.h"
#include "attention/cpu_prefill_plan.h"
#include "attention/cpu_softmax.h"
#include "attention/cpu_view.h"
#include "base/scratch.h"

namespace warploom::attention {
namespace {

template <class T>
class Prefill {
  using Word = WordOf<T>;
  static constexpr int64_t kRowsPerWord = kPerWord<Word>;

 public:
  // rows and keys: the most that a piece's block has.
  Prefill(const wl_attention_forward_params& params, int64_t rows, int64_t keys)
      : params_(params),
        p_(params.problem),
        group_(p_.hk ? p_.h / p_.hk : 1),
        rows_(rows),
        keys_(keys),
        depth_(words<Word>(p_.d)) {
    // Only a positive factor can be left to the softmax: it must keep -infinity and the order.
    factor_ = p_.softcap == 0 && p_.scale > 0 ? p_.scale * kLog2E : 1.0f;
  }

  size_t scratch_bytes() const { return Buffers(nullptr, *this).bytes; }

  void run(const Piece& piece, int64_t kv_head, char* scratch) const {
    const Buffers buffers(scratch, *this);
    const Sequence sequence = Sequence::of(p_, piece.sequence);
    const Visible visible = Visible::of(p_.mask, sequence.sq, sequence.sk);
    const Block block{piece, kv_head, sequence, visible};
    const int64_t strips = (piece.rows + kStrip - 1) / kStrip;
    const Range all = positions(block, 0, piece.rows, &Visible::any_keys);
    const int64_t step = even_step(all.end - all.begin, keys_, PrefillPlan::kKeysUnit);
    for (int64_t i = 0; i < strips; ++i) {
      prefetch_keys(block, {all.begin, std::min(all.begin + step, all.end)}, i, strips);
      load_queries(block, strip_of(block, i), buffers);
    }
    for (int64_t first = all.begin; first < all.end; first += step) {
      const Range keys{first, std::min(first + step, all.end)};
      const int64_t holes = load_keys(block, keys, buffers);
      const Range next{keys.end, std::min(keys.end + step, all.end)};
      for (int64_t i = 0; i < strips; ++i) {
        prefetch_keys(block, next, i, strips);
        const Strip strip = strip_of(block, i);
        if (strip.rows > kLanes) {
          attend<2>(block, strip, keys, holes, buffers);
        } else {
          attend<1>(block, strip, keys, holes, buffers);
        }
      }
    }
    for (int64_t i = 0; i < strips; ++i) write(block, strip_of(block, i), buffers);
  }

 private:
  struct Block {
    const Piece& piece;
    int64_t kv_head;
    Sequence sequence;
    Visible visible;
  };

  struct Strip {
    int64_t index, first;  // among the piece's strips; first row of the folded list
    int rows;
  };

  struct Buffers {
    Buffers(char* block, const Prefill& it) {
      Parts parts(block);
      const int64_t rows = (it.rows_ + kStrip - 1) / kStrip * kStrip;
      q = parts.take<Word>(rows * it.depth_);
      k = parts.take<Word>(it.keys_ * it.depth_);
      v = parts.take<Word>(words<Word>(it.keys_) * it.p_.dv);
      s = parts.take<float>(it.keys_ * kStrip);
      p = std::is_same_v<Word, float> ? reinterpret_cast<Word*>(s)
                                      : parts.take<Word>(words<Word>(it.keys_) * kStrip);
      o = parts.take<float>(rows * it.p_.dv);
      softmax = parts.take<RunningSoftmax>(rows / kStrip);
      started = parts.take<bool>(rows / kStrip);
      holes = parts.take<int32_t>(it.keys_);
      bytes = parts.used();
    }
    Word *q, *k, *v;  // [strip][depth][kStrip], [key][depth], [key word][dv]
    float* s;         // [key][kStrip]
    Word* p;          // [key word][kStrip]
    float* o;         // [strip][dv][kStrip]
    RunningSoftmax* softmax;
    bool* started;   // whether the strip's o holds anything
    int32_t* holes;  // keys of the block whose values are not all finite
    size_t bytes;
  };

  Strip strip_of(const Block& block, int64_t i) const {
    return {i, block.piece.first + i * kStrip,
            int(std::min<int64_t>(kStrip, block.piece.rows - i * kStrip))};
  }

  int64_t position(int64_t row) const { return row / group_; }
  int64_t head(const Block& block, int64_t row) const {
    return block.kv_head * group_ + row % group_;
  }

  // any_keys or all_keys of the piece's rows [first, last).
  template <class Keys>
  Range positions(const Block& block, int64_t first, int64_t last, Keys keys) const {
    return (block.visible.*keys)(position(block.piece.first + first),
                                 position(block.piece.first + last - 1) + 1);
  }

  void load_queries(const Block& block, const Strip& strip, const Buffers& buffers) const {
    const T* rows[kStrip];
    for (int n = 0; n < strip.rows; ++n) {
      const int64_t r = strip.first + n;
      rows[n] = row<const T>(params_.q, block.sequence.batch, block.sequence.first_q + position(r),
                             head(block, r));
    }
    pack_lanes(rows, strip.rows, p_.d, buffers.q + strip.index * depth_ * kStrip);
    buffers.softmax[strip.index].reset();
    buffers.started[strip.index] = false;
  }

  // Packs the keys and values. Values that are not finite become zero where some row may not see
  // them, since 0 * NaN would show; attend() adds them for the rows that do. Returns how many keys
  // have any.
  int64_t load_keys(const Block& block, Range keys, const Buffers& buffers) const {
    const int64_t first = block.sequence.first_k + keys.begin, count = keys.end - keys.begin;
    const T* k = row<const T>(params_.k, block.sequence.batch, first, block.kv_head);
    const T* v = row<const T>(params_.v, block.sequence.batch, first, block.kv_head);
    pack_rows(k, params_.k.stride[1], count, p_.d, buffers.k);
    pack_depth(v, params_.v.stride[1], count, p_.dv, p_.dv, buffers.v);
    const Range all = positions(block, 0, block.piece.rows, &Visible::all_keys);
    if (all.begin <= keys.begin && keys.end <= all.end) return 0;
    if (all_finite(v, params_.v.stride[1], count, p_.dv)) return 0;
    int64_t holes = 0;
    for (int64_t j = 0; j < count; ++j) {
      if (all_finite(v + j * params_.v.stride[1], 0, 1, p_.dv)) continue;
      buffers.holes[holes++] = int32_t(j);
      clear_depth_row(j, p_.dv, buffers.v);
    }
    return holes;
  }

  // Asks for one strip's share of the next block's keys and values. Packing waits for memory
  // otherwise: rows are short, and far apart.
  void prefetch_keys(const Block& block, Range keys, int64_t strip, int64_t strips) const {
    const int64_t count = std::max<int64_t>(keys.end - keys.begin, 0);
    const int64_t first = block.sequence.first_k + keys.begin;
    for (int64_t j = first + count * strip / strips; j < first + count * (strip + 1) / strips;
         ++j) {
      prefetch(row<const T>(params_.k, block.sequence.batch, j, block.kv_head), p_.d * sizeof(T));
      prefetch(row<const T>(params_.v, block.sequence.batch, j, block.kv_head), p_.dv * sizeof(T));
    }
  }

  static void prefetch(const void* from, int64_t bytes) {
    const char* at = static_cast<const char*>(from);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);  // into L2
  }

  template <int vectors>
  void attend(const Block& block, const Strip& strip, Range block_keys, int64_t holes,
              const Buffers& buffers) const {
    const int64_t first_row = strip.first - block.piece.first, last_row = first_row + strip.rows;
    const Range any = positions(block, first_row, last_row, &Visible::any_keys);
    Range keys{std::max(any.begin, block_keys.begin), std::min(any.end, block_keys.end)};
    if (keys.begin >= keys.end) return;
    keys.begin -= (keys.begin - block_keys.begin) % kRowsPerWord;
    const int64_t at = keys.begin - block_keys.begin, count = keys.end - keys.begin;

    gemm_strip<vectors>(count, depth_, buffers.k + at * depth_, depth_, 1,
                        buffers.q + strip.index * depth_ * kStrip, kStrip, buffers.s, kStrip,
                        nullptr);
    if (p_.softcap != 0) {
      cap_scores(buffers.s, count, p_.scale / p_.softcap, p_.softcap * kLog2E);
    } else if (!(p_.scale > 0)) {
      scale_scores(buffers.s, count, p_.scale * kLog2E);
    }
    int32_t begin[kStrip], end[kStrip];
    const Range all = positions(block, first_row, last_row, &Visible::all_keys);
    const bool partial = keys.begin < all.begin || all.end < keys.end;
    if (partial) {
      for (int n = 0; n < kStrip; ++n) {
        const Range seen = block.visible.keys(position(strip.first + std::min(n, strip.rows - 1)));
        begin[n] = int32_t(std::clamp<int64_t>(seen.begin - keys.begin, 0, count));
        end[n] = int32_t(std::clamp<int64_t>(seen.end - keys.begin, 0, count));
      }
      const int64_t full_begin = std::clamp<int64_t>(all.begin - keys.begin, 0, count);
      const int64_t full_end = std::clamp<int64_t>(all.end - keys.begin, full_begin, count);
      hide_scores(buffers.s, {0, full_begin}, begin, end);
      hide_scores(buffers.s, {full_end, count}, begin, end);
    }
    float rescale[kStrip];
    update_softmax<vectors>(buffers.s, count, factor_, buffers.softmax[strip.index], buffers.p,
                            rescale);
    float* o = buffers.o + strip.index * p_.dv * kStrip;
    gemm_strip<vectors>(p_.dv, words<Word>(count), buffers.v + at / kRowsPerWord * p_.dv, 1, p_.dv,
                        buffers.p, kStrip, o, kStrip,
                        buffers.started[strip.index] ? rescale : nullptr);
    buffers.started[strip.index] = true;
    for (int64_t i = 0; i < holes; ++i) {
      const int64_t j = buffers.holes[i] - at;
      if (j < 0 || j >= count) continue;
      const T* v = row<const T>(params_.v, block.sequence.batch,
                                block.sequence.first_k + keys.begin + j, block.kv_head);
      for (int n = 0; n < strip.rows; ++n) {
        if (partial && (j < begin[n] || j >= end[n])) continue;
        const float weight = weight_at(buffers.p, j, n);
        for (int64_t c = 0; c < p_.dv; ++c) o[c * kStrip + n] += weight * to_float(v[c]);
      }
    }
  }

  static float weight_at(const Word* p, int64_t key, int lane) {
    const Word word = p[key / kRowsPerWord * kStrip + lane];
    if constexpr (std::is_same_v<Word, float>) {
      return word;
    } else {
      return to_float(bf16{uint16_t(uint32_t(word) >> (key % 2 * 16))});
    }
  }

  void write(const Block& block, const Strip& strip, const Buffers& buffers) const {
    const RunningSoftmax& softmax = buffers.softmax[strip.index];
    float* o = buffers.o + strip.index * p_.dv * kStrip;
    if (!buffers.started[strip.index]) std::fill_n(o, p_.dv * kStrip, 0.0f);
    T* rows[kStrip];
    float inverse[kStrip] = {};
    for (int n = 0; n < strip.rows; ++n) {
      const int64_t r = strip.first + n, i = position(r);
      rows[n] = row<T>(params_.o, block.sequence.batch, block.sequence.first_q + i, head(block, r));
      const Range seen = block.visible.keys(i);
      const bool empty = seen.begin >= seen.end;
      if (!empty) inverse[n] = 1.0f / softmax.sum[n];
      if (params_.lse) {
        // An infinite score makes the sum NaN, but its logarithm's limit is known.
        const float m = softmax.maximum[n];
        params_.lse[block.sequence.lse_index(p_, head(block, r), i)] =
            empty            ? -kInfinity
            : m == kInfinity ? m
                             : m * kLn2 + std::log(softmax.sum[n]);
      }
    }
    for (int64_t c = 0; c < p_.dv; ++c) {
      for (int n = 0; n < kStrip; n += kLanes) {
        store(o + c * kStrip + n, load(o + c * kStrip + n) * load(inverse + n));
      }
    }
    unpack_lanes(o, p_.dv, strip.rows, rows);
  }

  const wl_attention_forward_params& params_;
  const wl_attention_problem& p_;
  int64_t group_, rows_, keys_, depth_;
  float factor_;
};

}  // namespace

template <class T>
wl_status prefill(const wl_attention_forward_params& params) try {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(params.exec.threads, &threads));
  const PrefillPlan plan = PrefillPlan::of(params.problem, kStrip);
  threads = int(std::clamp<int64_t>(plan.most_threads, 1, threads));
  const Prefill<T> loop(params, plan.rows, plan.keys);
  const size_t bytes = loop.scratch_bytes();
  char* scratch = thread_scratch(bytes * threads);
  if (!scratch) return fail(WL_MEMORY, "no memory for %zu bytes of scratch", bytes * threads);
  parallel_for(threads, int64_t(plan.pieces.size()) * params.problem.hk,
               [&](int64_t index, int thread) {
                 loop.run(plan.pieces[index / params.problem.hk], index % params.problem.hk,
                          scratch + thread * bytes);
               });
  return WL_OK;
} catch (const std::bad_alloc&) {
  return fail(WL_MEMORY, "no memory for the list of pieces");
}

}  // namespace warploom::attention

WL_INSTANTIATE(prefill, wl_attention_forward_params)
