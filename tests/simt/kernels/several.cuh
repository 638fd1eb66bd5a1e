// Two launches that share a workspace, and a chain of waits: what an operation of several kernels
// needs of the emulator's bookkeeping.
#pragma once

#include "kernels/faults.cuh"

namespace warploom::simt::test {

// y[i] = i for the first half of the workspace only.
template <class M>
struct write_half : fault_kernel<M> {
  static constexpr const char* name = "write_half";
  SIMT_DEVICE static void run(const buffers& p) {
    store(p.y, thread_index(), static_cast<float>(thread_index()));
  }
};

// Reads the half that the launch before wrote, or also the other one.
template <class M, bool Planted>
struct read_back : fault_kernel<M> {
  static constexpr const char* name = "read_back";
  SIMT_DEVICE static void run(const buffers& p) {
    const int i = thread_index() + (Planted ? 1 : 0);
    FAULTY const float v = load(p.y, i);
    if (v != static_cast<float>(i)) set_error(p.flags, 1);
  }
};

// Every lane releases on its own, without any barrier; one thread waits for them all, then writes
// over what they read.
template <class M, bool Planted>
struct lanes_arrive_one_by_one : fault_kernel<M> {
  static constexpr const char* name = "lanes_arrive_one_by_one";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(4);
    const auto arrived = smem.take<int32_t>(1);
    const int t = thread_index();
    if (t == 0) {
      store(s, 0, 1.0f);
      store(arrived, 0, 0);
    }
    sync_block();
    FAULTY const float v = load(s, 0);
    store(p.y, t, v);
    if (t != 5 || !Planted) red_release_add<scope::block>(arrived, 0, 1);
    if (t == 0) {
      while (ld_acquire<scope::block>(arrived, 0) < block_threads() - (Planted ? 1 : 0)) {
      }
      FAULTY store(s, 0, 2.0f);
    }
  }
};

// Each thread changes its own element in place, next to its neighbours': no conflict. Two threads
// that change one element are one.
template <class M, bool Planted>
struct in_place : fault_kernel<M> {
  static constexpr const char* name = "in_place";
  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<bf16>(128);
    const int t = thread_index(), i = Planted && t == 9 ? 8 : t;
    store(s, t, to<bf16>(1.0f));
    sync_block();
    for (int round = 0; round < 3; ++round) {
      FAULTY const float v = to_float(load(s, i));
      FAULTY store(s, i, to<bf16>(v + 1.0f));
    }
    store(p.y, t, 0.0f);
  }
};

// All blocks read one table, as they do lengths or a mask's tiles; one of them may not write it.
template <class M, bool Planted>
struct table_for_all : fault_kernel<M> {
  static constexpr const char* name = "table_for_all";
  SIMT_DEVICE static void run(const buffers& p) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) {
      FAULTY sum += load(p.flags, i);
    }
    if (Planted && block_x() == 3 && thread_index() == 0) {
      FAULTY store(p.flags, 7, sum);
    }
  }
};

}  // namespace warploom::simt::test
