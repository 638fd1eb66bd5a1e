// Words as NVIDIA spells them (sm_80 and later).
#pragma once

#include "simt/words_device.h"

namespace warploom::simt {

namespace device {

SIMT_DEVICE uint32_t shared_address(uint32_t offset) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(warploom_simt_shared)) + offset;
}

template <bool Trans, class T>
SIMT_DEVICE vec<uint32_t, 4> ldmatrix_x4(shared<T> row, site) {
  vec<uint32_t, 4> r;
  const uint32_t at = shared_address(row.offset);
  if constexpr (Trans) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  }
  return r;
}

// c += a * b on m16n8k16, fp32 accumulation.
template <class T>
SIMT_DEVICE void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, site) {
  if constexpr (__is_same(T, bf16)) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

SIMT_DEVICE void converge(site) {}

template <int N, class T>
vec<T, N> fragment_vec(shared<T>, site) = delete;

template <class T>
void mfma_16x16x16(float*, const uint32_t*, const uint32_t*, site) = delete;

}  // namespace device

SIMT_DEVICE void sync_warp(site = site::current()) { __syncwarp(); }

template <class M, class T>
SIMT_DEVICE T shuffle_xor(T value, int mask, site = site::current()) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class M, class T>
SIMT_DEVICE T shuffle(T value, int from_lane, site = site::current()) {
  return __shfl_sync(0xffffffffu, value, from_lane);
}
template <class M>
SIMT_DEVICE bool any(bool value, site = site::current()) {
  return __any_sync(0xffffffffu, value);
}
template <class M>
SIMT_DEVICE bool all(bool value, site = site::current()) {
  return __all_sync(0xffffffffu, value);
}

// N 16-byte copies per thread from global to shared memory, in flight together.
template <int N>
class copy_ticket {
 public:
  SIMT_DEVICE copy_ticket() {}
  copy_ticket(const copy_ticket&) = delete;
  copy_ticket& operator=(const copy_ticket&) = delete;

  template <class T>
  SIMT_DEVICE void copy(int, shared<T> to, global<const std::type_identity_t<T>> from, bool inside,
                        site = site::current()) {
    const int bytes = inside ? 16 : 0;
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(device::shared_address(to.offset)),
        "l"(from.p), "r"(bytes)
        : "memory");
  }
  SIMT_DEVICE void commit(site = site::current()) {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  template <int Newer = 0>
  SIMT_DEVICE void land(site = site::current()) {
    asm volatile("cp.async.wait_group %0;" ::"n"(Newer) : "memory");
  }
};

}  // namespace warploom::simt
