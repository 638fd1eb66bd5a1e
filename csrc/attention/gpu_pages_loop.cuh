// The loop over quantized pages by the matrix atom. Every warp goes by itself over steps of 16
// positions, from memory to registers: no shared memory, no barrier. A word of codes becomes two
// registers of a fragment by a shift, masks and one packed sum.
//
// An atom sums in any order as long as both operands agree on it, and its columns may be any 16.
// All of them, d, positions and channels, come in `neighbour`'s order: then what a lane wants are
// whole words of the format, and weights from the first product feed the second.
//
// Codes less half their number are exact in bfloat16. Queries of more precision than that, and
// their weights, are sums of two bfloat16: two products.
#pragma once

#include "attention/gpu_forward.cuh"
#include "attention/gpu_pages_view.cuh"

namespace warploom::attention::gpu {

using simt::bf16;

// Which of 16 neighbours stands at a place of the atom.
template <class M>
SIMT_HOST_DEVICE constexpr int neighbour(int place) {
  if (M::lanes == 32) return (place & 7) * 2 + (place >> 3);
  return (place & 12) | (place & 1) << 1 | (place >> 1 & 1);
}

template <class Machine, class Element, int HeadDim>
struct pages_config {
  using M = Machine;
  using T = Element;
  static constexpr int D = HeadDim, C = D / 16, A = 1;
  static constexpr forward_tiles tiles = decode_tiles<M, D>();
  static constexpr int rows = 16, threads = tiles.warps() * M::lanes, warps = tiles.key_warps;
  static constexpr int terms = __is_same(T, bf16) ? 1 : 2;
  static constexpr bool q_in_registers = terms == 1 && C * M::registers <= 32;
  static_assert(tiles.rows() == rows && tiles.row_warps == 1);

  static constexpr int q_elements = tile<bf16, D>::elements(rows);
  static constexpr int merge_elements = warps * rows * (D + 2) * 2;  // as finish_shared lays out
  static constexpr int region =
      terms * q_elements > merge_elements ? terms * q_elements : merge_elements;
  static constexpr uint32_t smem_bytes =
      simt::arena_bytes<bf16>(region) + simt::arena_bytes<float>(C * rows);
  using state = softmax_state<pages_config>;

  SIMT_HOST_DEVICE static constexpr int column(int col) { return neighbour<M>(col); }
};

// Fills a fragment of B: `word(h)` is the word of 4 neighbours (of k) at the lane's h-th place of
// n.
template <class M>
inline constexpr int kPlaces = M::registers / 2;

template <int width, class M>
SIMT_DEVICE frag_b<M, bf16> from_codes(const simt::vec<uint32_t, kPlaces<M>>& words, int shift) {
  frag_b<M, bf16> b;
  SIMT_UNROLL
  for (int h = 0; h < kPlaces<M>; ++h) {
    const uint32_t u = words[h] >> shift;
    b.r[2 * h] = simt::centred<width>(u);
    b.r[2 * h + 1] = simt::centred<width>(u >> 8);
  }
  return b;
}

// Two registers from four neighbours in the low, or high, halves of words.
SIMT_DEVICE uint32_t halves(uint32_t a, uint32_t b, int half) {
  return half ? a >> 16 | (b & 0xffff0000u) : (a & 0xffffu) | b << 16;
}

// A fragment of A as a sum of `terms` of bfloat16, each with eight more bits.
template <class M, int terms>
struct precise_a {
  frag_a<M, bf16> part[terms];

  SIMT_DEVICE static precise_a of(frag_c<M> c) {
    precise_a a;
    SIMT_UNROLL
    for (int t = 0; t < terms; ++t) {
      a.part[t] = simt::to_a<bf16>(c);
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) {
        c.e[e] -= simt::unpack<bf16>(a.part[t].r[e / 2], e % 2);
      }
    }
    return a;
  }
  SIMT_DEVICE float value(int e) const {
    float x = 0;
    SIMT_UNROLL
    for (int t = 0; t < terms; ++t) x += simt::unpack<bf16>(part[t].r[e / 2], e % 2);
    return x;
  }
  SIMT_DEVICE void multiply(frag_c<M>& c, const frag_b<M, bf16>& b) const {
    SIMT_UNROLL
    for (int t = 0; t < terms; ++t) simt::mma(c, part[t], b);
  }
};

// Of queries times steps: as exact as float32.
inline constexpr int kScaledTerms = 3;

