// One tile of the backward: a block of queries of one head by a block of keys.
//
//   S^T = K Q^T    dP^T = V dO^T    P = exp(S - lse)    dS = P (dP - delta)
//   dV += P^T dO   dK += dS^T Q     dQ^T += K^T dS^T
//
// Lanes are queries in S, dP and dQ, so nothing is summed across a vector and P^T and dS^T are A
// operands as they come; in dV and dK lanes are columns. Words of P and dS run along queries. dQ
// wants them along keys: where words are pairs, dS is stored a second time, strip by strip.
#pragma once

#include <array>
#include <type_traits>

#include "attention/cpu_backward_plan.h"
#include "attention/cpu_softmax.h"
#include "base/scratch.h"

namespace warploom::attention {

template <class T>
class BackwardTile {
  using Word = WordOf<T>;
  static constexpr bool kPairs = std::is_same_v<Word, Pair>;
  using Element = std::conditional_t<kPairs, bf16, float>;

 public:
  static constexpr int64_t kQueries = 128, kKeys = 256;  // of a block; see cpu_backward.cc

  // Rows of a block with NaN or infinity. Where the mask hides pairs they must not be summed over:
  // a hidden pair's weight is 0, but 0 * NaN would show. So they are zero in k_depth, q_depth and
  // grad_depth, and what they add where they are visible is added pair by pair.
  struct Holes {
    int32_t* at;
    int64_t count;
  };

  // A block's operands, packed, and where they lie.
  struct Keys {
    Word *k_rows, *v_rows;  // [key][words of d or dv]
    Word* k_depth;          // [key word][k_width]
    Range range;            // of the sequence
    const T* k;             // the range's first row
    Holes holes;
  };
  struct Queries {
    Word *q_lanes, *grad_lanes;  // [strip][words of d or dv][kStrip]
    Word *q_depth, *grad_depth;  // [strip of columns][query word][kStrip]
    float *minus_lse, *delta;    // [query]; zero from the last query to the end of its strip
    Range range;
    const T *q, *grad;
    Holes holes;
  };
  // What it adds to: the gradients of the block's rows.
  struct Sums {
    float *dk, *dv;  // [key][columns(d or dv)]
    float* dq;       // [strip][d][kStrip]
  };

  static int64_t columns(int64_t d) { return round_up(d, kLanes); }

  BackwardTile(const wl_attention_backward_params& params, Parts& parts)
      : params_(params),
        p_(params.problem),
        d_words_(words<Word>(p_.d)),
        dv_words_(words<Word>(p_.dv)),
        k_width_(spread(p_.d)) {
    const int64_t keys = std::min(round_up(p_.sk, 2), kKeys);
    weights_ = parts.take<Word>(keys * kRow);
    slopes_ = parts.take<Word>(keys * kRow);
    slope_strip_ = parts.take<Word>(kPairs ? words<Word>(keys) * kStrip : 0);
    o_strip_ = parts.take<Word>(dv_words_ * kStrip);
    s_ = parts.take<float>(keys * kStrip);
    dp_ = parts.take<float>(keys * kStrip);
  }

  Keys take_keys(Parts& parts) const {
    const int64_t keys = std::min(p_.sk, kKeys);
    Keys block{};
    block.k_rows = parts.take<Word>(keys * d_words_);
    block.v_rows = parts.take<Word>(keys * dv_words_);
    block.k_depth = parts.take<Word>(words<Word>(keys) * k_width_);
    block.holes.at = parts.take<int32_t>(keys);
    return block;
  }

  Queries take_queries(Parts& parts) const {
    const int64_t queries = std::min(round_up(p_.sq, kStrip), kQueries);
    Queries block{};
    block.q_lanes = parts.take<Word>(queries * d_words_);
    block.grad_lanes = parts.take<Word>(queries * dv_words_);
    block.q_depth = parts.take<Word>(words<Word>(queries) * round_up(p_.d, kStrip));
    block.grad_depth = parts.take<Word>(words<Word>(queries) * round_up(p_.dv, kStrip));
    block.minus_lse = parts.take<float>(queries);
    block.delta = parts.take<float>(queries);
    block.holes.at = parts.take<int32_t>(queries);
    return block;
  }

