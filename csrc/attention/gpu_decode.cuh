// Decoding on the GPU: the query heads of a group are the rows of one tile, so that their keys and
// values are read once; each sequence's keys are cut into parts that different blocks take, and a
// second kernel merges the parts in their order.
//
// Its floor is the bytes of the keys and values that are seen, once, over the bandwidth.
#pragma once

#include "attention/gpu_forward.cuh"
#include "attention/gpu_launch.h"
#include "attention/gpu_plain.cuh"
#include "attention/gpu_split.cuh"

namespace warploom::attention::gpu {

// Positions of a cache: rows of its own sequence, or of the pages that a table names.
struct cache_map {
  global<const int32_t> table;  // this sequence's row; null: contiguous
  int32_t n, length, capacity, pages;

  // Where position j lies; notes a page that does not exist.
  template <class T>
  SIMT_DEVICE maybe_row<T> at(const view<const T>& cache, int head, int j, bool& good) const {
    if (j >= length) return {cache.data, false};
    if (!table) return {cache.at(n, j, head), true};
    const int32_t page = simt::load(table, j / capacity);
    if (page < 0 || page >= pages) {
      good = false;
      return {cache.data, false};
    }
    return {cache.at(page, j % capacity, head), true};
  }
};

template <class Cfg>
struct decode_kernel {
  using machine = typename Cfg::M;
  using T = typename Cfg::T;
  struct params {
    int32_t b, s, h, hk, d, dv, capacity, pages;
    int64_t limit;  // positions that a sequence can have
    int64_t max_pages, table_stride;
    global<const int32_t> page_table, lengths;
    wl_mask mask;
    formula f;
    bool vector;
    view<const T> q, k, v;
    int32_t row_tiles;
    split_output<T> out;
    global<int32_t> error;
  };
  static constexpr const char* name = "attention_decode";
  static constexpr int threads = Cfg::threads;
  static constexpr int min_blocks = Cfg::tiles.min_blocks;
  static constexpr bool all_resident = false;

  SIMT_DEVICE static void run(const params& a) {
    const int splits = a.out.splits, split = simt::block_x() % splits;
    const int row_tile = simt::block_x() / splits % a.row_tiles;
    const int kv_head = simt::block_x() / splits / a.row_tiles % a.hk;
    const int n = simt::block_x() / splits / a.row_tiles / a.hk;
    const int group = a.h / a.hk;

    const int32_t length = simt::load(a.lengths, n);
    bool good = length >= a.s && length <= a.limit;
    if (!good && simt::thread_index() == 0) {
      simt::set_error(a.error, error_word(device_error::lengths, n));
    }
    const cache_map map{a.page_table ? a.page_table + n * a.table_stride : a.page_table, n,
                        good ? length : 0, a.capacity, a.pages};

    const int first_row = row_tile * Cfg::rows;
    const query_rows<true> rows{a.mask, first_row, group * a.s - first_row, a.s, map.length};
    const span seen = good ? rows.any_keys(Cfg::rows) : span{0, 0};
    const int first = seen.begin / Cfg::keys, last = simt::ceil_div(seen.end, Cfg::keys);
    const int share = simt::ceil_div(last - first, splits);
    const int from = simt::min(first + split * share, last);
    const int to = simt::min(from + share, last);

    const auto head_of = [&](int r) { return kv_head * group + rows.head(r); };
    simt::arena smem;
    typename Cfg::state state;
    forward(
        state, smem, rows, a.f, a.d, a.dv, a.vector, from, to,
        [&](int r) {
          if (!rows.inside(r)) return maybe_row<T>{a.q.data, false};
          return maybe_row<T>{a.q.at(n, rows.position(r), head_of(r)), true};
        },
        [&](int j) { return map.at(a.k, kv_head, j, good); },
        [&](int j) { return map.at(a.v, kv_head, j, good); });

    // A page that one thread missed spoils the block's rows, and the error word says so.
    if (!good && map.length > 0) {
      simt::set_error(a.error, error_word(device_error::page_table, n));
    }
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
struct decode_config {
  using type = forward_config<M, T, D, decode_tiles<M, D>()>;
};
template <class M, int D>
struct decode_config<M, float, D> {
  using type = plain_config<M, D>;
};

template <class M, class T, int D>
struct decode_op {
  using Cfg = typename decode_config<M, T, D>::type;
  using params_type = wl_attention_decode_params;

  static int64_t row_tiles(const params_type& w) {
    return w.hk ? tiles_of(w.h / w.hk * w.s, Cfg::rows) : 0;
  }
  static int64_t splits(const params_type& w) {
    const int64_t positions = w.page_table ? w.max_pages * w.capacity : w.capacity;
    return decode_splits(w.b, w.hk, row_tiles(w), positions, Cfg::keys);
  }
  static int64_t workspace(const params_type& w) {
    return split_workspace(splits(w), w.b * w.h * w.s, w.dv);
  }

  static wl_status run(const params_type& w) {
    using Kernel = decode_kernel<Cfg>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.b = launcher.narrow("b", w.b);
    a.s = launcher.narrow("s", w.s);
    a.h = launcher.narrow("h", w.h);
    a.hk = launcher.narrow("hk", w.hk);
    a.d = launcher.narrow("d", w.d);
    a.dv = launcher.narrow("dv", w.dv);
    a.capacity = launcher.narrow("capacity", w.capacity);
    a.pages = launcher.narrow("pages", w.pages);
    launcher.narrow("h / hk * s", w.hk ? w.h / w.hk * w.s : 0);
    launcher.require_workspace(w.exec, workspace(w));
    launcher.require_shared(Kernel::name, Cfg::smem_bytes);
    if (!launcher.ok()) return launcher.status();
    const bool paged = w.page_table != nullptr;
    // Longer sequences would not fit into the kernel's 32-bit positions.
    a.limit = std::min(paged ? w.max_pages * w.capacity : w.capacity, Launcher::most);
    a.max_pages = w.max_pages;
    a.table_stride = w.page_table_stride;
    const int64_t entries = w.b && w.max_pages ? (w.b - 1) * w.page_table_stride + w.max_pages : 0;
    a.page_table = launcher.input(w.page_table, entries);
    a.lengths = launcher.input(w.lengths, w.b);
    a.mask = w.mask;
    a.f = formula_of(w.scale, w.softcap);
    a.error = launcher.error();
    const int64_t caches = paged ? w.pages : w.b;
    a.vector = w.d % 8 == 0 && w.dv % 8 == 0 && aligned(w.q, {w.b, w.s, w.h}, sizeof(T)) &&
               aligned(w.o, {w.b, w.s, w.h}, sizeof(T)) &&
               aligned(w.k_cache, {caches, w.capacity, w.hk}, sizeof(T)) &&
               aligned(w.v_cache, {caches, w.capacity, w.hk}, sizeof(T));
    a.q = launcher.input<T>(w.q, w.b, w.s, w.h, w.d);
    a.k = launcher.input<T>(w.k_cache, caches, w.capacity, w.hk, w.d);
    a.v = launcher.input<T>(w.v_cache, caches, w.capacity, w.hk, w.dv);
    a.out = output_of<T>(launcher, w, w.dv, splits(w), a.vector);
    a.row_tiles = int32_t(row_tiles(w));
    launcher.launch<Kernel>(int64_t{a.out.splits} * a.row_tiles * w.hk * w.b, Cfg::smem_bytes, a);
    merge_parts<M>(launcher, a.out);
    return launcher.finish();
  }
};

}  // namespace warploom::attention::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, d_max, ...) \
  WL_GPU_OP(attention, name, target, dtype, decode_op, d_max)