// The block's queries: fragments, in registers or in shared memory, and sums over groups.
template <class Cfg>
struct page_queries {
  using M = typename Cfg::M;
  operand<M, bf16, 1, Cfg::C, Cfg::q_in_registers> parts[Cfg::terms];
  shared<float> sums;  // [group of keys, row]

  // `query(r)` is a maybe_row of T.
  template <class Query>
  SIMT_DEVICE void load(shared<bf16> region, shared<float> to, Query query, int d, int group) {
    using T = typename Cfg::T;
    sums = to;
    for (int id = simt::thread_index(); id < Cfg::rows * Cfg::D; id += Cfg::threads) {
      const int r = id / Cfg::D, c = id % Cfg::D / 16 * 16 + neighbour<M>(id % 16);
      const maybe_row<T> row = query(r);
      float x = row.inside && c < d ? simt::to_float(simt::load(row.p, c)) : 0.0f;
      SIMT_UNROLL
      for (int t = 0; t < Cfg::terms; ++t) {
        const tile<bf16, Cfg::D> tile{region + t * Cfg::q_elements};
        const bf16 part = simt::to<bf16>(x);
        simt::store(tile.at(r, id % Cfg::D), 0, part);
        x -= simt::to_float(part);
      }
    }
    for (int id = simt::thread_index(); id < d / group * Cfg::rows; id += Cfg::threads) {
      const maybe_row<T> row = query(id % Cfg::rows);
      float sum = 0;
      for (int c = 0; row.inside && c < group; ++c) {
        sum += simt::to_float(simt::load(row.p, id / Cfg::rows * group + c));
      }
      simt::store(sums, id, sum);
    }
    simt::sync_block();
    SIMT_UNROLL
    for (int t = 0; t < Cfg::terms; ++t) {
      parts[t].load(tile<bf16, Cfg::D>{region + t * Cfg::q_elements}, 0);
    }
  }
  SIMT_DEVICE precise_a<M, Cfg::terms> get(int c) const {
    precise_a<M, Cfg::terms> a;
    SIMT_UNROLL
    for (int t = 0; t < Cfg::terms; ++t) a.part[t] = parts[t].get(0, c, 0);
    return a;
  }
};

// Four neighbouring groups' grids as a kernel applies them: x = mid + step * (code - half).
struct four_grids {
  float step[4], mid[4];

  // `length` is from a min to its range; those outside `used` stand for zeros.
  template <int width>
  SIMT_DEVICE static four_grids load(global<const bf16> grid, int at, int length,
                                     span used = {0, 4}) {
    constexpr float levels = (1 << width) - 1, half = 1 << (width - 1);
    const auto lowest = simt::load_vec<4>(grid, at);
    const auto range = simt::load_vec<4>(grid, at + length);
    four_grids g;
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      g.step[i] = used.has(i) ? simt::to_float(range[i]) * (1 / levels) : 0.0f;
      g.mid[i] = used.has(i) ? simt::fma(half, g.step[i], simt::to_float(lowest[i])) : 0.0f;
    }
    return g;
  }
};

// One warp's work on one step.
template <class Cfg>
struct page_step {
  using M = typename Cfg::M;
  static constexpr int C = Cfg::C, places = kPlaces<M>;
  const page_pool& pool;
  const page_queries<Cfg>& q;
  page_map::place at;
  int head;
  span used;  // positions of the step that some row sees: all others are absent

  // This lane's first place of n, and the first of its four neighbours of k. Four of an
  // accumulator's columns are the same neighbours.
  SIMT_DEVICE static int lane_n() { return neighbour<M>(M::b(simt::lane<M>(), 0).col); }
  SIMT_DEVICE static int lane_k() { return neighbour<M>(M::b(simt::lane<M>(), 0).row); }
  SIMT_DEVICE static constexpr int of_four(int e) { return neighbour<M>(M::c(0, e).col) & 3; }

  template <int width>
  SIMT_DEVICE frag_b<M, bf16> codes(const page_block& block, int row, int w, int length) const {
    const auto words =
        simt::load_vec<places>(pool.pool, block.at + code_word(row, w, length, width));
    return from_codes<width, M>(words, code_shift(w, width));
  }

