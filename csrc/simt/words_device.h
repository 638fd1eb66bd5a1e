// Words that CUDA and HIP spell alike: indices, loads and stores.
#pragma once

#include "simt/machine.h"
#include "simt/number.h"
#include "simt/pointer.h"

extern __shared__ __align__(128) unsigned char warploom_simt_shared[];

namespace warploom::simt {

SIMT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
SIMT_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
SIMT_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
SIMT_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
SIMT_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
SIMT_DEVICE int grid_x() { return static_cast<int>(gridDim.x); }
SIMT_DEVICE int grid_y() { return static_cast<int>(gridDim.y); }
SIMT_DEVICE int grid_z() { return static_cast<int>(gridDim.z); }

namespace device {

// Bytes that one instruction moves, as a type that stays in registers: HIP's compiler keeps copies
// of structs and arrays in memory where control flow joins.
template <int Bytes>
struct raw;
template <>
struct raw<1> {
  using type = uint8_t;
};
template <>
struct raw<2> {
  using type = uint16_t;
};
template <>
struct raw<4> {
  using type = uint32_t;
};
#if defined(WARPLOOM_SIMT_HIP)
template <>
struct raw<8> {
  using type = uint32_t __attribute__((ext_vector_type(2)));
};
template <>
struct raw<16> {
  using type = uint32_t __attribute__((ext_vector_type(4)));
};
#else
template <>
struct raw<8> {
  using type = uint2;
};
template <>
struct raw<16> {
  using type = uint4;
};
#endif
template <int Bytes>
using raw_t = typename raw<Bytes>::type;

template <class T>
SIMT_DEVICE T* address(global<T> p, int64_t i) {
  return p.p + i;
}
template <class T>
SIMT_DEVICE T* address(shared<T> p, int i) {
  return reinterpret_cast<T*>(warploom_simt_shared + p.offset + i * static_cast<int>(sizeof(T)));
}

}  // namespace device

template <class T>
SIMT_DEVICE std::remove_const_t<T> load(global<T> p, int64_t i = 0, site = site::current()) {
  return *device::address(p, i);
}
template <class T>
SIMT_DEVICE T load(shared<T> p, int i = 0, site = site::current()) {
  return *device::address(p, i);
}
template <class T>
SIMT_DEVICE void store(global<T> p, int64_t i, std::type_identity_t<T> value,
                       site = site::current()) {
  *device::address(p, i) = value;
}
template <class T>
SIMT_DEVICE void store(shared<T> p, int i, std::type_identity_t<T> value, site = site::current()) {
  *device::address(p, i) = value;
}
template <int N, class T>
SIMT_DEVICE vec<std::remove_const_t<T>, N> load_vec(global<T> p, int64_t i = 0,
                                                    site = site::current()) {
  using bits = device::raw_t<N * sizeof(T)>;
  return number::bit_cast<vec<std::remove_const_t<T>, N>>(
      *reinterpret_cast<const bits*>(device::address(p, i)));
}
template <int N, class T>
SIMT_DEVICE vec<T, N> load_vec(shared<T> p, int i = 0, site = site::current()) {
  using bits = device::raw_t<N * sizeof(T)>;
  return number::bit_cast<vec<T, N>>(*reinterpret_cast<const bits*>(device::address(p, i)));
}
template <class T, int N>
SIMT_DEVICE void store_vec(global<T> p, int64_t i, vec<T, N> value, site = site::current()) {
  using bits = device::raw_t<N * sizeof(T)>;
  *reinterpret_cast<bits*>(device::address(p, i)) = number::bit_cast<bits>(value);
}
template <class T, int N>
SIMT_DEVICE void store_vec(shared<T> p, int i, vec<T, N> value, site = site::current()) {
  using bits = device::raw_t<N * sizeof(T)>;
  *reinterpret_cast<bits*>(device::address(p, i)) = number::bit_cast<bits>(value);
}

SIMT_DEVICE int opaque(int x) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(x));
#elif defined(__HIP_DEVICE_COMPILE__)
  asm volatile("" : "+v"(x));
#endif
  return x;
}

SIMT_DEVICE void sync_block(site = site::current()) { __syncthreads(); }

}  // namespace warploom::simt
