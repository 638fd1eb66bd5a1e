// Atomic words on CUDA and HIP, over either's spelling.
#pragma once

#if defined(WARPLOOM_SIMT_CUDA)
#include "simt/atomics_cuda.h"
#else
#include "simt/atomics_hip.h"
#endif

namespace warploom::simt {

template <order O, scope S, class P>
SIMT_DEVICE auto atomic_load(P p, int64_t i, site = site::current()) {
  using T = std::remove_cvref_t<decltype(*device::address(p, 0))>;
  static_assert(sizeof(T) == 4 && (O == order::relaxed || O == order::acquire));
  return number::bit_cast<T>(
      device::atomic_load_bits<O, S>(reinterpret_cast<const uint32_t*>(device::address(p, i))));
}
template <order O, scope S, class P, class T>
SIMT_DEVICE void atomic_store(P p, int64_t i, T value, site = site::current()) {
  static_assert(sizeof(T) == 4 && (O == order::relaxed || O == order::release));
  device::atomic_store_bits<O, S>(reinterpret_cast<uint32_t*>(device::address(p, i)),
                                  number::bit_cast<uint32_t>(value));
}
template <order O, scope S, class P, class T>
SIMT_DEVICE T atomic_add(P p, int64_t i, T value, site = site::current()) {
  return device::fetch_add<O, S>(device::address(p, i), value);
}
template <order O, scope S, class P, class T>
SIMT_DEVICE T atomic_max(P p, int64_t i, T value, site = site::current()) {
  return device::fetch_max<O, S>(device::address(p, i), value);
}
template <order O, scope S, class P, class T>
SIMT_DEVICE T atomic_cas(P p, int64_t i, T expected, T desired, site = site::current()) {
  return device::compare_exchange<O, S>(device::address(p, i), expected, desired);
}

template <scope S = scope::device>
SIMT_DEVICE bool wait_at_least(global<int32_t> p, int64_t i, int32_t value, int64_t max_spins,
                               site = site::current()) {
  for (int64_t spin = 0; spin < max_spins; ++spin) {
    if (atomic_load<order::acquire, S>(p, i) >= value) return true;
    device::pause();
  }
  return false;
}

SIMT_DEVICE bool sync_block_all(bool value, site = site::current()) {
  return __syncthreads_and(value) != 0;
}

}  // namespace warploom::simt
