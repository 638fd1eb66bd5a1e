// Words as the checking emulator carries them out: same names and contracts, every access and
// every rendezvous reported to it together with its place in the source.
#pragma once

#include "simt/emulator/hooks.h"
#include "simt/machine.h"
#include "simt/number.h"
#include "simt/pointer.h"

namespace warploom::simt {

inline int thread_index() { return emulator::self().thread; }
inline int opaque(int x) { return x; }
inline int block_threads() { return emulator::self().block_threads; }
inline int block_x() { return emulator::self().block[0]; }
inline int block_y() { return emulator::self().block[1]; }
inline int block_z() { return emulator::self().block[2]; }
inline int grid_x() { return emulator::self().grid[0]; }
inline int grid_y() { return emulator::self().grid[1]; }
inline int grid_z() { return emulator::self().grid[2]; }

namespace emulator {

template <class T>
constexpr operand element() {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
  return std::is_same_v<T, bf16> ? operand::bf16 : operand::f16;
}

// The memory behind T[count] at p[i], or null where the access must not happen.
template <class T>
T* reach(access kind, global<T> p, int64_t i, int count, site at) {
  const char* where = reinterpret_cast<const char*>(p.p) + i * static_cast<int64_t>(sizeof(T));
  const bool ok = touch_global(kind, where, sizeof(T) * count, {p.low, p.high}, at);
  return ok ? reinterpret_cast<T*>(const_cast<char*>(where)) : nullptr;
}
template <class T>
T* reach(access kind, shared<T> p, int i, int count, site at) {
  const int64_t offset = static_cast<int64_t>(p.offset) + int64_t{i} * int64_t{sizeof(T)};
  char* where = touch_shared(kind, offset, sizeof(T) * count, p.low, p.high, at);
  return reinterpret_cast<T*>(where);
}

template <class T, class P>
T read(P p, int64_t i, int count, site at) {
  T value{};
  if (const void* from = reach(access::read, p, i, count, at)) std::memcpy(&value, from, sizeof(T));
  return value;
}
template <class T, class P>
void write(P p, int64_t i, int count, const T& value, site at) {
  if (void* to = reach(access::write, p, i, count, at)) std::memcpy(to, &value, sizeof(T));
}

}  // namespace emulator

template <class T>
std::remove_const_t<T> load(global<T> p, int64_t i = 0, site at = site::current()) {
  return emulator::read<std::remove_const_t<T>>(p, i, 1, at);
}
template <class T>
T load(shared<T> p, int i = 0, site at = site::current()) {
  return emulator::read<T>(p, i, 1, at);
}
template <class T>
void store(global<T> p, int64_t i, std::type_identity_t<T> value, site at = site::current()) {
  emulator::write(p, i, 1, value, at);
}
template <class T>
void store(shared<T> p, int i, std::type_identity_t<T> value, site at = site::current()) {
  emulator::write(p, i, 1, value, at);
}
template <int N, class T>
vec<std::remove_const_t<T>, N> load_vec(global<T> p, int64_t i = 0, site at = site::current()) {
  return emulator::read<vec<std::remove_const_t<T>, N>>(p, i, N, at);
}
template <int N, class T>
vec<T, N> load_vec(shared<T> p, int i = 0, site at = site::current()) {
  return emulator::read<vec<T, N>>(p, i, N, at);
}
template <class T, int N>
void store_vec(global<T> p, int64_t i, vec<T, N> value, site at = site::current()) {
  emulator::write(p, i, N, value, at);
}
template <class T, int N>
void store_vec(shared<T> p, int i, vec<T, N> value, site at = site::current()) {
  emulator::write(p, i, N, value, at);
}

inline void sync_block(site at = site::current()) { emulator::sync_block(true, at); }
inline bool sync_block_all(bool value, site at = site::current()) {
  return emulator::sync_block(value, at);
}
inline void sync_warp(site at = site::current()) { emulator::sync_warp(at); }

template <class M, class T>
T shuffle_xor(T value, int mask, site at = site::current()) {
  static_assert(sizeof(T) == 4);
  const int lane = thread_index() % M::lanes;
  return number::bit_cast<T>(
      emulator::shuffle(number::bit_cast<uint32_t>(value), lane ^ mask, M::lanes, at));
}
template <class M, class T>
T shuffle(T value, int from_lane, site at = site::current()) {
  static_assert(sizeof(T) == 4);
  return number::bit_cast<T>(
      emulator::shuffle(number::bit_cast<uint32_t>(value), from_lane, M::lanes, at));
}
template <class M>
bool any(bool value, site at = site::current()) {
  return emulator::vote(value, M::lanes, at) != 0;
}
template <class M>
bool all(bool value, site at = site::current()) {
  return emulator::vote(value, M::lanes, at) == M::lanes;
}

// Machine instructions, which the emulator carries out from their definitions (emulator/isa.cc).
namespace device {

template <bool Trans, class T>
vec<uint32_t, 4> ldmatrix_x4(shared<T> row, site at) {
  vec<uint32_t, 4> r{};
  emulator::ldmatrix_x4(r.v, row.offset, row.low, row.high, Trans, at);
  return r;
}
template <class T>
void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, site at) {
  emulator::mma_m16n8k16(c, a, b, emulator::element<T>(), at);
}
template <class T>
void mfma_16x16x16(float* d, const uint32_t* a, const uint32_t* b, site at) {
  emulator::mfma_16x16x16(d, a, b, emulator::element<T>(), at);
}
inline void converge(site at) { emulator::converge(at); }
template <int N, class T>
vec<T, N> fragment_vec(shared<T> p, site at) {
  vec<T, N> value{};
  if (const void* from = emulator::reach(emulator::access::fragment, p, 0, N, at)) {
    std::memcpy(&value, from, sizeof(value));
  }
  return value;
}

}  // namespace device

