// Blocks of pages to codes, and back to values.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "base/scratch.h"
#include "kv_cache/cpu.h"
#include "kv_cache/cpu_blocks.h"

namespace warploom::kv_cache {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

void note(std::atomic<int64_t>& first, int64_t n) {
  int64_t before = first.load();
  while (n < before && !first.compare_exchange_weak(before, n)) {
  }
}

wl_status no_memory() { return fail(WL_MEMORY, "host memory ran out for the codes of a block"); }

void set_width(const wl_kv_pages& p, int64_t page, int64_t head, int side, int bits) {
  int32_t& tag = p.tags[(page * p.hk + head) * 2 + side];
  tag = (tag & ~3) | (bits == 8 ? 2 : bits == 4 ? 1 : 0);
}

const char* side_name(bool values) { return values ? "values" : "keys"; }

// What is wrong with a block that has no codes.
template <class T>
wl_status refuse(const Block& b, int64_t page, int64_t head, const T* x) {
  using ll = long long;
  for (int64_t n = 0; n < b.count(); ++n) {
    const float value = to_float(x[n]);
    if (std::isfinite(value)) continue;
    return fail(WL_INVALID,
                "%s of page %lld, head %lld, position %lld, channel %lld: %g must be "
                "finite",
                side_name(b.values), ll(page), ll(head), ll(n / b.dim), ll(n % b.dim),
                double(value));
  }
  return fail(WL_INVALID, "%s of page %lld, head %lld: a group spans more than bfloat16 holds",
              side_name(b.values), ll(page), ll(head));
}

// The first 2 * half channels of a position, turned.
void turn(float* x, int64_t half, bool interleaved, const float* cos, const float* sin) {
  const int64_t apart = interleaved ? 1 : half, step = interleaved ? 2 : 1;
  for (int64_t i = 0; i < half; ++i) {
    float &a = x[i * step], &b = x[i * step + apart];
    const float turned = a * cos[i] - b * sin[i];
    b = b * cos[i] + a * sin[i];
    a = turned;
  }
}

// Whether bfloat16 holds every value and every group has a grid (as appended values do).
bool storable(const float* x, int64_t count) {
  bool good = true;
  for (int64_t n = 0; n < count; ++n)
    good = good && std::fabs(to_float(from_float<bf16>(x[n]))) < 0x1p127f;
  return good;
}

}  // namespace

wl_status quantize_pages(const wl_kv_blocks_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  std::atomic<int64_t> bad{kNone};
  std::atomic<bool> failed{false};
  const auto place = [&](int64_t n) {
    return std::pair{p.blocks[n] / 2 / p.pages.hk, p.blocks[n] / 2 % p.pages.hk};
  };
  parallel_for(threads, p.count, [&](int64_t n, int) {
    const auto [page, head] = place(n);
    const Block b = block_of(p.pages, page, head, p.blocks[n] % 2);
    auto* codes = reinterpret_cast<uint8_t*>(thread_scratch(size_t(b.count())));
    if (!codes) {
      failed = true;
    } else if (!quantize_block(b, p.bits[n], reinterpret_cast<const bf16*>(b.bytes), codes)) {
      note(bad, n);
    } else {
      put_codes(b, p.bits[n], codes);
      set_width(p.pages, page, head, p.blocks[n] % 2, p.bits[n]);
    }
  });
  if (failed) return no_memory();
  if (bad == kNone) return WL_OK;
  const auto [page, head] = place(bad);
  const Block b = block_of(p.pages, page, head, p.blocks[bad] % 2);
  return refuse(b, page, head, reinterpret_cast<const bf16*>(b.bytes));
}

template <class T>
wl_status gather(const wl_kv_gather_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  constexpr int64_t kPiece = 16;
  std::atomic<bool> failed{false};
  parallel_for(threads, (p.count + kPiece - 1) / kPiece, [&](int64_t piece, int) {
    auto* codes =
        reinterpret_cast<uint8_t*>(thread_scratch(size_t(std::max(p.pages.d, p.pages.dv))));
    if (!codes) {
      failed = true;
      return;
    }
    for (int64_t n = piece * kPiece; n < std::min((piece + 1) * kPiece, p.count); ++n) {
      const int64_t page = p.slots[n] / p.pages.page, at = p.slots[n] % p.pages.page;
      for (int64_t head = 0; head < p.pages.hk; ++head) {
        for (int side = 0; side < 2; ++side) {
          const Block b = block_of(p.pages, page, head, side);
          T* x = static_cast<T*>(side ? p.v : p.k) + (n * p.pages.hk + head) * b.dim;
          if (b.width < 16) {
            get_values(b, at, codes, x);
            continue;
          }
          const bf16* from = reinterpret_cast<const bf16*>(b.bytes) + at * b.dim;
          const Floats largest = broadcast(kLargest<T>);
          for (int64_t c = 0; c < b.dim; c += kLanes) {
            store_rounded(x + c, max(min(load_floats(from + c), largest), -largest));
          }
        }
      }
    }
  });
  return failed ? no_memory() : WL_OK;
}

wl_status rotate(const wl_kv_rotate_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  std::atomic<int64_t> bad{kNone};
  std::atomic<bool> failed{false};
  const int64_t hk = p.pages.hk;
  parallel_for(threads, p.count * hk, [&](int64_t n, int) {
    Block b = block_of(p.pages, p.index[n / hk], n % hk, 0);
    const int64_t count = b.count();
    const int64_t grids = 2 * b.groups() * b.lanes();
    Parts parts(thread_scratch(size_t(count * 5 + grids * 2 + 1024)));
    float* x = parts.take<float>(count);
    uint8_t* codes = parts.take<uint8_t>(count);
    uint16_t* made = parts.take<uint16_t>(grids);
    if (!x) {
      failed = true;
      return;
    }
    bf16* stored = reinterpret_cast<bf16*>(b.bytes);
    bool good = true;
    for (int64_t at = 0; at < b.positions; ++at) {
      float* row = x + at * b.dim;
      if (b.width < 16) {
        get_values(b, at, codes, row);
      } else {
        for (int64_t c = 0; c < b.dim; ++c) row[c] = to_float(stored[at * b.dim + c]);
      }
      const int64_t offset = n / hk * p.page_stride + at * p.position_stride;
      // What lies beyond a sequence's end may be anything, and stays so.
      const bool were = storable(row, b.dim);
      turn(row, p.half, p.interleaved, p.cos + offset, p.sin + offset);
      good = good && (!were || storable(row, b.dim));
    }
    if (!good) {
      note(bad, n);
    } else if (b.width == 16) {
      for (int64_t c = 0; c < count; c += kLanes) store_rounded(stored + c, load(x + c));
    } else {
      Block fresh = b;
      fresh.grids = made;
      quantize_block(fresh, b.width, x, codes);
      std::memcpy(b.grids, made, grids * sizeof *made);
      put_codes(b, b.width, codes);
    }
  });
  if (failed) return no_memory();
  if (bad == kNone) return WL_OK;
  return fail(WL_INVALID,
              "keys of page %d, head %lld: turned, they must be finite and below 2^127; this block "
              "stays as it was, others may have been turned",
              p.index[bad / hk], static_cast<long long>(bad % hk));
}

template wl_status gather<float>(const wl_kv_gather_params&);
template wl_status gather<f16>(const wl_kv_gather_params&);
template wl_status gather<bf16>(const wl_kv_gather_params&);

}  // namespace warploom::kv_cache