  // Keys in bfloat16: four neighbouring values of each of the lane's keys.
  SIMT_DEVICE frag_b<M, bf16> plain_keys(int c) const {
    frag_b<M, bf16> b;
    SIMT_UNROLL
    for (int h = 0; h < places; ++h) {
      const int key = lane_n() + h;
      simt::vec<uint32_t, 2> words{};
      if (used.has(key)) {
        const int64_t word = (int64_t{at.offset + key} * pool.d + c * 16 + lane_k()) / 2;
        words = simt::load_vec<2>(pool.pool, at.k.at + word);
      }
      b.r[2 * h] = halves(words[0], words[1], 0);
      b.r[2 * h + 1] = halves(words[0], words[1], 1);
    }
    return b;
  }
  // Values in bfloat16: a word of each of four keys.
  SIMT_DEVICE frag_b<M, bf16> plain_values(int c) const {
    uint32_t words[4];
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int key = lane_k() + i;
      const int64_t word = (int64_t{at.offset + key} * pool.dv + c * 16 + lane_n()) / 2;
      words[i] = used.has(key) ? simt::load(pool.pool, at.v.at + word) : 0;
    }
    frag_b<M, bf16> b;
    SIMT_UNROLL
    for (int h = 0; h < places; ++h) {
      const int half = (lane_n() + h) & 1;
      b.r[2 * h] = halves(words[0], words[2], half);
      b.r[2 * h + 1] = halves(words[1], words[3], half);
    }
    return b;
  }

  SIMT_DEVICE frag_c<M> scores() const {
    frag_c<M> s = frag_c<M>::zero();
    if (at.k.width == 16) {
      SIMT_UNROLL
      for (int c = 0; c < C; ++c) {
        if (c * 16 < pool.d) q.get(c).multiply(s, plain_keys(c));
      }
    } else if (at.k.width == 8) {
      scores_of<8>(s);
    } else if (at.k.width == 4) {
      scores_of<4>(s);
    } else {
      scores_of<2>(s);
    }
    return s;
  }

  template <int width>
  SIMT_DEVICE void scores_of(frag_c<M>& s) const {
    if (pool.keys_per_channel) {
      scores_per_channel<width>(s);
    } else {
      scores_per_key<width>(s);
    }
  }

  // <q, k> = sum over groups of step <q, c> + mid sum(q)
  template <int width>
  SIMT_DEVICE void scores_per_key(frag_c<M>& s) const {
    frag_c<M> sum = frag_c<M>::zero();
    SIMT_UNROLL
    for (int c = 0; c < C; ++c) {
      if (c * 16 >= pool.d) continue;
      q.get(c).multiply(sum,
                        codes<width>(at.k, at.offset + lane_n(), c * 4 + lane_k() / 4, pool.d));
      if ((c + 1) * 16 % pool.key_group) continue;
      const int group = c * 16 / pool.key_group;
      const auto grids = four_grids::load<width>(pool.key_grid(at.page, head, group),
                                                 at.offset + lane_k(), pool.page);
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) {
        const int row = M::slot_row(simt::lane<M>(), M::row_slot(e));
        const float sum_q = simt::load(q.sums, group * Cfg::rows + row);
        const float offset = simt::fma(grids.mid[of_four(e)], sum_q, s.e[e]);
        s.e[e] = simt::fma(grids.step[of_four(e)], sum.e[e], offset);
      }
      sum = frag_c<M>::zero();
    }
  }

  // <q, k> = <q step, c> + <q, mid>: all 16 keys share the grids of their group.
  template <int width>
  SIMT_DEVICE void scores_per_channel(frag_c<M>& s) const {
    const auto grid = pool.key_grid(at.page, head, at.offset / pool.key_group);
    float offset[M::row_slots] = {};
    SIMT_UNROLL
    for (int c = 0; c < C; ++c) {
      if (c * 16 >= pool.d) continue;
      const auto grids = four_grids::load<width>(grid, c * 16 + lane_k(), pool.d);
      const auto a = q.get(c);
      frag_c<M> scaled;
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) {
        const float x = a.value(e);
        scaled.e[e] = x * grids.step[of_four(e)];
        offset[M::row_slot(e)] = simt::fma(x, grids.mid[of_four(e)], offset[M::row_slot(e)]);
      }
      precise_a<M, kScaledTerms>::of(scaled).multiply(
          s, codes<width>(at.k, at.offset + lane_n(), c * 4 + lane_k() / 4, pool.d));
    }
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) offset[i] = simt::row_sum<M>(offset[i]);
    SIMT_UNROLL
    for (int e = 0; e < M::elements; ++e) s.e[e] += offset[M::row_slot(e)];
  }

  // o = o * shrink + p v, by the weights p.
  SIMT_DEVICE void add_values(frag_c<M> (&o)[C], const frag_c<M>& p,
                              const float (&shrink)[M::row_slots]) const {
    if (at.v.width == 16) {
      const auto weights = precise_a<M, Cfg::terms>::of(p);
      SIMT_UNROLL
      for (int c = 0; c < C; ++c) {
        if (c * 16 >= pool.dv) continue;
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) o[c].e[e] *= shrink[M::row_slot(e)];
        weights.multiply(o[c], plain_values(c));
      }
    } else if (at.v.width == 8) {
      add_codes<8>(o, p, shrink);
    } else if (at.v.width == 4) {
      add_codes<4>(o, p, shrink);
    } else {
      add_codes<2>(o, p, shrink);
    }
  }

  // p v = (p step) c + p mid, whose last part is the same in all channels of a group.
  template <int width>
  SIMT_DEVICE void add_codes(frag_c<M> (&o)[C], const frag_c<M>& p,
                             const float (&shrink)[M::row_slots]) const {
    precise_a<M, Cfg::terms> weights{};
    float offset[M::row_slots] = {};
    SIMT_UNROLL
    for (int c = 0; c < C; ++c) {
      if (c * 16 >= pool.dv) continue;
      if (c * 16 % pool.value_group == 0) {
        const int group = c * 16 / pool.value_group;
        const auto grids =
            four_grids::load<width>(pool.value_grid(at.page, head, group), at.offset + lane_k(),
                                    pool.page, span{used.begin - lane_k(), used.end - lane_k()});
        frag_c<M> scaled;
        SIMT_UNROLL
        for (int i = 0; i < M::row_slots; ++i) offset[i] = 0;
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          scaled.e[e] = p.e[e] * grids.step[of_four(e)];
          offset[M::row_slot(e)] = simt::fma(p.e[e], grids.mid[of_four(e)], offset[M::row_slot(e)]);
        }
        weights = precise_a<M, Cfg::terms>::of(scaled);
        SIMT_UNROLL
        for (int i = 0; i < M::row_slots; ++i) offset[i] = simt::row_sum<M>(offset[i]);
      }
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) {
        o[c].e[e] = simt::fma(o[c].e[e], shrink[M::row_slot(e)], offset[M::row_slot(e)]);
      }
      weights.multiply(
          o[c], codes<width>(at.v, c * 16 + lane_n(), (at.offset + lane_k()) / 4, pool.page));
    }
  }
};