// N 16-byte copies per thread. The target is undefined until land, as if either platform wrote it
// at the worst moment: NVIDIA from the copy on, AMD not before the landing.
template <int N>
class copy_ticket {
  static_assert(N <= emulator::ticket_state::most);

 public:
  copy_ticket() = default;
  copy_ticket(const copy_ticket&) = delete;
  copy_ticket& operator=(const copy_ticket&) = delete;

  template <class T>
  void copy(int i, shared<T> to, global<const std::type_identity_t<T>> from, bool inside,
            site at = site::current()) {
    if (!emulator::ticket_copy(state_, i, N, at)) return;
    char* target =
        emulator::touch_shared(emulator::access::copy, to.offset, 16, to.low, to.high, at);
    const char* source = reinterpret_cast<const char*>(from.p);
    const bool reads = inside && emulator::touch_global(emulator::access::read, source, 16,
                                                        {from.low, from.high}, at);
    pending_[i] = {target, reads ? source : nullptr, to.offset};
  }
  void commit(site at = site::current()) { emulator::ticket_commit(state_, N, at); }
  template <int Newer = 0>
  void land(site at = site::current()) {
    emulator::ticket_land(state_, pending_, N, Newer, at);
  }

 private:
  emulator::ticket_state state_;
  emulator::pending_copy pending_[N];
};

template <order O, scope S, class P>
auto atomic_load(P p, int64_t i, site at = site::current()) {
  static_assert(O == order::relaxed || O == order::acquire);
  using T = std::remove_cvref_t<decltype(load(p, 0))>;
  emulator::poll(at);
  T value{};
  if (const T* from = emulator::reach(emulator::access::atomic_load, p, i, 1, at)) {
    value = *from;
    emulator::order_after(from, O, S, emulator::rmw::no);
  }
  return value;
}
template <order O, scope S, class P, class T>
void atomic_store(P p, int64_t i, T value, site at = site::current()) {
  static_assert(O == order::relaxed || O == order::release);
  if (auto* to = emulator::reach(emulator::access::atomic_store, p, i, 1, at)) {
    emulator::order_before(to, O, S, emulator::rmw::no);
    *to = value;
  }
}

namespace emulator {

template <order O, scope S, class P, class T, class F>
T modify(P p, int64_t i, site at, F next) {
  T old{};
  if (T* where = reach(access::atomic_modify, p, i, 1, at)) {
    order_after(where, O, S, rmw::yes);
    order_before(where, O, S, rmw::yes);
    old = *where;
    *where = next(old);
  }
  return old;
}

}  // namespace emulator

template <order O, scope S, class P, class T>
T atomic_add(P p, int64_t i, T value, site at = site::current()) {
  return emulator::modify<O, S, P, T>(p, i, at, [=](T old) { return old + value; });
}
template <order O, scope S, class P, class T>
T atomic_max(P p, int64_t i, T value, site at = site::current()) {
  return emulator::modify<O, S, P, T>(p, i, at, [=](T old) { return old > value ? old : value; });
}
template <order O, scope S, class P, class T>
T atomic_cas(P p, int64_t i, T expected, T desired, site at = site::current()) {
  return emulator::modify<O, S, P, T>(p, i, at,
                                      [=](T old) { return old == expected ? desired : old; });
}

// Gives up when nothing that still runs could raise the value, instead of counting spins.
template <scope S = scope::device>
bool wait_at_least(global<int32_t> p, int64_t i, int32_t value, int64_t max_spins,
                   site at = site::current()) {
  if (max_spins <= 0) return false;
  while (true) {
    const int32_t* where = emulator::reach(emulator::access::atomic_load, p, i, 1, at);
    if (!where) return false;
    if (*where >= value) {
      emulator::order_after(where, order::acquire, S, emulator::rmw::no);
      return true;
    }
    if (!emulator::wait(at)) return false;
  }
}

}  // namespace warploom::simt
