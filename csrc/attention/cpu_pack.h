// Packing of rows into the words that cpu_gemm.h multiplies, and of its result back into rows.
// Storage types that the target cannot multiply become float here; bfloat16 stays where it can be
// multiplied, as pairs. Rows may be strided, unaligned and of any length.
#pragma once

#include <algorithm>
#include <type_traits>

#include "attention/cpu_gemm.h"
#include "base/vec_half.h"
#include "base/vec_transpose.h"

namespace warploom::attention {

// What elements of type T are multiplied as.
template <class T>
using WordOf = std::conditional_t<kPairDot && std::is_same_v<T, bf16>, Pair, float>;

// Elements that one word holds.
template <class Word>
inline constexpr int kPerWord = std::is_same_v<Word, Pair> ? 2 : 1;

// Words that hold n elements. The last one may be half empty: packing puts zero there.
template <class Word>
constexpr int64_t words(int64_t n) {
  return (n + kPerWord<Word> - 1) / kPerWord<Word>;
}

// Whether rows of d elements can be multiplied where they lie (raw_words), without pack_rows.
template <class T>
constexpr bool can_read_raw(int64_t d, int64_t row_stride) {
  constexpr int kElements = kPerWord<WordOf<T>>;
  return sizeof(WordOf<T>) == sizeof(T) * kElements && d % kElements == 0 &&
         row_stride % kElements == 0;
}
template <class T>
const WordOf<T>* raw_words(const T* p) {
  return reinterpret_cast<const WordOf<T>*>(p);
}

namespace pack_detail {

template <class Word>
inline void store_words(Word* to, Words x, int64_t count) {
  if (count >= kLanes) {
    std::memcpy(to, &x, sizeof x);  // of constant size: one store
  } else {
    std::memcpy(to, &x, count * sizeof(Word));
  }
}

// `from`, or a copy in `buffer` with zeros behind, if fewer elements than a vector may be read.
template <class T, size_t elements>
inline const T* readable(const T* from, int64_t count, T (&buffer)[elements]) {
  if (count >= int64_t(elements)) return from;
  std::memset(buffer, 0, sizeof buffer);
  if (count > 0) std::memcpy(buffer, from, count * sizeof(T));
  return buffer;
}

// kLanes consecutive words of a row of which `count` elements may be read.
template <class T>
inline Words load_words(const T* from, int64_t count) {
  T buffer[kLanes * kPerWord<WordOf<T>>];
  from = readable(from, count, buffer);
  if constexpr (std::is_same_v<WordOf<T>, Pair>) {
    return load(raw_words(from));
  } else {
    return bits(load_floats(from));
  }
}

// kLanes columns of one row, or of a row and the next (zero if nullptr), as words along the rows.
template <class T>
inline Words load_columns(const T* row, const T* next, int64_t count) {
  T buffer[kLanes];
  if constexpr (std::is_same_v<WordOf<T>, Pair>) {
    const Words low = __builtin_convertvector(load_halves(readable(row, count, buffer)), Words);
    if (!next) return low;
    const Halves high = load_halves(readable(next, count, buffer));
    return low | (__builtin_convertvector(high, Words) << 16);
  } else {
    return bits(load_floats(readable(row, count, buffer)));
  }
}

}  // namespace pack_detail

// Rows become lanes: to[k * kStrip + lane] is word k of rows[lane], for k < words(d). Lanes from
// `count` on are zero. The B operand of sums over d (queries in S^T = K Q^T).
template <class T>
void pack_lanes(const T* const* rows, int count, int64_t d, WordOf<T>* to) {
  using Word = WordOf<T>;
  for (int first = 0; first < kStrip; first += kLanes) {
    for (int64_t k = 0; k < words<Word>(d); k += kLanes) {
      const int64_t c = k * kPerWord<Word>;
      Words block[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        block[lane] =
            first + lane < count ? pack_detail::load_words(rows[first + lane] + c, d - c) : Words{};
      }
      transpose(block);
      const int64_t depth = std::min<int64_t>(kLanes, words<Word>(d) - k);
      for (int64_t i = 0; i < depth; ++i) {
        pack_detail::store_words(to + (k + i) * kStrip + first, block[i], kLanes);
      }
    }
  }
}

// Rows stay rows: word k of row r to to[r * words(d) + k]. The A operand of sums over d (keys in
// S^T = K Q^T) where can_read_raw says no.
template <class T>
void pack_rows(const T* from, int64_t row_stride, int64_t rows, int64_t d, WordOf<T>* to) {
  using Word = WordOf<T>;
  const int64_t depth = words<Word>(d);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < depth; k += kLanes) {
      const int64_t c = k * kPerWord<Word>;
      const Words x = pack_detail::load_words(from + r * row_stride + c, d - c);
      pack_detail::store_words(to + r * depth + k, x, depth - k);
    }
  }
}

