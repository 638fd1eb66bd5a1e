// Attention to the pages of a quantized cache on the GPU: as decoding, blocks of threads take the
// query heads of a group, which read its codes once, and a part of a sequence's positions.
//
// Its floor is the bytes of the codes and grids that are seen, once, over the bandwidth. Both
// precisions of a call are computed alike: the atom has no narrower product that is worth its
// rounding.
#pragma once

#include "attention/gpu_pages_loop.cuh"
#include "attention/gpu_pages_plain.cuh"
#include "attention/gpu_split.cuh"

namespace warploom::attention::gpu {

template <class Cfg>
struct pages_kernel {
  using machine = typename Cfg::M;
  using T = typename Cfg::T;
  struct params {
    page_pool pool;
    int32_t b, s, h;
    int64_t limit;  // positions that a sequence can have
    int64_t table_stride;
    global<const int32_t> page_table, lengths;
    wl_mask mask;
    formula f;
    bool vector;
    view<const T> q;
    int32_t row_tiles;
    split_output<T> out;
  };
  static constexpr const char* name = "attention_pages";
  static constexpr int threads = Cfg::threads;
  static constexpr int min_blocks = Cfg::tiles.min_blocks;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int splits = a.out.splits, split = simt::block_x() % splits;
    const int row_tile = simt::block_x() / splits % a.row_tiles;
    const int kv_head = simt::block_x() / splits / a.row_tiles % a.pool.hk;
    const int n = simt::block_x() / splits / a.row_tiles / a.pool.hk;
    const int group = a.h / a.pool.hk;

    const int32_t length = simt::load(a.lengths, n);
    bool good = length >= a.s && length <= a.limit;
    if (!good && simt::thread_index() == 0) {
      simt::set_error(a.pool.error, error_word(device_error::lengths, n));
    }
    const page_map map{a.pool, a.page_table + n * a.table_stride, n, good ? length : 0};

    const int first_row = row_tile * Cfg::rows;
    const query_rows<true> rows{a.mask, first_row, group * a.s - first_row, a.s, map.length};
    const span seen = good ? rows.any_keys(Cfg::rows) : span{0, 0};
    const int first = seen.begin / kStep, last = simt::ceil_div(seen.end, kStep);
    const int share = simt::ceil_div(last - first, splits);
    const int from = simt::min(first + split * share, last);
    const int to = simt::min(from + share, last);

    const auto head_of = [&](int r) { return kv_head * group + rows.head(r); };
    simt::arena smem;
    typename Cfg::state state;
    forward_pages(
        state, smem, rows, a.f, map, kv_head, from, to,
        [&](int r) {
          if (!rows.inside(r)) return maybe_row<T>{a.q.data, false};
          return maybe_row<T>{a.q.at(n, rows.position(r), head_of(r)), true};
        },
        good);

    // What one thread missed spoils the block's rows.
    const bool all_good = simt::sync_block_all(good);
    finish(
        state, rows, a.f.factor,
        [&](int r, int c, const auto& values) {
          if (rows.inside(r)) {
            a.out.store(split, n, head_of(r), rows.position(r), c, values, all_good);
          }
        },
        [&](int r, float value) {
          if (rows.inside(r)) {
            a.out.store_lse(split, n, head_of(r), rows.position(r), value, all_good);
          }
        });
  }
};

// Products by the atom where the element type has one, plain arithmetic otherwise.
template <class M, class T, int D>
struct pages_config_of {
  using type = pages_config<M, T, D>;
};
template <class M, int D>
struct pages_config_of<M, float, D> {
  using type = plain_config<M, D>;
};

template <class M, class T, int D>
struct pages_op {
  using Cfg = typename pages_config_of<M, T, D>::type;
  using params_type = wl_attention_pages_params;

  static int64_t row_tiles(const params_type& w) {
    return w.pages.hk ? tiles_of(w.h / w.pages.hk * w.s, Cfg::rows) : 0;
  }
  static int64_t splits(const params_type& w) {
    return decode_splits(w.b, w.pages.hk, row_tiles(w), w.max_pages * w.pages.page,
                         kStep * Cfg::tiles.key_warps);
  }
  static int64_t workspace(const params_type& w) {
    return split_workspace(splits(w), w.b * w.h * w.s, w.pages.dv);
  }

  static wl_status run(const params_type& w) {
    using Kernel = pages_kernel<Cfg>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.b = launcher.narrow("b", w.b);
    a.s = launcher.narrow("s", w.s);
    a.h = launcher.narrow("h", w.h);
    launcher.narrow("h / hk * s", w.pages.hk ? w.h / w.pages.hk * w.s : 0);
    launcher.require_workspace(w.exec, workspace(w));
    launcher.require_shared(Kernel::name, Cfg::smem_bytes);
    a.pool = pool_of(launcher, w.pages);
    if (!launcher.ok()) return launcher.status();
    // Longer sequences would not fit into the kernel's 32-bit positions.
    a.limit = std::min(w.max_pages * w.pages.page, Launcher::most);
    a.table_stride = w.page_table_stride;
    const int64_t entries = w.b && w.max_pages ? (w.b - 1) * w.page_table_stride + w.max_pages : 0;
    a.page_table = launcher.input(w.page_table, entries);
    a.lengths = launcher.input(w.lengths, w.b);
    a.mask = w.mask;
    a.f = formula_of(w.scale, w.softcap);
    a.vector = aligned(w.q, {w.b, w.s, w.h}, sizeof(T)) && aligned(w.o, {w.b, w.s, w.h}, sizeof(T));
    a.q = launcher.input<T>(w.q, w.b, w.s, w.h, w.pages.d);
    a.out = output_of<T>(launcher, w, w.pages.dv, splits(w), a.vector);
    a.row_tiles = int32_t(row_tiles(w));
    launcher.launch<Kernel>(int64_t{a.out.splits} * a.row_tiles * w.pages.hk * w.b, Cfg::smem_bytes,
                            a);
    merge_parts<M>(launcher, a.out);
    return launcher.finish();
  }
};

}  // namespace warploom::attention::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, d_max, ...) \
  WL_GPU_OP(attention, name, target, dtype, pages_op, d_max)
