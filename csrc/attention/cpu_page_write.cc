// Scatters new keys and values to their slots.
#include <cstring>

#include "attention/cpu.h"
#include "attention/cpu_view.h"

namespace warploom::attention {
namespace {

// Heads that lie side by side on both sides are one copy.
template <class T>
void copy_heads(T* to, int64_t to_stride, const T* from, int64_t from_stride, int64_t heads,
                int64_t d) {
  if (to_stride == d && from_stride == d) {
    std::memcpy(to, from, heads * d * sizeof(T));
    return;
  }
  for (int64_t head = 0; head < heads; ++head) {
    std::memcpy(to + head * to_stride, from + head * from_stride, d * sizeof(T));
  }
}

}  // namespace

template <class T>
wl_status page_write(const wl_page_write_params& params) {
  const auto& p = params;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  // Some tens of KiB to a piece. Of two rows for one slot, either may be the one that stays.
  const int64_t token_bytes = std::max<int64_t>(p.hk * (p.d + p.dv) * int64_t(sizeof(T)), 1);
  const int64_t piece = std::max<int64_t>((int64_t{128} << 10) / token_bytes, 1);
  parallel_for(threads, (p.tokens + piece - 1) / piece, [&](int64_t index, int) {
    const int64_t last = std::min((index + 1) * piece, p.tokens);
    for (int64_t n = index * piece; n < last; ++n) {
      const int64_t slot = p.slots[n];
      if (slot < 0) continue;
      const int64_t page = slot / p.capacity, position = slot % p.capacity;
      copy_heads(row<T>(p.k_pages, page, position, 0), p.k_pages.stride[2],
                 row<const T>(p.k, 0, n, 0), p.k.stride[2], p.hk, p.d);
      copy_heads(row<T>(p.v_pages, page, position, 0), p.v_pages.stride[2],
                 row<const T>(p.v, 0, n, 0), p.v.stride[2], p.hk, p.dv);
    }
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(page_write, wl_page_write_params)
