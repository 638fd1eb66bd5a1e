// Rows of a cache: where they lie, and reading them before they are needed.
#pragma once

#include <algorithm>

#include "attention/cpu_view.h"

namespace warploom::attention {

// Where the positions of one sequence lie, for the first of some kv heads.
template <class T>
class CacheRows {
 public:
  CacheRows(const wl_strided& cache, const wl_attention_decode_params& p, int64_t sequence,
            int64_t head)
      : first_(row<const T>(cache, p.page_table ? 0 : sequence, 0, head)),
        page_stride_(cache.stride[0]),
        row_stride_(cache.stride[1]),
        head_stride_(cache.stride[2]),
        pages_(p.page_table ? p.page_table + sequence * p.page_table_stride : nullptr),
        capacity_(p.capacity) {}

  const T* operator[](int64_t position) const {
    if (!pages_) return first_ + position * row_stride_;
    return first_ + pages_[position / capacity_] * page_stride_ +
           position % capacity_ * row_stride_;
  }
  int64_t head_stride() const { return head_stride_; }

 private:
  const T* first_;
  int64_t page_stride_, row_stride_, head_stride_;
  const int32_t* pages_;
  int64_t capacity_;
};

// Prefetches rows in the order of memory, a few lines whenever the arithmetic has used as many, so
// that both go on at once.
template <class T>
class Ahead {
 public:
  // `heads` of `d` elements in every row of `keys`. The first `distance` bytes are prefetched at
  // once, and that far ahead it stays.
  Ahead(const CacheRows<T>& rows, Range keys, int64_t heads, int64_t d, int64_t distance)
      : rows_(rows), key_(keys.begin), last_(keys.end) {
    const bool side_by_side = rows.head_stride() == d;
    spans_ = side_by_side ? 1 : heads;
    span_bytes_ = (side_by_side ? heads : 1) * d * int64_t(sizeof(T));
    used(distance);
  }

  void used(int64_t bytes) {
    for (used_ += bytes; used_ >= kBurst; used_ -= kBurst) prefetch();
  }

 private:
  static constexpr int64_t kBurst = 4 * 64;  // bytes

  [[gnu::noinline]] void prefetch() {
    for (int64_t bytes = kBurst; bytes > 0;) {
      if (at_ == end_ && !next_span()) return;
      const int64_t count = std::min<int64_t>(bytes, end_ - at_);
      for (int64_t n = 0; n < count; n += 64) __builtin_prefetch(at_ + n);
      at_ += count;
      bytes -= count;
    }
  }

  bool next_span() {
    if (key_ >= last_) return false;
    at_ = reinterpret_cast<const char*>(rows_[key_] + span_ * rows_.head_stride());
    end_ = at_ + span_bytes_;
    if (++span_ == spans_) span_ = 0, ++key_;
    return true;
  }

  const CacheRows<T> rows_;
  int64_t key_, last_;
  int64_t spans_, span_ = 0, span_bytes_, used_ = 0;
  const char *at_ = nullptr, *end_ = nullptr;
};

}  // namespace warploom::attention
