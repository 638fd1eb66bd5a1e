// Typed pointers to global and shared memory. There is no operator[] and no operator*: memory is
// reached by the load and store words alone, so that the emulator sees every access.
#pragma once

#include <type_traits>

#include "simt/target.h"

namespace warploom::simt {

// Global memory. Made on the host by make_global (launch.h), which tells the emulator its extent.
template <class T>
struct global {
  T* p;
#if defined(WARPLOOM_SIMT_EMULATED)
  const char* low;
  const char* high;
#endif
  SIMT_HOST_DEVICE global operator+(int64_t n) const {
    global q = *this;
    q.p += n;
    return q;
  }
  SIMT_HOST_DEVICE explicit operator bool() const { return p != nullptr; }
  template <class U>
    requires(std::is_same_v<U, const T> && !std::is_const_v<T>)
  SIMT_HOST_DEVICE operator global<U>() const {
#if defined(WARPLOOM_SIMT_EMULATED)
    return {p, low, high};
#else
    return {p};
#endif
  }
};

// [b, s, h, d] by its strides.
template <class T>
struct view {
  global<T> data;
  int64_t batch, row, head;

  SIMT_DEVICE global<T> at(int64_t b, int64_t s, int64_t h) const {
    return data + (b * batch + s * row + h * head);
  }
};

// Shared memory of the block: a byte offset into it, so that every target addresses it directly.
template <class T>
struct shared {
  uint32_t offset;
#if defined(WARPLOOM_SIMT_EMULATED)
  uint32_t low;
  uint32_t high;
#endif
  SIMT_HOST_DEVICE shared operator+(int n) const {
    shared q = *this;
    q.offset += static_cast<uint32_t>(n) * static_cast<uint32_t>(sizeof(T));
    return q;
  }
  // The same bytes, for elements of another type: a sync_block stands between the two uses.
  template <class U>
  SIMT_HOST_DEVICE shared<U> as() const {
#if defined(WARPLOOM_SIMT_EMULATED)
    return {offset, low, high};
#else
    return {offset};
#endif
  }
};

// Hands out the block's shared memory piece by piece; every thread takes the same pieces in the
// same order. The launch says how much there is: see arena_bytes and tile::bytes.
class arena {
 public:
  static constexpr uint32_t alignment = 128;

  template <class T>
  SIMT_HOST_DEVICE shared<T> take(int count) {
    const uint32_t low = used_;
    const uint32_t high = low + static_cast<uint32_t>(count) * static_cast<uint32_t>(sizeof(T));
    used_ = (high + alignment - 1) / alignment * alignment;
#if defined(WARPLOOM_SIMT_EMULATED)
    return {low, low, high};
#else
    return {low};
#endif
  }
  SIMT_HOST_DEVICE uint32_t used() const { return used_; }

 private:
  uint32_t used_ = 0;
};

// What take<T>(count) uses of a launch's shared memory.
template <class T>
SIMT_HOST_DEVICE constexpr uint32_t arena_bytes(int count) {
  return (static_cast<uint32_t>(count) * static_cast<uint32_t>(sizeof(T)) + arena::alignment - 1) /
         arena::alignment * arena::alignment;
}

// A row-major tile of 16-byte chunks in shared memory, laid out free of bank conflicts for the
// fragment loads: chunks are exchanged within a row where a row has 2, 4, 8, ... of them, and
// rows are padded to an odd number of chunks elsewhere. Columns must fill whole chunks.
template <class T, int Cols>
struct tile {
  static constexpr int chunk = 16 / static_cast<int>(sizeof(T));
  static_assert(Cols % chunk == 0, "a tile's row must fill whole 16-byte chunks");
  static constexpr int cols = Cols;
  static constexpr int chunks = Cols / chunk;
  static constexpr bool exchanged = chunks > 1 && (chunks & (chunks - 1)) == 0;
  static constexpr int stride = (exchanged || chunks % 2 == 1 ? chunks : chunks + 1) * chunk;

  shared<T> base;

  SIMT_HOST_DEVICE static constexpr int elements(int rows) { return rows * stride; }
  SIMT_HOST_DEVICE static constexpr uint32_t bytes(int rows) {
    return arena_bytes<T>(elements(rows));
  }
  SIMT_HOST_DEVICE static tile take(arena& smem, int rows) {
    return {smem.take<T>(elements(rows))};
  }
  // Element offset of (row, col); the elements of one chunk stay together and in order.
  SIMT_HOST_DEVICE static constexpr int offset(int row, int col) {
    if constexpr (exchanged) {
      constexpr int wide = chunks < 8 ? chunks : 8;  // 8 chunks span all banks
      const int turn = (row / (8 / wide)) % wide;
      return row * stride + ((col / chunk) ^ turn) * chunk + col % chunk;
    }
    return row * stride + col;
  }
  SIMT_HOST_DEVICE shared<T> at(int row, int col) const { return base + offset(row, col); }
};

}  // namespace warploom::simt