  void pack(const Sequence& sequence, int64_t kv_head, Range range, Keys& block) const {
    const int64_t count = range.end - range.begin, first = sequence.first_k + range.begin;
    const T* v = row<const T>(params_.v, sequence.batch, first, kv_head);
    block.range = range;
    block.k = row<const T>(params_.k, sequence.batch, first, kv_head);
    pack_rows(block.k, params_.k.stride[1], count, p_.d, block.k_rows);
    pack_rows(v, params_.v.stride[1], count, p_.dv, block.v_rows);
    pack_depth(block.k, params_.k.stride[1], count, p_.d, k_width_, block.k_depth);
    find_holes(count, block.holes, [&](int64_t j, int64_t n) {
      return all_finite(block.k + j * params_.k.stride[1], params_.k.stride[1], n, p_.d);
    });
    for (int64_t i = 0; i < block.holes.count; ++i) {
      clear_depth_row(block.holes.at[i], k_width_, block.k_depth);
    }
  }

  void pack(const Sequence& sequence, int64_t head, Range range, Queries& block) const {
    const int64_t count = range.end - range.begin, first = sequence.first_q + range.begin;
    const int64_t q_stride = params_.q.stride[1], grad_stride = params_.grad_o.stride[1];
    block.range = range;
    block.q = row<const T>(params_.q, sequence.batch, first, head);
    block.grad = row<const T>(params_.grad_o, sequence.batch, first, head);
    pack_strips(block.q, q_stride, count, p_.d, block.q_lanes);
    pack_strips(block.grad, grad_stride, count, p_.dv, block.grad_lanes);
    pack_columns(block.q, q_stride, count, p_.d, block.q_depth);
    pack_columns(block.grad, grad_stride, count, p_.dv, block.grad_depth);
    find_holes(count, block.holes, [&](int64_t i, int64_t n) {
      return all_finite(block.q + i * q_stride, q_stride, n, p_.d) &&
             all_finite(block.grad + i * grad_stride, grad_stride, n, p_.dv);
    });
    for (int64_t n = 0; n < block.holes.count; ++n) {
      clear_columns(block.holes.at[n], count, p_.d, block.q_depth);
      clear_columns(block.holes.at[n], count, p_.dv, block.grad_depth);
    }
    sum_products(row<const T>(params_.o, sequence.batch, first, head), count, block);
    const int64_t lse = sequence.lse_index(p_, head, range.begin);
    for (int64_t i = 0; i < count; ++i) {
      block.minus_lse[i] = -params_.lse[lse + i];
      if (params_.grad_lse) block.delta[i] -= params_.grad_lse[lse + i];
    }
    for (int64_t i = count; i % kStrip != 0; ++i) block.minus_lse[i] = 0;
  }

  void add(const Visible& visible, const Keys& keys, const Queries& queries,
           const Sums& sums) const {
    const Range rows = intersect(visible.any_rows(keys.range.begin, keys.range.end), queries.range);
    if (rows.begin >= rows.end) return;
    const int64_t begin = (rows.begin - queries.range.begin) / kStrip * kStrip;
    const int64_t end = rows.end - queries.range.begin;
    for (int64_t first = begin; first < end; first += kStrip) {
      const Range seen = add_scores(visible, keys, queries, first);
      if (seen.begin >= seen.end) continue;
      const Word* strip =
          kPairs ? slope_strip_ : slopes_ + seen.begin * kRow + first / kPerWord<Word>;
      gemm_strip(p_.d, words<Word>(seen.end - seen.begin),
                 keys.k_depth + seen.begin / kPerWord<Word> * k_width_, 1, k_width_, strip,
                 kPairs ? kStrip : kRow, sums.dq + first * p_.d, kStrip, kOnes);
    }
    const int64_t count = keys.range.end - keys.range.begin;
    const int64_t words_of_strip = words<Word>(queries.range.end - queries.range.begin) * kStrip;
    add_rows(count, {begin, end}, words_of_strip, weights_, queries.grad_depth, p_.dv, sums.dv);
    add_rows(count, {begin, end}, words_of_strip, slopes_, queries.q_depth, p_.d, sums.dk);
    for (int64_t n = 0; n < keys.holes.count; ++n) {
      add_key_hole(visible, keys, keys.holes.at[n], queries, sums);
    }
    for (int64_t n = 0; n < queries.holes.count; ++n) {
      add_query_hole(visible, keys, queries, queries.holes.at[n], sums);
    }
  }

