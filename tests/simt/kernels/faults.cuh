// One small kernel per check of the emulator. Each is a correct program for `Planted == false`
// and has one bug for true, on the line that says FAULTY.
#pragma once

#include "kernels/mark.h"

namespace warploom::simt::test {

struct buffers {
  global<const float> x;
  global<float> y;
  global<int32_t> flags;
  int n;
};

template <class M>
struct fault_kernel {
  using machine = M;
  using params = buffers;
  static constexpr int threads = 128;
  static constexpr int min_blocks = 1;
  static constexpr bool all_resident = false;
  static constexpr int64_t smem_bytes = 4096;
};

template <class M, bool Planted>
struct shared_race : fault_kernel<M> {
  static constexpr const char* name = "shared_race";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(128);
    const int t = thread_index();
    FAULTY store(s, t, load(p.x, t));
    if (!Planted) sync_block();
    FAULTY const float v = load(s, 127 - t);
    store(p.y, t, v);
  }
};

// A warp's own barrier in place of the block's.
template <class M, bool Planted>
struct warp_barrier_for_block : fault_kernel<M> {
  static constexpr const char* name = "warp_barrier_for_block";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(128);
    const int t = thread_index();
    FAULTY store(s, t, load(p.x, t));
    if (Planted) {
      sync_warp();
    } else {
      sync_block();
    }
    FAULTY const float v = load(s, 127 - t);
    store(p.y, t, v);
  }
};

// Shuffles order no memory, though a warp in step hides it.
template <class M, bool Planted>
struct shuffle_for_sync_warp : fault_kernel<M> {
  static constexpr const char* name = "shuffle_for_sync_warp";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(128);
    const int t = thread_index();
    FAULTY store(s, t, load(p.x, t));
    if (Planted) {
      shuffle_xor<M>(t, 1);
    } else {
      sync_warp();
    }
    FAULTY const float v = load(s, t ^ 1);
    store(p.y, t, v);
  }
};

// The next round's write overtakes the last round's read.
template <class M, bool Planted>
struct write_after_read : fault_kernel<M> {
  static constexpr const char* name = "write_after_read";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(128);
    const int t = thread_index();
    float sum = 0.0f;
    for (int round = 0; round < 3; ++round) {
      FAULTY store(s, t, load(p.x, t));
      sync_block();
      FAULTY sum += load(s, 127 - t);
      if (!Planted) sync_block();
    }
    store(p.y, t, sum);
  }
};

// Neighbouring bytes are no conflict, the same byte is.
template <class M, bool Planted>
struct half_word_race : fault_kernel<M> {
  static constexpr const char* name = "half_word_race";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<bf16>(129);
    const int t = thread_index();
    FAULTY store(s, t, to<bf16>(load(p.x, t)));
    if (Planted) {
      FAULTY store(s, t + 1, to<bf16>(0.0f));
    }
    sync_block();
    store(p.y, t, to_float(load(s, t)));
  }
};

template <class M, bool Planted>
struct global_race : fault_kernel<M> {
  static constexpr const char* name = "global_race";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    if (Planted) {
      FAULTY store(p.y, t, load(p.x, t) + static_cast<float>(block_x()));
    } else {
      store(p.y, block_x() * 128 + t, load(p.x, t));
    }
  }
};

// An atomic and a plain access to the same word.
template <class M, bool Planted>
struct plain_and_atomic : fault_kernel<M> {
  static constexpr const char* name = "plain_and_atomic";
  SIMT_DEVICE static void run(const buffers& p) {
    if (thread_index() != 0) return;
    if (Planted && block_x() == 1) {
      FAULTY store(p.flags, 0, load(p.flags, 0) + 1);
    } else {
      FAULTY red_relaxed_add(p.flags, 0, 1);
    }
  }
};

template <class M, bool Planted>
struct global_out_of_bounds : fault_kernel<M> {
  static constexpr const char* name = "global_out_of_bounds";
  SIMT_DEVICE static void run(const buffers& p) {
    const int i = block_x() * 128 + thread_index() + 1;
    if (Planted || i < p.n) {
      FAULTY store(p.y, i, 1.0f);
    }
  }
};

template <class M, bool Planted>
struct shared_out_of_bounds : fault_kernel<M> {
  static constexpr const char* name = "shared_out_of_bounds";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(Planted ? 127 : 128);  // within the block's memory all the same
    const int t = thread_index();
    FAULTY store(s, t, 0.0f);
    sync_block();
    FAULTY store(p.y, t, load(s, t));
  }
};

template <class M, bool Planted>
struct arena_overflow : fault_kernel<M> {
  static constexpr const char* name = "arena_overflow";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(Planted ? 2048 : 128);  // the launch gives 4096 bytes
    const int t = thread_index(), i = Planted ? 1024 + t : t;
    FAULTY store(s, i, 0.0f);
    FAULTY store(p.y, t, load(s, i));
  }
};