// Rows become depth: to[k * width + c] is column c of row k, or of the rows 2 k and 2 k + 1, for
// k < words(rows). Columns from d to width, and a row that the last pair lacks, are zero. The A or
// B operand of sums over rows (values in O^T = V^T P^T).
template <class T>
void pack_depth(const T* from, int64_t row_stride, int64_t rows, int64_t d, int64_t width,
                WordOf<T>* to) {
  constexpr int64_t kRowsPerWord = kPerWord<WordOf<T>>;
  for (int64_t r = 0; r < rows; r += kRowsPerWord, to += width) {
    const T* row = from + r * row_stride;
    const T* next = r + 1 < rows ? row + row_stride : nullptr;
    for (int64_t c = 0; c < width; c += kLanes) {
      const Words x = pack_detail::load_columns(row + c, next ? next + c : nullptr, d - c);
      pack_detail::store_words(to + c, x, width - c);
    }
  }
}

// Clears row r of what pack_depth wrote.
template <class Word>
void clear_depth_row(int64_t r, int64_t width, Word* to) {
  if constexpr (std::is_same_v<Word, Pair>) {
    to += r / 2 * width;
    for (int64_t c = 0; c < width; ++c) {
      to[c] = Pair(uint32_t(to[c]) & (r % 2 ? 0x0000ffffu : 0xffff0000u));
    }
  } else {
    std::fill_n(to + r * width, width, Word{0});
  }
}

// Whether there is neither NaN nor infinity in rows of d elements.
template <class T>
bool all_finite(const T* from, int64_t row_stride, int64_t rows, int64_t d) {
  constexpr int kSums = 4;   // chains, as one waits for its own last sum
  Floats zeros[kSums] = {};  // the sums of 0 * x
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = from + r * row_stride;
    int64_t c = 0;
    for (; c + kSums * kLanes <= d; c += kSums * kLanes) {
      for (int i = 0; i < kSums; ++i) {
        const Floats x = load_floats(row + c + i * kLanes);
        zeros[i] = multiply_add(x, broadcast(0.0f), zeros[i]);
      }
    }
    for (; c < d; c += kLanes) {
      T buffer[kLanes];
      const T* x = pack_detail::readable(row + c, d - c, buffer);
      zeros[0] = multiply_add(load_floats(x), broadcast(0.0f), zeros[0]);
    }
  }
  const Floats sum = (zeros[0] + zeros[1]) + (zeros[2] + zeros[3]);
  bool finite = true;
  for (int lane = 0; lane < kLanes; ++lane) finite &= sum[lane] == 0;
  return finite;
}

// Lanes become rows: rows[lane][c] = from[c * kStrip + lane] for lane < count, c < d.
template <class T>
void unpack_lanes(const float* from, int64_t d, int count, T* const* rows) {
  for (int first = 0; first < count; first += kLanes) {
    const int lanes = std::min(kLanes, count - first);
    for (int64_t c = 0; c < d; c += kLanes) {
      const int64_t columns = std::min<int64_t>(kLanes, d - c);
      Words block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = i < columns ? bits(load(from + (c + i) * kStrip + first)) : Words{};
      }
      transpose(block);
      for (int lane = 0; lane < lanes; ++lane) {
        T* to = rows[first + lane] + c;
        if (columns == kLanes) {
          store_floats(to, from_bits(block[lane]));
        } else {
          T narrow[kLanes];
          store_floats(narrow, from_bits(block[lane]));
          std::memcpy(to, narrow, columns * sizeof(T));
        }
      }
    }
  }
}

}  // namespace warploom::attention