 private:
  // Rows of P and dS are read across, one cache line of each: an odd number of lines apart they
  // spread over all sets of the cache. So do rows of k_depth.
  static constexpr int64_t kLine = 16;
  static constexpr int64_t kRow = kQueries / kPerWord<Word> + kLine;
  static int64_t spread(int64_t width) { return (ceil_div(width, kLine) | 1) * kLine; }

  // gemm_strip's "add to what is there".
  static constexpr std::array<float, kStrip> kOnesArray = [] {
    std::array<float, kStrip> ones{};
    ones.fill(1);
    return ones;
  }();
  static constexpr const float* kOnes = kOnesArray.data();

  static void pack_strips(const T* from, int64_t stride, int64_t count, int64_t d, Word* to) {
    for (int64_t first = 0; first < count; first += kStrip, to += words<Word>(d) * kStrip) {
      const int rows = int(std::min<int64_t>(kStrip, count - first));
      const T* at[kStrip];
      for (int i = 0; i < rows; ++i) at[i] = from + (first + i) * stride;
      pack_lanes(at, rows, d, to);
    }
  }

  static void pack_columns(const T* from, int64_t stride, int64_t count, int64_t d, Word* to) {
    for (int64_t c = 0; c < d; c += kStrip, to += words<Word>(count) * kStrip) {
      pack_depth(from + c, stride, count, d - c, kStrip, to);
    }
  }

  static void clear_columns(int64_t r, int64_t count, int64_t d, Word* packed) {
    for (int64_t c = 0; c < d; c += kStrip, packed += words<Word>(count) * kStrip) {
      clear_depth_row(r, kStrip, packed);
    }
  }

  // finite(first, n) says whether n rows from the first on are.
  template <class Finite>
  void find_holes(int64_t count, Holes& holes, const Finite& finite) const {
    holes.count = 0;
    if (p_.mask.kind == WL_MASK_FULL || finite(0, count)) return;
    for (int64_t r = 0; r < count; ++r) {
      if (!finite(r, 1)) holes.at[holes.count++] = int32_t(r);
    }
  }

  // delta = <o, grad_o>, in the very order in which multiply() sums dP: of a query that sees one
  // key alone, or nearly so, the rounding errors of both cancel as the terms do.
  void sum_products(const T* o, int64_t count, Queries& block) const {
    for (int64_t first = 0; first < count; first += kStrip) {
      pack_strips(o + first * params_.o.stride[1], params_.o.stride[1],
                  std::min<int64_t>(kStrip, count - first), p_.dv, o_strip_);
      const Word* grad = block.grad_lanes + first * dv_words_;
      for (int n = 0; n < kStrip; n += kLanes) {
        Floats total = broadcast(0.0f);
        for (int64_t k = 0; k < dv_words_; k += kMostDepth) {
          Floats sum = broadcast(0.0f);
          for (int64_t i = k; i < std::min(k + kMostDepth, dv_words_); ++i) {
            sum = multiply_add(load(o_strip_ + i * kStrip + n), load(grad + i * kStrip + n), sum);
          }
          total += sum;
        }
        store(block.delta + first + n, total);
      }
    }
  }

  static Element* element(Word* rows, int64_t key, int64_t query) {
    return reinterpret_cast<Element*>(rows + key * kRow) + query;
  }

  // Words that are added in one go: what rounding a longer sum costs shows against a matrix
  // library's.
  static constexpr int64_t kMostDepth = 128;

