// A miniature flash attention: d 64, tiles of 64 x 64, four warps of 16 query rows, keys and values
// copied asynchronously into two buffers, online softmax in base 2, P kept in registers. Each bug
// is one that such kernels get in practice.
#pragma once

#include "kernels/mark.h"

namespace warploom::simt::test {

enum class attention_bug {
  none,
  no_barrier_after_landing,
  warp_barrier_after_landing,
  no_landing,
  refill_while_read,
  keys_past_the_end,  // the last tile's rows are not cut off
  tile_too_small,
  lane_skips_shuffle,
  barrier_in_first_warp,
  no_commit,
  divergent_product,
  query_rows_unwritten,  // the tail of the query tile is left as it was
  output_past_the_end,
};

template <class M, class T, attention_bug Bug>
struct attention {
  using machine = M;
  static constexpr const char* name = "attention";
  static constexpr int warps = 4, rows = 64, d = 64;
  static constexpr int threads = warps * M::lanes;
  static constexpr int min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int copies = rows * d / 8 / threads;  // 16-byte copies per thread and tile
  using space = tile<T, d>;
  static constexpr int64_t smem_bytes = 5 * space::bytes(rows);

  struct params {
    global<const T> q, k, v;  // [h, s, d]
    global<float> o;          // [h, s, d]
    int s;
    float scale_log2;
  };

  SIMT_HOST_DEVICE static constexpr bool is(attention_bug b) { return Bug == b; }

  // Rows past `valid` become zeros.
  SIMT_DEVICE static void begin(copy_ticket<copies>& ticket, space to, global<const T> from,
                                int valid) {
    SIMT_UNROLL
    for (int i = 0; i < copies; ++i) {
      const int chunk = thread_index() + i * threads, row = chunk / (d / 8),
                col = chunk % (d / 8) * 8;
      const bool inside = row < valid || is(attention_bug::keys_past_the_end);
      FAULTY ticket.copy(i, to.at(row, col), from + row * d + col, inside);
    }
    if (!is(attention_bug::no_commit)) ticket.commit();
  }

  SIMT_DEVICE static void run(const params& p) {
    const int q0 = block_x() * rows, head = block_y(), l = lane<M>(), w = warp<M>();
    const int64_t base = int64_t{head} * p.s * d;
    arena smem;
    const space qs = space::take(smem, is(attention_bug::tile_too_small) ? rows - 1 : rows);
    const space k0 = space::take(smem, rows), k1 = space::take(smem, rows);
    const space v0 = space::take(smem, rows), v1 = space::take(smem, rows);

    for (int i = thread_index(); i < rows * d / 8; i += threads) {
      const int row = i / (d / 8), col = i % (d / 8) * 8;
      vec<T, 8> x{};
      const bool inside = q0 + row < p.s;
      if (inside) x = load_vec<8>(p.q, base + (q0 + row) * d + col);
      if (inside || !is(attention_bug::query_rows_unwritten)) {
        FAULTY store_vec(qs.at(row, col), 0, x);
      }
    }

    const int tiles = ceil_div(p.s, rows);
    copy_ticket<copies> keys, values;
    begin(keys, k0, p.k + base, p.s);
    frag_c<M> o[d / 16];
    float top[M::row_slots], sum[M::row_slots];
    SIMT_UNROLL
    for (int n = 0; n < d / 16; ++n) o[n] = frag_c<M>::zero();
    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) top[i] = -1e30f, sum[i] = 0.0f;

    for (int t = 0; t < tiles; ++t) {
      const bool odd_tile = t % 2 != 0;
      const space ks{odd_tile ? k1.base : k0.base}, vs{odd_tile ? v1.base : v0.base};
      const int valid = p.s - t * rows;
      begin(values, vs, p.v + base + int64_t{t} * rows * d, valid);
      if (is(attention_bug::no_landing)) {
        // nothing waits
      } else {
        FAULTY keys.template land<1>();
      }
      if (is(attention_bug::warp_barrier_after_landing)) {
        sync_warp();
      } else if (!is(attention_bug::no_barrier_after_landing) &&
                 (!is(attention_bug::barrier_in_first_warp) || w == 0)) {
        FAULTY sync_block();
      }
      // The next keys go where the last tile's were: everybody has left that tile.
      if (t + 1 < tiles) {
        const auto from = p.k + base + int64_t{t + 1} * rows * d;
        const space next{odd_tile != is(attention_bug::refill_while_read) ? k0.base : k1.base};
        begin(keys, next, from, valid - rows);
      }

      frag_c<M> s[rows / 16];
      SIMT_UNROLL
      for (int n = 0; n < rows / 16; ++n) {
        s[n] = frag_c<M>::zero();
        SIMT_UNROLL
        for (int k = 0; k < d / 16; ++k) {
          FAULTY const auto a = load_a<M>(qs, w * 16, k * 16);
          FAULTY const auto b = load_b_col<M>(ks, n * 16, k * 16);
          if (!is(attention_bug::divergent_product) || l != 3) {
            FAULTY mma(s[n], a, b);
          }
        }
      }
      float best[M::row_slots];
      SIMT_UNROLL
      for (int i = 0; i < M::row_slots; ++i) best[i] = top[i];
      SIMT_UNROLL
      for (int n = 0; n < rows / 16; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          const bool kept = n * 16 + M::c(l, e).col < valid;
          s[n].e[e] = kept ? s[n].e[e] * p.scale_log2 : -1e30f;
          best[M::row_slot(e)] = max(best[M::row_slot(e)], s[n].e[e]);
        }
      }
      SIMT_UNROLL
      for (int i = 0; i < M::row_slots; ++i) {
        if (!is(attention_bug::lane_skips_shuffle) || l != 1) {
          FAULTY best[i] = row_max<M>(best[i], site::current());
        }
        const float keep = exp2(top[i] - best[i]);
        top[i] = best[i];
        sum[i] *= keep;
        SIMT_UNROLL
        for (int n = 0; n < d / 16; ++n) {
          SIMT_UNROLL
          for (int e = 0; e < M::elements; ++e) {
            if (M::row_slot(e) == i) o[n].e[e] *= keep;
          }
        }
      }
      SIMT_UNROLL
      for (int n = 0; n < rows / 16; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          s[n].e[e] = exp2(s[n].e[e] - top[M::row_slot(e)]);
          sum[M::row_slot(e)] += s[n].e[e];
        }
      }

      if (t + 1 < tiles) {
        values.template land<1>();
      } else {
        values.template land<0>();
      }
      FAULTY sync_block();
      SIMT_UNROLL
      for (int k = 0; k < rows / 16; ++k) {
        const auto a = to_a<T>(s[k]);
        SIMT_UNROLL
        for (int n = 0; n < d / 16; ++n) mma(o[n], a, load_b_row<M>(vs, k * 16, n * 16));
      }
    }

    SIMT_UNROLL
    for (int i = 0; i < M::row_slots; ++i) {
      const float scale = 1.0f / row_sum<M>(sum[i]);
      const int row = q0 + w * 16 + M::slot_row(l, i);
      if (row >= p.s && !is(attention_bug::output_past_the_end)) continue;
      SIMT_UNROLL
      for (int n = 0; n < d / 16; ++n) {
        SIMT_UNROLL
        for (int e = 0; e < M::elements; ++e) {
          if (M::row_slot(e) != i) continue;
          FAULTY store(p.o, base + row * d + n * 16 + M::c(l, e).col, o[n].e[e] * scale);
        }
      }
    }
  }
};

}  // namespace warploom::simt::test
