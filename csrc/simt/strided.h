// Host side: strided tensors as kernels see them. The emulator knows each row, not only the extent
// from first to last, so that the gaps between rows stay out of bounds of what was written.
#pragma once

#include <algorithm>
#include <string>

#include "simt/launch.h"

namespace warploom::simt {

// count[0] x count[1] x count[2] rows of `width` elements, apart by stride[].
struct rows {
  int64_t count[3];
  int64_t stride[3];
  int64_t width;

  bool empty() const { return count[0] == 0 || count[1] == 0 || count[2] == 0 || width == 0; }
  int64_t extent() const {
    if (empty()) return 0;
    int64_t last = 0;
    for (int i = 0; i < 3; ++i) last += (count[i] - 1) * stride[i];
    return last + width;
  }
};

#if defined(WARPLOOM_SIMT_EMULATED)

namespace emulator {

template <class T, class F>
void for_rows(T* p, const rows& r, F f) {
  if (r.empty()) return;
  for (int64_t i = 0; i < r.count[0]; ++i) {
    for (int64_t j = 0; j < r.count[1]; ++j) {
      for (int64_t k = 0; k < r.count[2]; ++k) {
        const T* row = p + i * r.stride[0] + j * r.stride[1] + k * r.stride[2];
        const char* low = reinterpret_cast<const char*>(row);
        f(extent{low, low + r.width * static_cast<int64_t>(sizeof(T))}, i, j, k);
      }
    }
  }
}

}  // namespace emulator

template <class T>
global<T> make_strided(T* p, const rows& r, memory state) {
  if (state != memory::kept) {
    emulator::for_rows(p, r, [&](emulator::extent e, int64_t, int64_t, int64_t) {
      emulator::declare(e, state == memory::written);
    });
  }
  return make_global(p, r.extent(), memory::kept);
}

// Says which element of an output no kernel wrote, if any.
template <class T>
outcome all_written(const char* name, T* p, const rows& r) {
  std::string missing;
  emulator::for_rows(p, r, [&](emulator::extent e, int64_t i, int64_t j, int64_t k) {
    if (!missing.empty()) return;
    const char* hole = emulator::first_unwritten(e);
    if (!hole) return;
    missing = std::string(name) + "[" + std::to_string(i) + ", " + std::to_string(j) + ", " +
              std::to_string(k) + ", " +
              std::to_string((hole - e.low) / static_cast<int64_t>(sizeof(T))) +
              "] was never written";
  });
  return {missing};
}

#else

template <class T>
global<T> make_strided(T* p, const rows&, memory) {
  return {p};
}
template <class T>
outcome all_written(const char*, T*, const rows&) {
  return {};
}

#endif

}  // namespace warploom::simt