// Runs the loop over the steps [first, last); what is left in the state are this warp's sums.
template <class Cfg, class Rows, class Query>
SIMT_DEVICE void forward_pages(softmax_state<Cfg>& state, simt::arena& smem, const Rows& rows,
                               const formula& f, const page_map& map, int head, int first, int last,
                               Query query, bool& good) {
  using M = typename Cfg::M;
  const auto region = smem.take<bf16>(Cfg::region);
  const auto sums = smem.take<float>(Cfg::C * Cfg::rows);
  // The merge of the warps' sums, after the loop, takes the place of the queries.
  state.region = region.template as<typename Cfg::T>();
  state.clear();
  if (first >= last) return;
  page_queries<Cfg> q;
  // Per channel nobody asks for sums.
  q.load(region, sums, query, map.pool.d, map.pool.keys_per_channel ? Cfg::D : map.pool.key_group);

  const span seen = rows.any_keys(Cfg::rows), seen_by_all = rows.all_keys(Cfg::rows);
  const int lane = simt::lane<M>();
  const int start = first + simt::warp<M>();
  page_map::place next{};
  if (start < last) next = map.at(start, head, good);
  for (int t = start; t < last; t += Cfg::warps) {
    const int origin = t * kStep;
    const page_step<Cfg> step{map.pool, q, next, head, {seen.begin - origin, seen.end - origin}};
    // Looked up ahead: a page's place takes two loads that wait for each other.
    if (t + Cfg::warps < last) next = map.at(t + Cfg::warps, head, good);
    if (step.at.k.width == 0) continue;

    frag_c<M> s[1] = {step.scores()};
    if (f.how != formula::raw) {
      SIMT_UNROLL
      for (int e = 0; e < M::elements; ++e) s[0].e[e] = score(f, s[0].e[e]);
    }
    if (seen_by_all.begin > origin || seen_by_all.end - origin < kStep) {
      SIMT_UNROLL
      for (int i = 0; i < M::row_slots; ++i) {
        const span keys = rows.keys(M::slot_row(lane, i), origin);
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          if (M::row_slot(e) != i) continue;
          if (!keys.has(neighbour<M>(M::c(lane, e).col))) s[0].e[e] = -kInfinity;
        }
      }
    }
    float shrink[M::row_slots];
    state.weigh(0, s, f.factor, shrink);
    step.add_values(state.o[0], s[0], shrink);
  }
}

}  // namespace warploom::attention::gpu
