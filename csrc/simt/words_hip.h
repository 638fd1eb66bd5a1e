// Words as AMD spells them (gfx90a). The host pass parses this too, so machine instructions stand
// behind __HIP_DEVICE_COMPILE__.
#pragma once

#include "simt/words_device.h"

namespace warploom::simt {

namespace device {

using f32x4 = float __attribute__((ext_vector_type(4)));
using i16x4 = short __attribute__((ext_vector_type(4)));
using f16x4 = _Float16 __attribute__((ext_vector_type(4)));

// d += a * b on 16x16x16, fp32 accumulation.
template <class T>
SIMT_DEVICE void mfma_16x16x16(float* d, const uint32_t* a, const uint32_t* b, site) {
#if defined(__HIP_DEVICE_COMPILE__)
  f32x4 acc = {d[0], d[1], d[2], d[3]};
  const vec<uint32_t, 2> av = {a[0], a[1]}, bv = {b[0], b[1]};
  if constexpr (__is_same(T, bf16)) {
    acc = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(number::bit_cast<i16x4>(av),
                                                    number::bit_cast<i16x4>(bv), acc, 0, 0, 0);
  } else {
    acc = __builtin_amdgcn_mfma_f32_16x16x16f16(number::bit_cast<f16x4>(av),
                                                number::bit_cast<f16x4>(bv), acc, 0, 0, 0);
  }
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) d[i] = acc[i];
#endif
}

SIMT_DEVICE void converge(site) {}
template <int N, class T>
SIMT_DEVICE vec<T, N> fragment_vec(shared<T> p, site at) {
  return load_vec<N>(p, 0, at);
}

template <bool Trans, class T>
vec<uint32_t, 4> ldmatrix_x4(shared<T>, site) = delete;
template <class T>
void mma_m16n8k16(float*, const uint32_t*, const uint32_t*, site) = delete;

}  // namespace device

// A wave runs in step, so only the compiler has to be held back.
SIMT_DEVICE void sync_warp(site = site::current()) {
#if defined(__HIP_DEVICE_COMPILE__)
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
#endif
}

template <class M, class T>
SIMT_DEVICE T shuffle_xor(T value, int mask, site = site::current()) {
  return __shfl_xor(value, mask, M::lanes);
}
template <class M, class T>
SIMT_DEVICE T shuffle(T value, int from_lane, site = site::current()) {
  return __shfl(value, from_lane, M::lanes);
}
template <class M>
SIMT_DEVICE bool any(bool value, site = site::current()) {
  return __any(value);
}
template <class M>
SIMT_DEVICE bool all(bool value, site = site::current()) {
  return __all(value);
}

// N 16-byte copies per thread: the data waits in registers until it lands.
template <int N>
class copy_ticket {
 public:
  SIMT_DEVICE copy_ticket() {}
  copy_ticket(const copy_ticket&) = delete;
  copy_ticket& operator=(const copy_ticket&) = delete;

  template <class T>
  SIMT_DEVICE void copy(int i, shared<T> to, global<const std::type_identity_t<T>> from,
                        bool inside, site = site::current()) {
    to_[i] = to.offset;
    device::raw_t<16> data = {0, 0, 0, 0};
    if (inside) data = *reinterpret_cast<const device::raw_t<16>*>(from.p);
    data_[i] = data;
  }
  SIMT_DEVICE void commit(site = site::current()) {}
  template <int Newer = 0>
  SIMT_DEVICE void land(site = site::current()) {
    SIMT_UNROLL
    for (int i = 0; i < N; ++i) {
      *reinterpret_cast<device::raw_t<16>*>(warploom_simt_shared + to_[i]) = data_[i];
    }
  }

 private:
  uint32_t to_[N];
  device::raw_t<16> data_[N];
};

}  // namespace warploom::simt
