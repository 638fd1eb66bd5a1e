// Products of small integers with tiles of codes: what scores of coded keys and sums of coded
// values have in common. A tile is 16 rows of codes whose words of four take turns
// (docs/kv_cache_format.md), so lanes are keys, or channels of values, and nothing is summed across
// them.
//
// An engine says in which form coefficients (queries, weights) meet codes:
//   FloatCodes      float32, on every target
//   ShortCodes      16 bits, pairs of products at a time (x86)
//   ByteCodes<n>    n levels of 8 bits, four products at a time (AVX-512 VNNI)
// Codes may enter less an offset of the engine's choice; the caller's grids put it back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "base/vec.h"

namespace warploom::attention {

inline constexpr int kTileRows = 16;  // rows of a tile; also the multiple of everything here
inline constexpr int kLineBytes = 64;
inline constexpr int kChunkVectors = kTileRows / kLanes;  // vectors that hold 16 values

enum class Side { kKeys, kValues };

// Into the second level cache; of any address. As assembly, because GCC drops calls of functions
// that do nothing but prefetch.
inline void fetch_ahead(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__aarch64__)
  asm volatile("prfm pldl2keep, [%0]" : : "r"(p));
#endif
}

// Nearest integers of |x| < 2^22, ties to even.
inline Ints round_to_int(Floats x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the integer ends in the low bits
  return Ints(bits(x + broadcast(kRound))) - int32_t{0x4b400000};
}

inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// One word of codes out of a line of 8 / bits, a byte to each code.
template <int bits>
inline Words word_of(Words line, int part) {
  if constexpr (bits == 8) return line;
  constexpr uint32_t kMask = (bits == 4 ? 0x0fu : 0x03u) * 0x01010101u;
  return (line >> uint32_t(part * bits)) & kMask;
}

struct FloatCodes {
  using Sum = Floats;
  using Codes = Floats[4];
  static constexpr int kWords = 4;    // words of coefficients to a word of codes
  static constexpr int kStep = 4;     // from one word of codes' to the next's
  static constexpr int kVectors = 2;  // of lanes, in a full tile

  // What is taken from every code before it is multiplied.
  template <Side, int bits>
  static constexpr int offset() {
    return 1 << (bits - 1);
  }
  template <Side side, int bits>
  static void split(Words line, int part, Codes& codes) {
    constexpr uint32_t kMask = (1u << bits) - 1, kBias = 0x4b000000u;  // the bits of 2^23
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Words code = (line >> uint32_t(8 * i + part * bits)) & kMask;
      codes[i] = from_bits(code | kBias) - broadcast(0x1p23f + offset<side, bits>());
    }
  }
  template <Side>
  static void add(const Codes& codes, const Words* coefficients, Sum& sum) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum = multiply_add(codes[i], from_bits(coefficients[i]), sum);
  }
  static Floats total(Sum sum) { return sum; }
};

#if defined(__SSE2__) && !defined(__AVX512VNNI__)
struct ShortCodes {
  using Sum = Ints;
  struct Codes {
    Words even, odd;
  };
  static constexpr int kWords = 2;
  static constexpr int kStep = 2;
  static constexpr int kVectors = 2;
  // Sums of 256 products with 8 bit codes stay within 32 bits.
  static constexpr float kQueryLimit = 32767, kWeightLimit = 32767;

  template <Side, int bits>
  static constexpr int offset() {
    return 0;
  }
  template <Side, int bits>
  static void split(Words line, int part, Codes& codes) {
    constexpr uint32_t kMask = ((1u << bits) - 1) * 0x00010001u;
    codes.even = (line >> uint32_t(part * bits)) & kMask;
    codes.odd = (line >> uint32_t(8 + part * bits)) & kMask;
  }
  template <Side>
  static void add(const Codes& codes, const Words* coefficients, Sum& sum) {
    sum += pairs(codes.even, coefficients[0]);
    sum += pairs(codes.odd, coefficients[1]);
  }
  static Floats total(Sum sum) { return to_floats(sum); }

  // 16 integers: of each four, the first and third are a word, the second and fourth the next.
  template <Side>
  static void pack(const Ints* values, uint32_t* words, int64_t chunk, int64_t) {
    uint32_t* at = words + chunk * (kTileRows / 2);
#if defined(__AVX2__)
    const __m256i packed =
        _mm256_permute4x64_epi64(_mm256_packs_epi32(__m256i(values[0]), __m256i(values[1])), 0xd8);
    const __m256i mixed = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(packed, 0xd8), 0xd8);
    std::memcpy(at, &mixed, sizeof mixed);
#else
    for (int i = 0; i < 2; ++i) {
      const __m128i packed = _mm_packs_epi32(__m128i(values[2 * i]), __m128i(values[2 * i + 1]));
      const __m128i mixed = _mm_shufflehi_epi16(_mm_shufflelo_epi16(packed, 0xd8), 0xd8);
      std::memcpy(at + 4 * i, &mixed, sizeof mixed);
    }
#endif
  }

 private:
  static Ints pairs(Words a, Words b) {
#if defined(__AVX2__)
    return Ints(_mm256_madd_epi16(__m256i(a), __m256i(b)));
#else
    return Ints(_mm_madd_epi16(__m128i(a), __m128i(b)));
#endif
  }
};
#endif