  // c = rows of a by one strip of b, both `depth` words deep.
  static void multiply(int64_t rows, int64_t depth, const Word* a, const Word* b, float* c) {
    for (int64_t k = 0; k < depth || k == 0; k += kMostDepth) {
      gemm_strip(rows, std::min(depth - k, kMostDepth), a + k, depth, 1, b + k * kStrip, kStrip, c,
                 kStrip, k == 0 ? nullptr : kOnes);
    }
  }

  // P and dS of the strip of queries from `first` on. Returns the keys of the block that they see;
  // the other keys' are zero.
  Range add_scores(const Visible& visible, const Keys& keys, const Queries& queries,
                   int64_t first) const {
    const int64_t count = keys.range.end - keys.range.begin;
    const Range strip{queries.range.begin + first,
                      std::min(queries.range.begin + first + kStrip, queries.range.end)};
    const Range any = intersect(visible.any_keys(strip.begin, strip.end), keys.range);
    const Range all = visible.all_keys(strip.begin, strip.end);
    Range seen{any.begin - keys.range.begin, any.end - keys.range.begin};
    if (seen.begin >= seen.end) seen = {0, 0};
    seen.begin -= seen.begin % kPerWord<Word>;
    clear(first, {0, seen.begin});
    clear(first, {seen.end, count});
    if (seen.begin >= seen.end) return seen;
    const int64_t rows = seen.end - seen.begin;
    multiply(rows, d_words_, keys.k_rows + seen.begin * d_words_,
             queries.q_lanes + first * d_words_, s_);
    multiply(rows, dv_words_, keys.v_rows + seen.begin * dv_words_,
             queries.grad_lanes + first * dv_words_, dp_);
    const bool partial = keys.range.begin + seen.begin < all.begin || all.end < any.end ||
                         strip.end - strip.begin < kStrip;
    const auto run = [&](auto capped, auto hiding) {
      store_slopes<capped, hiding>(visible, keys.range.begin, seen, strip, queries, first);
    };
    if (p_.softcap == 0) {
      partial ? run(std::false_type(), std::true_type())
              : run(std::false_type(), std::false_type());
    } else {
      partial ? run(std::true_type(), std::true_type()) : run(std::true_type(), std::false_type());
    }
    return seen;
  }

  void clear(int64_t first, Range keys) const {
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      std::memset(element(weights_, j, first), 0, kStrip * sizeof(Element));
      std::memset(element(slopes_, j, first), 0, kStrip * sizeof(Element));
    }
  }

  // From S and dP of the keys `seen` to P and dS. hiding: some pairs may be hidden.
  template <bool capped, bool hiding>
  void store_slopes(const Visible& visible, int64_t first_key, Range seen, Range strip,
                    const Queries& queries, int64_t first) const {
    constexpr int kVectors = kStrip / kLanes;
    const Floats scale = broadcast(capped ? p_.scale / p_.softcap : p_.scale);
    const Floats cap = broadcast(p_.softcap), log2_e = broadcast(kLog2E), one = broadcast(1.0f);
    Floats minus_lse[kVectors], delta[kVectors];
    for (int n = 0; n < kVectors; ++n) {
      minus_lse[n] = load(queries.minus_lse + first + n * kLanes);
      delta[n] = load(queries.delta + first + n * kLanes);
    }
    // Key j: stores its weights and slopes, leaves the latter in `slopes` too.
    const auto key = [&](int64_t j, Floats* slopes) {
      int32_t begin = 0, end = kStrip;
      if constexpr (hiding) {
        const Range rows = intersect(visible.rows(first_key + j), strip);
        begin = int32_t(std::min<int64_t>(rows.begin - strip.begin, kStrip));
        end = int32_t(std::max<int64_t>(rows.end - strip.begin, 0));
      }
#pragma GCC unroll 2
      for (int n = 0; n < kVectors; ++n) {
        const int64_t at = (j - seen.begin) * kStrip + n * kLanes;
        Floats score, slope = load(dp_ + at) - delta[n];
        if constexpr (capped) {
          const Floats t = tanh(load(s_ + at) * scale);
          score = multiply_add(t, cap, minus_lse[n]);
          slope *= one - t * t;
        } else {
          score = multiply_add(load(s_ + at), scale, minus_lse[n]);
        }
        Floats weight = exp2<kPairs ? Exp2::kPair : Exp2::kFull>(score * log2_e);
        slope *= weight;
        if constexpr (hiding) {
          const Ints lane = lanes() + int32_t(n * kLanes);
          const Words visible_lanes = Words((lane >= begin) & (lane < end));
          weight = from_bits(bits(weight) & visible_lanes);
          slope = from_bits(bits(slope) & visible_lanes);
        }
        store_floats(element(weights_, j, first + n * kLanes), weight);
        store_floats(element(slopes_, j, first + n * kLanes), slope);
        slopes[n] = slope;
      }
    };
    for (int64_t j = seen.begin; j < seen.end; j += 2) {
      Floats even[kVectors], odd[kVectors] = {};
      key(j, even);
      if (j + 1 < seen.end) key(j + 1, odd);
      if constexpr (kPairs) {
        for (int n = 0; n < kVectors; ++n) {
          store(slope_strip_ + (j - seen.begin) / 2 * kStrip + n * kLanes,
                pair_up(even[n], odd[n]));
        }
      }
    }
  }

