// A producer block and consumer blocks that meet through a signal in global memory; and two warps
// of one block that meet through a flag in shared memory.
#pragma once

#include "kernels/faults.cuh"

namespace warploom::simt::test {

enum class signal_bug {
  none,
  before_the_data,
  no_barrier_before,  // one thread signals for others that may not be done
  relaxed_signal,
  relaxed_wait,
  block_scope,       // signals its own block, the reader is in another
  no_barrier_after,  // one thread acquires, the others just read
  never_sent,
  spin_forever,  // never sent, and the waiter counts no spins
  not_resident,  // more waiting blocks than fit beside the producer
};

constexpr int32_t wait_failed = 7;

template <class M, signal_bug Bug>
struct signal_kernel : fault_kernel<M> {
  static constexpr const char* name = "signal";
  static constexpr bool all_resident = Bug != signal_bug::not_resident;
  SIMT_HOST_DEVICE static constexpr bool is(signal_bug b) { return Bug == b; }

  // The last block produces y[0..128), the others sum it into y[128 + block]. Flag 1 is the error
  // word.
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index();
    if (block_x() == grid_x() - 1) {
      if (is(signal_bug::before_the_data) && t == 0) red_release_add(p.flags, 0, 1);
      FAULTY store(p.y, t, load(p.x, t));
      if (!is(signal_bug::no_barrier_before)) sync_block();
      if (t != 0 || is(signal_bug::before_the_data) || is(signal_bug::never_sent) ||
          is(signal_bug::spin_forever)) {
        return;
      }
      if (is(signal_bug::relaxed_signal)) {
        red_relaxed_add(p.flags, 0, 1);
      } else if (is(signal_bug::block_scope)) {
        red_release_add<scope::block>(p.flags, 0, 1);
      } else {
        red_release_add(p.flags, 0, 1);
      }
      return;
    }
    bool came = true;
    if (t == 0) {
      if (is(signal_bug::relaxed_wait)) {
        while (ld_relaxed(p.flags, 0) < 1) {
        }
      } else if (is(signal_bug::spin_forever)) {
        FAULTY while (ld_acquire(p.flags, 0) < 1) {}
      } else {
        FAULTY came = wait_at_least(p.flags, 0, 1, 1 << 20);
      }
    }
    if (!is(signal_bug::no_barrier_after)) came = sync_block_all(came);
    float sum = 0.0f;
    if (came) {
      for (int i = 0; i < 128; ++i) {
        FAULTY sum += load(p.y, i);
      }
    } else {
      set_error(p.flags + 1, wait_failed);
      sum = -1.0f;
    }
    if (t == 0) store(p.y, 128 + block_x(), sum);
  }
};

// Warps of a block hand a shared buffer back and forth without a block barrier.
template <class M, bool Planted>
struct shared_flag : fault_kernel<M> {
  static constexpr const char* name = "shared_flag";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto data = smem.take<float>(M::lanes);
    const auto flag = smem.take<int32_t>(2);  // 0: full, 1: empty
    const int l = lane<M>(), w = warp<M>();
    if (thread_index() < 2) store(flag, thread_index(), 0);
    sync_block();
    for (int32_t round = 1; round <= 3; ++round) {
      if (w == 0) {
        if (l == 0) {
          while (ld_acquire<scope::block>(flag, 1) < round - 1) {
          }
        }
        sync_warp();
        FAULTY store(data, l, load(p.x, l) + static_cast<float>(round));
        sync_warp();
        if (l == 0) red_release_add<scope::block>(flag, 0, 1);
      } else if (w == 1) {
        if (l == 0) {
          while (ld_acquire<scope::block>(flag, 0) < round) {
          }
        }
        sync_warp();
        FAULTY const float v = load(data, l ^ 1);
        if (!Planted) sync_warp();  // all lanes have read before one says so
        if (l == 0) red_release_add<scope::block>(flag, 1, 1);
        store(p.y, l, v);
      }
    }
  }
};

// Every block writes, all meet at a counter, every block reads what its neighbour wrote.
template <class M, bool Planted>
struct grid_barrier : fault_kernel<M> {
  static constexpr const char* name = "grid_barrier";
  static constexpr bool all_resident = true;
  SIMT_DEVICE static void run(const buffers& p) {
    const int t = thread_index(), b = block_x(), n = grid_x();
    float v = 1.0f;
    for (int round = 0; round < 2; ++round) {
      for (int phase = 1; phase <= 2; ++phase) {
        if (t < 16) {
          if (phase == 1) {
            FAULTY store(p.y, b * 16 + t, v);
          } else {
            FAULTY v += load(p.y, (b + 1) % n * 16 + t);
          }
        }
        if (Planted && phase == 2) continue;  // the next round overwrites what others still read
        sync_block();
        if (t == 0) {
          red_release_add(p.flags, 0, 1);
          const int meetings = Planted ? round + 1 : round * 2 + phase;
          wait_at_least(p.flags, 0, n * meetings, 1 << 20);
        }
        sync_block();
      }
    }
    if (t < 16) store(p.y, 128 + b * 16 + t, v);
  }
};

}  // namespace warploom::simt::test
