// Scatters new keys and values to their slots.
#include <cstring>

#include "attention/cpu.h"
#include "attention/cpu_view.h"

namespace warploom::attention {

template <class T>
wl_status page_write(const wl_page_write_params& params) {
  const auto& p = params;
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  parallel_for(p.tokens < 64 ? 1 : threads, p.tokens, [&](int64_t n, int) {
    const int64_t slot = p.slots[n];
    if (slot < 0) return;
    const int64_t page = slot / p.capacity, position = slot % p.capacity;
    for (int64_t head = 0; head < p.hk; ++head) {
      std::memcpy(row<T>(p.k_pages, page, position, head), row<const T>(p.k, 0, n, head),
                  p.d * sizeof(T));
      std::memcpy(row<T>(p.v_pages, page, position, head), row<const T>(p.v, 0, n, head),
                  p.dv * sizeof(T));
    }
  });
  return WL_OK;
}

}  // namespace warploom::attention

WL_INSTANTIATE(page_write, wl_page_write_params)