#if defined(__AVX512VNNI__)
// The instruction multiplies bytes without a sign by bytes with one: codes by queries, and weights,
// which are not negative, by codes. Codes of 8 bits get a sign by taking 128 from them.
template <int levels>
struct ByteCodes {
  struct Sum {
    Ints level[levels];
  };
  using Codes = Words;
  static constexpr int kWords = levels;
  static constexpr int kStep = 1;
  static constexpr int kVectors = levels == 1 ? 4 : 2;
  static constexpr float kQueryLimit = levels == 1 ? 127 : 127 * 256 + 127;
  static constexpr float kWeightLimit = levels == 1 ? 255 : 65535;

  template <Side side, int bits>
  static constexpr int offset() {
    return side == Side::kValues && bits == 8 ? 128 : 0;
  }
  template <Side side, int bits>
  static void split(Words line, int part, Codes& codes) {
    codes = word_of<bits>(line, part);
    if constexpr (offset<side, bits>() != 0) codes ^= 0x80808080u;
  }
  template <Side side>
  static void add(const Codes& codes, const Words* coefficients, Sum& sum) {
#pragma GCC unroll 2
    for (int n = 0; n < levels; ++n) {
      const __m512i a = __m512i(side == Side::kKeys ? codes : coefficients[n]);
      const __m512i b = __m512i(side == Side::kKeys ? coefficients[n] : codes);
      sum.level[n] = Ints(_mm512_dpbusd_epi32(__m512i(sum.level[n]), a, b));
    }
  }
  // The first level holds the high bytes.
  static Floats total(const Sum& sum) {
    if constexpr (levels == 1) return to_floats(sum.level[0]);
    return to_floats((sum.level[0] << 8) + sum.level[1]);
  }

  template <Side side>
  static void pack(const Ints* values, uint32_t* words, int64_t chunk, int64_t plane) {
    const auto keep = [&](int level, Ints bytes) {
      const __m128i narrow = _mm512_maskz_cvtepi32_epi8(0xffff, __m512i(bytes));
      std::memcpy(words + level * plane + chunk * (kTileRows / 4), &narrow, sizeof narrow);
    };
    if constexpr (levels == 1) {
      keep(0, values[0]);
    } else {
      // Bytes with a sign: a low one from -128 to 127 leaves the nearest multiple of 256.
      keep(0, (values[0] + (side == Side::kKeys ? 128 : 0)) >> 8);
      keep(1, values[0]);
    }
  }
};
#endif

// From one part of a word's coefficients to the next, in a row that has them for `words` words of
// codes: each part by itself, or all parts of a word side by side.
template <class Engine>
constexpr int64_t plane_of(int64_t words) {
  return Engine::kStep == 1 ? words : 1;
}

template <class Engine>
inline constexpr bool kFloats = std::is_same_v<Engine, FloatCodes>;

// The engines of each precision for 16-bit queries; exact for float32 ones is FloatCodes.
#if defined(__AVX512VNNI__)
using ExactCodes = ByteCodes<2>;
using FastCodes = ByteCodes<1>;
#elif defined(__SSE2__)
using ExactCodes = ShortCodes;
using FastCodes = ShortCodes;
#else
using ExactCodes = FloatCodes;
using FastCodes = FloatCodes;
#endif

// Where the coefficients of some rows lie: word `word`, part `part` of row `row` is at
// data[row * stride + word * Engine::kStep + part * plane].
struct Coefficients {
  const uint32_t* data;
  int64_t stride, plane;
};

// Sums over `lines` lines from `line` on, of `vectors` vectors of lanes from lane `lane` on.
// tile_bytes: from one tile to the next. The first line's first word meets the coefficients at
// data. What lies `ahead` bytes on, read next in the same order, is fetched meanwhile.
template <class Engine, Side side, int bits, int rows, int vectors>
[[gnu::always_inline]] inline void dot_tiles(const uint8_t* block, int64_t tile_bytes, int64_t lane,
                                             int64_t line, int64_t lines, int64_t ahead,
                                             const Coefficients& c,
                                             Floats (&totals)[rows][vectors]) {
  constexpr int kParts = 8 / bits;
  const uint8_t* at[vectors];
#pragma GCC unroll 4
  for (int n = 0; n < vectors; ++n) {
    const int64_t first = lane + n * kLanes;
    at[n] = block + first / kTileRows * tile_bytes + line * kLineBytes + first % kTileRows * 4;
  }
  typename Engine::Sum sums[rows][vectors] = {};
  const uint32_t* word = c.data;
  for (int64_t i = 0; i < lines; ++i) {
    Words read[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) {
      std::memcpy(&read[n], at[n] + i * kLineBytes, sizeof read[n]);
      fetch_ahead(at[n] + i * kLineBytes + ahead);
    }
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      typename Engine::Codes codes[vectors];
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) Engine::template split<side, bits>(read[n], part, codes[n]);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        Words coefficients[Engine::kWords];
#pragma GCC unroll 4
        for (int k = 0; k < Engine::kWords; ++k) {
          coefficients[k] = broadcast(word[r * c.stride + k * c.plane]);
        }
#pragma GCC unroll 4
        for (int n = 0; n < vectors; ++n) {
          Engine::template add<side>(codes[n], coefficients, sums[r][n]);
        }
      }
      word += Engine::kStep;
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) totals[r][n] = Engine::total(sums[r][n]);
  }
}

}  // namespace warploom::attention
