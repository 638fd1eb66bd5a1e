// Atomics as PTX spells them: order and scope are in the opcode.
#pragma once

#include "simt/words_device.h"

namespace warploom::simt {

namespace device {

template <scope S>
SIMT_DEVICE void fence() {
  if constexpr (S == scope::block) {
    __threadfence_block();
  } else if constexpr (S == scope::device) {
    __threadfence();
  } else {
    __threadfence_system();
  }
}

// PTX spells order and scope in the opcode; T is one of int32_t, uint32_t, uint64_t, float.
#define WARPLOOM_SIMT_SCOPED(S, STATEMENT)     \
  if constexpr ((S) == scope::block) {         \
    STATEMENT("cta");                          \
  } else if constexpr ((S) == scope::device) { \
    STATEMENT("gpu");                          \
  } else {                                     \
    STATEMENT("sys");                          \
  }

template <order O, scope S>
SIMT_DEVICE uint32_t atomic_load_bits(const uint32_t* p) {
  uint32_t v;
#define WARPLOOM_ACQ(SC) \
  asm volatile("ld.acquire." SC ".b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory")
#define WARPLOOM_RLX(SC) \
  asm volatile("ld.relaxed." SC ".b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory")
  if constexpr (O == order::acquire) {
    WARPLOOM_SIMT_SCOPED(S, WARPLOOM_ACQ)
  } else {
    WARPLOOM_SIMT_SCOPED(S, WARPLOOM_RLX)
  }
#undef WARPLOOM_ACQ
#undef WARPLOOM_RLX
  return v;
}

template <order O, scope S>
SIMT_DEVICE void atomic_store_bits(uint32_t* p, uint32_t v) {
#define WARPLOOM_REL(SC) asm volatile("st.release." SC ".b32 [%0], %1;" ::"l"(p), "r"(v) : "memory")
#define WARPLOOM_RLX(SC) asm volatile("st.relaxed." SC ".b32 [%0], %1;" ::"l"(p), "r"(v) : "memory")
  if constexpr (O == order::release) {
    WARPLOOM_SIMT_SCOPED(S, WARPLOOM_REL)
  } else {
    WARPLOOM_SIMT_SCOPED(S, WARPLOOM_RLX)
  }
#undef WARPLOOM_REL
#undef WARPLOOM_RLX
}
#undef WARPLOOM_SIMT_SCOPED

// Read-modify-write: the relaxed intrinsic between the fences that the order asks for.
template <order O, scope S>
SIMT_DEVICE void before_rmw() {
  if constexpr (O == order::release || O == order::acq_rel) fence<S>();
}
template <order O, scope S>
SIMT_DEVICE void after_rmw() {
  if constexpr (O == order::acquire || O == order::acq_rel) fence<S>();
}
template <order O, scope S, class T>
SIMT_DEVICE T fetch_add(T* p, T v) {
  T old;
  before_rmw<O, S>();
  if constexpr (S == scope::block) {
    old = ::atomicAdd_block(p, v);
  } else if constexpr (S == scope::device) {
    old = ::atomicAdd(p, v);
  } else {
    old = ::atomicAdd_system(p, v);
  }
  after_rmw<O, S>();
  return old;
}
template <order O, scope S, class T>
SIMT_DEVICE T fetch_max(T* p, T v) {
  T old;
  before_rmw<O, S>();
  if constexpr (S == scope::block) {
    old = ::atomicMax_block(p, v);
  } else if constexpr (S == scope::device) {
    old = ::atomicMax(p, v);
  } else {
    old = ::atomicMax_system(p, v);
  }
  after_rmw<O, S>();
  return old;
}
template <order O, scope S, class T>
SIMT_DEVICE T compare_exchange(T* p, T expected, T desired) {
  T old;
  before_rmw<O, S>();
  if constexpr (S == scope::block) {
    old = ::atomicCAS_block(p, expected, desired);
  } else if constexpr (S == scope::device) {
    old = ::atomicCAS(p, expected, desired);
  } else {
    old = ::atomicCAS_system(p, expected, desired);
  }
  after_rmw<O, S>();
  return old;
}
SIMT_DEVICE void pause() { __nanosleep(64); }

}  // namespace device

}  // namespace warploom::simt
