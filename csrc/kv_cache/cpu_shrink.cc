// Rewrites codes to a lower width, by the formulas of kv_cache/format.h on vectors.
#include <algorithm>
#include <cstring>

#include "base/vec.h"
#include "kv_cache/cpu.h"
#include "kv_cache/pages.h"

namespace warploom::kv_cache {
namespace {

typedef uint64_t Doubles __attribute__((vector_size(4 * kLanes)));
typedef uint32_t HalfWords __attribute__((vector_size(2 * kLanes)));

// A vector's even words and its odd ones: the two that neighbours in a row become.
inline Doubles load_doubles(const uint8_t* p) {
  Doubles x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline HalfWords narrow(Doubles x) { return __builtin_convertvector(x, HalfWords); }

// `out` may be `in`: what is written has been read before. `ahead` is what comes next: blocks of
// low widths are short and lie apart, where no processor foresees them.
template <int bits, int to>
void shrink_tiles(const uint8_t* in, uint8_t* out, int64_t count, const uint8_t* ahead) {
  constexpr int kLine = 64, kRatio = bits / to;
  const int64_t lines = count * to / 8 / kLine;
  for (int64_t line = 0; line < lines; ++line) {
    for (int n = 0; n < kRatio; ++n) __builtin_prefetch(ahead + (line * kRatio + n) * kLine, 0, 2);
    for (int at = 0; at < kLine; at += int(sizeof(Doubles))) {
      Doubles from[kRatio];
      for (int n = 0; n < kRatio; ++n) {
        from[n] = load_doubles(in + (line * kRatio + n) * kLine + at);
      }
      const Doubles joined = join<bits, to>(from);
      std::memcpy(out + line * kLine + at, &joined, sizeof joined);
    }
  }
}

// One word from two of a row, or from four.
template <int bits, int to>
uint32_t shrink_word(const uint8_t* in) {
  Doubles lines[bits / to];
  for (int n = 0; n < bits / to; ++n) {
    uint32_t word;
    std::memcpy(&word, in + 4 * n, 4);
    lines[n] = Doubles{} + word;
  }
  return uint32_t(join<bits, to>(lines)[0]);
}

template <int bits, int to>
void shrink_rows(const uint8_t* in, uint8_t* out, int64_t count, const uint8_t*) {
  constexpr int kRatio = bits / to, kWords = kLanes / 2;  // of the result, to a vector
  const int64_t words = count * to / 32;
  int64_t word = 0;
  for (; word + kWords <= words; word += kWords) {
    // Each 64-bit lane holds two words that meet; where four do, lanes meet in a second step.
    HalfWords joined;
    if constexpr (kRatio == 2) {
      const Doubles x = load_doubles(in + word * kRatio * 4);
      const Doubles lines[2] = {x, x >> 32};
      joined = narrow(join<bits, to>(lines));
    } else {
      typedef uint32_t Both __attribute__((vector_size(4 * kLanes)));
      HalfWords half[2];
      for (int n = 0; n < 2; ++n) {
        const Doubles x = load_doubles(in + word * kRatio * 4 + n * sizeof(Doubles));
        half[n] = narrow(join_4(x, x >> 32));
      }
      Both both;
      std::memcpy(&both, half, sizeof both);
      const Doubles x = Doubles(both);
      joined = narrow(join_2(x, x >> 32));
    }
    std::memcpy(out + word * 4, &joined, sizeof joined);
  }
  for (; word < words; ++word) {
    const uint32_t joined = shrink_word<bits, to>(in + word * kRatio * 4);
    std::memcpy(out + word * 4, &joined, 4);
  }
}

using Loop = void (*)(const uint8_t*, uint8_t*, int64_t, const uint8_t*);

template <int bits, int to>
Loop loop_of(int order) {
  return order == WL_KV_TILES ? &shrink_tiles<bits, to> : &shrink_rows<bits, to>;
}

}  // namespace

wl_status shrink(const wl_kv_shrink_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const Loop loop = p.bits == 4 ? loop_of<4, 2>(p.order)
                    : p.to == 4 ? loop_of<8, 4>(p.order)
                                : loop_of<8, 2>(p.order);
  // A block that is rewritten in place is one piece: its end is read after its start is written.
  // Others are cut. Small blocks go together.
  constexpr int64_t kPiece = 1 << 16;
  const bool in_place = p.out == p.codes;
  const int64_t cut = in_place ? std::max<int64_t>(p.count, 1) : kPiece;
  const int64_t cuts = (p.count + cut - 1) / cut;
  const int64_t together = std::max<int64_t>(kPiece / std::max<int64_t>(p.count, 1), 1);
  const int64_t runs = (p.blocks + together - 1) / together;
  parallel_for(threads, runs * cuts, [&](int64_t piece, int) {
    const int64_t first = piece / cuts * together, from = piece % cuts * cut;
    const int64_t codes = std::min(cut, p.count - from);
    const auto place = [&](int64_t n) { return p.index ? int64_t{p.index[n]} : n; };
    const auto source = [&](int64_t n) {
      return p.codes + place(n) * p.stride + from * p.bits / 8;
    };
    for (int64_t n = first; n < std::min(first + together, p.blocks); ++n) {
      loop(source(n), p.out + place(n) * p.out_stride + from * p.to / 8, codes,
           source(std::min(n + 1, p.blocks - 1)));
    }
  });
  return WL_OK;
}

// Blocks of tiles that tags find: of any widths, keys and values.
wl_status shrink_pages(const wl_kv_blocks_params& p) {
  int threads;
  WL_RETURN_IF_ERROR(resolve_threads(p.exec.threads, &threads));
  const wl_kv_pages& pages = p.pages;
  const auto start_of = [&](int64_t n) {
    return pages.pool + int64_t{pages.tags[p.blocks[n]] >> 2} * pages.quantum_bytes;
  };
  constexpr int64_t kPiece = 1 << 16;
  const int64_t codes = std::max<int64_t>(pages.page * std::max(pages.d, pages.dv), 1);
  const int64_t together = std::max<int64_t>(kPiece / codes, 1);
  parallel_for(threads, (p.count + together - 1) / together, [&](int64_t piece, int) {
    const int64_t end = std::min((piece + 1) * together, p.count);
    for (int64_t n = piece * together; n < end; ++n) {
      int32_t& tag = pages.tags[p.blocks[n]];
      const Loop loop = width_of(tag) == 4 ? loop_of<4, 2>(WL_KV_TILES)
                        : p.bits[n] == 4   ? loop_of<8, 4>(WL_KV_TILES)
                                           : loop_of<8, 2>(WL_KV_TILES);
      uint8_t* start = start_of(n);
      loop(start, start, pages.page * (p.blocks[n] % 2 ? pages.dv : pages.d),
           start_of(std::min(n + 1, p.count - 1)));
      tag = (tag & ~3) | (p.bits[n] == 4 ? 1 : 0);
    }
  });
  return WL_OK;
}

}  // namespace warploom::kv_cache
