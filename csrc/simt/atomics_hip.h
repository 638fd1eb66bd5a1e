// Atomics as HIP spells them.
#pragma once

#include "simt/words_device.h"

namespace warploom::simt {

namespace device {

template <order O>
inline constexpr int memory_order = O == order::relaxed   ? __ATOMIC_RELAXED
                                    : O == order::acquire ? __ATOMIC_ACQUIRE
                                    : O == order::release ? __ATOMIC_RELEASE
                                                          : __ATOMIC_ACQ_REL;
template <scope S>
inline constexpr int memory_scope = S == scope::block    ? __HIP_MEMORY_SCOPE_WORKGROUP
                                    : S == scope::device ? __HIP_MEMORY_SCOPE_AGENT
                                                         : __HIP_MEMORY_SCOPE_SYSTEM;

template <order O, scope S>
SIMT_DEVICE uint32_t atomic_load_bits(const uint32_t* p) {
  return __hip_atomic_load(p, memory_order<O>, memory_scope<S>);
}
template <order O, scope S>
SIMT_DEVICE void atomic_store_bits(uint32_t* p, uint32_t v) {
  __hip_atomic_store(p, v, memory_order<O>, memory_scope<S>);
}
template <order O, scope S, class T>
SIMT_DEVICE T fetch_add(T* p, T v) {
  return __hip_atomic_fetch_add(p, v, memory_order<O>, memory_scope<S>);
}
template <order O, scope S, class T>
SIMT_DEVICE T fetch_max(T* p, T v) {
  return __hip_atomic_fetch_max(p, v, memory_order<O>, memory_scope<S>);
}
template <order O, scope S, class T>
SIMT_DEVICE T compare_exchange(T* p, T expected, T desired) {
  T found = expected;
  constexpr int failure =
      O == order::relaxed || O == order::release ? __ATOMIC_RELAXED : __ATOMIC_ACQUIRE;
  __hip_atomic_compare_exchange_strong(p, &found, desired, memory_order<O>, failure,
                                       memory_scope<S>);
  return found;
}
SIMT_DEVICE void pause() {
#if defined(__HIP_DEVICE_COMPILE__)
  __builtin_amdgcn_s_sleep(1);
#endif
}

}  // namespace device

}  // namespace warploom::simt