template <class M, bool Planted>
struct misaligned_vector : fault_kernel<M> {
  static constexpr const char* name = "misaligned_vector";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index() % 16;
    FAULTY const auto v = load_vec<4>(p.x, t * 4 + (Planted ? 2 : 0));
    if (thread_index() < 16) store_vec(p.y, t * 4, v);
  }
};

template <class M, bool Planted>
struct unwritten_shared : fault_kernel<M> {
  static constexpr const char* name = "unwritten_shared";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<int32_t>(128);  // integers have no NaN to show it
    const int t = thread_index();
    if (!Planted || t != 77) store(s, t, t);
    sync_block();
    FAULTY store(p.y, t, static_cast<float>(load(s, t)));
  }
};

template <class M, bool Planted>
struct unwritten_global : fault_kernel<M> {
  static constexpr const char* name = "unwritten_global";
  SIMT_DEVICE static void run(const buffers& p) {
    const int i = block_x() * 128 + thread_index();
    if (!Planted) store(p.y, i, 0.0f);
    FAULTY const float old = load(p.y, i);
    store(p.y, i, old + load(p.x, thread_index()));
  }
};

// Only part of a vector was written.
template <class M, bool Planted>
struct unwritten_lane_of_vector : fault_kernel<M> {
  static constexpr const char* name = "unwritten_lane_of_vector";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<bf16>(1024);
    const int t = thread_index();
    for (int i = 0; i < (Planted ? 7 : 8); ++i) store(s, t * 8 + i, to<bf16>(1.0f));
    FAULTY const auto v = load_vec<8>(s, t * 8);
    store(p.y, t, to_float(v[7]));
  }
};

template <class M, bool Planted>
struct divergent_block_barrier : fault_kernel<M> {
  static constexpr const char* name = "divergent_block_barrier";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    if (Planted && t < 64) {
      FAULTY sync_block();
    } else {
      FAULTY sync_block();
    }
    store(p.y, t, 0.0f);
  }
};

template <class M, bool Planted>
struct barrier_in_one_warp : fault_kernel<M> {
  static constexpr const char* name = "barrier_in_one_warp";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    if (!Planted || warp<M>() == 0) {
      FAULTY sync_block();
    }
    store(p.y, t, 0.0f);
  }
};

// Half of a warp waits for the other half, which waits for the block.
template <class M, bool Planted>
struct barrier_against_shuffle : fault_kernel<M> {
  static constexpr const char* name = "barrier_against_shuffle";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    int v = t;
    if (!Planted || t % 2 == 0) {
      FAULTY v = shuffle_xor<M>(t, 2);
    }
    sync_block();
    store(p.y, t, static_cast<float>(v));
  }
};

template <class M, bool Planted>
struct divergent_shuffle : fault_kernel<M> {
  static constexpr const char* name = "divergent_shuffle";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    int v = t;
    if (!Planted || t % 2 == 0) {
      FAULTY v = shuffle_xor<M>(t, 2);
    }
    store(p.y, t, static_cast<float>(v));
  }
};

template <class M, bool Planted>
struct shuffle_from_outside : fault_kernel<M> {
  static constexpr const char* name = "shuffle_from_outside";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    FAULTY const int v = shuffle<M>(t, Planted ? M::lanes : 0);
    store(p.y, t, static_cast<float>(v));
  }
};

template <class M, bool Planted>
struct divergent_product : fault_kernel<M> {
  static constexpr const char* name = "divergent_product";
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    frag_a<M, bf16> a{};
    frag_b<M, bf16> b{};
    auto c = frag_c<M>::zero();
    if (!Planted || lane<M>() != 5) {
      FAULTY mma(c, a, b);
    }
    store(p.y, t, c.e[0]);
  }
};

template <class M, bool Planted>
struct divergent_fragment_load : fault_kernel<M> {
  static constexpr const char* name = "divergent_fragment_load";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = tile<bf16, 16>::take(smem, 16);
    const int t = thread_index();
    if (t < 32) store_vec(s.at(t / 2, t % 2 * 8), 0, vec<bf16, 8>{});
    sync_block();
    frag_a<M, bf16> a{};
    if (!Planted || lane<M>() < 16) {
      FAULTY a = load_a<M>(s, 0, 0);
    }
    store(p.y, t, unpack<bf16>(a.r[0], 0));
  }
};

// A fragment load reads what other lanes wrote: program order of each lane is not enough.
template <class M, bool Planted>
struct fragment_without_sync : fault_kernel<M> {
  static constexpr const char* name = "fragment_without_sync";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = tile<bf16, 16>::take(smem, 16 * 128 / M::lanes);
    const int l = lane<M>(), first = warp<M>() * 16;
    if (l < 16) {
      FAULTY store_vec(s.at(first + l, 0), 0, vec<bf16, 8>{});
      FAULTY store_vec(s.at(first + l, 8), 0, vec<bf16, 8>{});
    }
    if (!Planted) sync_warp();
    FAULTY const auto a = load_a<M>(s, first, 0);
    store(p.y, thread_index(), unpack<bf16>(a.r[0], 0));
  }
};

}  // namespace warploom::simt::test