  static Ints lanes() {
    Ints lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    return lane;
  }

  // c[key][column] += sum over the queries [begin, end) of a[key][query] * b[query][column], b from
  // pack_columns.
  static void add_rows(int64_t keys, Range queries, int64_t strip_words, const Word* a,
                       const Word* b, int64_t d, float* c) {
    const int64_t first = queries.begin / kPerWord<Word>;
    const int64_t depth = words<Word>(queries.end - queries.begin);
    for (int64_t column = 0; column < d; column += kStrip, b += strip_words) {
      const Word* from = b + first * kStrip;
      float* to = c + column;
      if (d - column > kLanes) {
        gemm_strip<2>(keys, depth, a + first, kRow, 1, from, kStrip, to, columns(d), kOnes);
      } else {
        gemm_strip<1>(keys, depth, a + first, kRow, 1, from, kStrip, to, columns(d), kOnes);
      }
    }
  }

  void add_key_hole(const Visible& visible, const Keys& keys, int64_t j, const Queries& queries,
                    const Sums& sums) const {
    const T* k = keys.k + j * params_.k.stride[1];
    const Range rows = intersect(visible.rows(keys.range.begin + j), queries.range);
    for (int64_t i = rows.begin - queries.range.begin; i < rows.end - queries.range.begin; ++i) {
      const float slope = to_float(*element(slopes_, j, i));
      float* dq = sums.dq + i / kStrip * kStrip * p_.d + i % kStrip;
      for (int64_t c = 0; c < p_.d; ++c) dq[c * kStrip] += slope * to_float(k[c]);
    }
  }

  void add_query_hole(const Visible& visible, const Keys& keys, const Queries& queries, int64_t i,
                      const Sums& sums) const {
    const T* q = queries.q + i * params_.q.stride[1];
    const T* grad = queries.grad + i * params_.grad_o.stride[1];
    const Range seen = intersect(visible.keys(queries.range.begin + i), keys.range);
    for (int64_t j = seen.begin - keys.range.begin; j < seen.end - keys.range.begin; ++j) {
      const float weight = to_float(*element(weights_, j, i));
      const float slope = to_float(*element(slopes_, j, i));
      float *dk = sums.dk + j * columns(p_.d), *dv = sums.dv + j * columns(p_.dv);
      for (int64_t c = 0; c < p_.d; ++c) dk[c] += slope * to_float(q[c]);
      for (int64_t c = 0; c < p_.dv; ++c) dv[c] += weight * to_float(grad[c]);
    }
  }

  const wl_attention_backward_params& params_;
  const wl_attention_problem& p_;
  int64_t d_words_, dv_words_, k_width_;
  Word *weights_, *slopes_;  // P and dS: [key][kRow]
  Word* slope_strip_;        // pairs only: [key word][kStrip]
  Word* o_strip_;            // [words of dv][kStrip]
  float *s_, *dp_;           // [key][kStrip]
};

}  // namespace warploom::attention
