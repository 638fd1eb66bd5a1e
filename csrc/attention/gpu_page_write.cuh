// Scatters new keys and values to their slots: one thread per 16 bytes of a row, or per element
// where rows are not aligned. A slot outside the pages is reported and nothing is written for it.
#pragma once

#include "attention/gpu_launch.h"

namespace warploom::attention::gpu {

template <class M, class T>
struct page_write_kernel {
  using machine = M;
  struct params {
    int64_t tokens, positions;
    int32_t hk, d, dv, capacity;
    global<const int64_t> slots;
    view<const T> k, v;
    view<T> k_pages, v_pages;
    bool vector;
    global<int32_t> error;
  };
  static constexpr const char* name = "attention_page_write";
  static constexpr int threads = 128, min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int chunk = 16 / int(sizeof(T));

  SIMT_HOST_DEVICE static int64_t pieces(const params& a) {
    return (int64_t{a.d} + a.dv) / (a.vector ? chunk : 1);
  }
  SIMT_DEVICE static void run(const params& a) {
    const int64_t id = int64_t{simt::block_x()} * threads + simt::thread_index();
    const int64_t width = pieces(a), token = id / width / a.hk;
    if (token >= a.tokens) return;
    const int head = int(id / width % a.hk);
    const int col = int(id % width) * (a.vector ? chunk : 1);
    const int64_t slot = simt::load(a.slots, token);
    if (slot == -1) return;
    if (slot < 0 || slot >= a.positions) {
      simt::set_error(a.error, error_word(device_error::slots, token));
      return;
    }
    const int64_t page = slot / a.capacity, position = slot % a.capacity;
    if (col < a.d) {
      move(a.k.at(0, token, head), a.k_pages.at(page, position, head), col, a.vector);
    } else {
      move(a.v.at(0, token, head), a.v_pages.at(page, position, head), col - a.d, a.vector);
    }
  }
  SIMT_DEVICE static void move(global<const T> from, global<T> to, int col, bool vector) {
    if (vector) {
      simt::store_vec(to, col, simt::load_vec<chunk>(from, col));
    } else {
      simt::store(to, col, simt::load(from, col));
    }
  }
};

template <class M, class T, int>
struct page_write_op {
  using params_type = wl_page_write_params;

  static int64_t workspace(const params_type&) { return 0; }

  static wl_status run(const params_type& w) {
    using Kernel = page_write_kernel<M, T>;
    Launcher launcher(w.exec);
    typename Kernel::params a{};
    a.tokens = w.tokens;
    a.positions = w.pages * w.capacity;
    a.hk = launcher.narrow("hk", w.hk);
    a.d = launcher.narrow("d", w.d);
    a.dv = launcher.narrow("dv", w.dv);
    a.capacity = launcher.narrow("capacity", w.capacity);
    if (!launcher.ok()) return launcher.status();
    a.slots = launcher.input(w.slots, w.tokens);
    a.k = launcher.input<T>(w.k, 1, w.tokens, w.hk, w.d);
    a.v = launcher.input<T>(w.v, 1, w.tokens, w.hk, w.dv);
    a.k_pages = launcher.updated<T>(w.k_pages, w.pages, w.capacity, w.hk, w.d);
    a.v_pages = launcher.updated<T>(w.v_pages, w.pages, w.capacity, w.hk, w.dv);
    a.vector = w.d % Kernel::chunk == 0 && w.dv % Kernel::chunk == 0 &&
               aligned(w.k, {1, w.tokens, w.hk}, sizeof(T)) &&
               aligned(w.v, {1, w.tokens, w.hk}, sizeof(T)) &&
               aligned(w.k_pages, {w.pages, w.capacity, w.hk}, sizeof(T)) &&
               aligned(w.v_pages, {w.pages, w.capacity, w.hk}, sizeof(T));
    a.error = launcher.error();
    const int64_t work = w.tokens * w.hk * Kernel::pieces(a);
    launcher.launch<Kernel>(tiles_of(work, Kernel::threads), 0, a);
    return launcher.finish();
  }
};

}  // namespace warploom::attention::gpu

#define WL_GPU_KERNEL(name, op, target, dtype, d_max, ...) \
  WL_GPU_OP(attention, name, target, dtype, page_write_op, d_max)
