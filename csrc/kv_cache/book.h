// Which page holds what, in every layer of a cache: sequences, pages that they share, and where the
// blocks of pages lie. All of it is host memory. What lies in pages is the ops' business; the book
// says what they have to write (`work`) and is told when they have (`commit`, `settle`).
//
// One arena holds everything: tags and grids of pages from its start, blocks from its end. Pages of
// all layers are numbered together.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "kv_cache/slabs.h"
#include "warploom/kv_book.h"
#include "warploom/kv_pages.h"

namespace warploom::kv_cache {

// Blocks start at multiples of it: what 2 bit blocks of keys and of values have in common.
inline int64_t quantum_bytes_of(const wl_kv_book_params& p) {
  return p.page * std::gcd(p.d, p.dv) / 4;
}

class Book {
 public:
  explicit Book(const wl_kv_book_params& params);
  Book(const Book&) = delete;  // slabs tell it what they move

  int64_t add();
  wl_status fork(int64_t id, int64_t* made);
  wl_status free(int64_t id);
  wl_status reorder(std::span<const int64_t> ids, std::span<const int64_t> from);

  wl_status append(int64_t layer, std::span<const int64_t> ids, int64_t s);
  wl_status rebuild(int64_t layer, int64_t id, int64_t length, const int32_t* source,
                    const int32_t* widths);
  wl_status place(int64_t layer, int64_t id, int64_t length, const int32_t* widths);
  wl_status own(int64_t layer, int64_t id);
  wl_status next(bool* more);
  void commit();
  void abort();

  wl_status shrink(int64_t layer, int64_t id, const int32_t* bits, std::span<const int64_t> indices,
                   std::span<const int64_t> heads, bool shared);
  void settle();
  void settle_done(const int32_t* tags);

  wl_status set_bits(int64_t layer, const int32_t* bits);
  wl_status tables(int64_t layer, std::span<const int64_t> ids, int32_t* table, int64_t columns,
                   int32_t* lengths);
  wl_status row_of(int64_t layer, int64_t id, wl_kv_book_row* row);
  wl_status usage(int64_t layer, wl_kv_book_usage* usage) const;
  wl_status check() const;
  void view(wl_kv_book_view* view) const;
  void moved() { moves_.clear(); }

 private:
  struct Page {
    int32_t layer, refs;
    int32_t hot;  // sequences that want it in 16 bits: open, in the sink or in the window
  };
  struct Row {  // a sequence in a layer
    std::vector<int32_t> pages;
    int64_t length = 0;
    int64_t cold = 0;  // pages before this one left the window; those of the sink stay hot
  };
  struct Sequence {
    std::vector<Row> rows;
    uint64_t stamp = 0;
  };
  struct Layer {
    std::array<int32_t, 2> bits;
    int64_t pages = 0;
    std::array<int64_t, 2> units{};  // of keys, of values
  };
  struct Reserved {  // a page for place `at` of a row; old: the shared one that it replaces, or -1
    Row* row;
    int64_t at;
    int32_t page, old;
    bool cools;  // the old one: this row was the last to want it in 16 bits
  };
  struct Extent {  // how far a row reaches when the piece is written
    Row* row;
    int64_t length;
  };
  using Units = std::array<int64_t, 2>;  // of the classes
  struct Demand {
    Units peak{};  // at most at once, with what is given back on the way
    Units all{};
    int64_t pages = 0;
  };
  // An append, or a rebuild: then targets is the one row, and `made` what it becomes once the holes
  // of that are written. Until then the row is what it was.
  struct Writing {
    int64_t layer = 0, s = 0;
    std::vector<Row*> targets;
    size_t target = 0;
    int64_t done = 0;
    bool whole = false, rebuilding = false;
    Row made;
    std::vector<int32_t> widths;   // of a rebuild: [pages, hk, 2]
    std::vector<int32_t> written;  // pages that fill holes of `made`
  };

  // The arena (book_memory.cc).
  int class_of(int side) const { return classes_ == 1 ? 0 : side; }
  int64_t page_metadata() const { return p_.hk * (2 * 4 + key_grid_bytes_ + value_grid_bytes_); }
  int64_t key_grids_at(int64_t capacity) const { return (capacity * p_.hk * 8 + 63) / 64 * 64; }
  int64_t value_grids_at(int64_t capacity) const {
    return key_grids_at(capacity) + capacity * p_.hk * key_grid_bytes_;
  }
  int64_t metadata_bytes(int64_t capacity) const {
    return value_grids_at(capacity) + capacity * p_.hk * value_grid_bytes_;
  }
  int64_t slots_beside(int64_t metadata) const;
  int64_t quantum_of(int side, int64_t unit) const;
  int64_t unit_of(int32_t block) const;
  int32_t block_of(int64_t page, int64_t head, int side) const {
    return int32_t((page * p_.hk + head) * 2 + side);
  }
  int width_of(int32_t block) const { return 2 << (tags_[block] & 3); }
  void set_tag(int32_t block, int64_t unit, int width);
  void move_bytes(int64_t from, int64_t to, int64_t bytes);
  void relocate(int32_t block, int64_t to, int units);
  wl_status make_room(const Demand& demand, const char* what);
  void grow(int64_t capacity);
  int32_t take_page(int64_t layer, const int32_t* widths = nullptr);
  void release_page(int32_t page);
  void copy_page(int32_t from, int32_t to);
  bool room_for_a_page() const;

  // Sequences (book.cc).
  wl_status check_layer(int64_t layer) const;
  wl_status find(int64_t id, Sequence** sequence);
  wl_status find(int64_t layer, int64_t id, Row** row);
  int64_t sink_pages() const { return (p_.sink + p_.page - 1) / p_.page; }
  int64_t cold_of(int64_t length) const {
    return length > p_.window ? (length - p_.window) / p_.page : 0;
  }
  bool is_hot(const Row& row, int64_t at) const { return at >= row.cold || at < sink_pages(); }
  Sequence share(const Sequence& sequence);
  void drop(Row& row);
  void leave(int32_t page, bool hot);
  void chill();
  void plan(int32_t block, int bits);
  void narrow(int32_t block, int bits);
  void unlist(int32_t page);

  // Writing (book_write.cc), and what changes pages in other ways (book_edit.cc).
  Demand demand_of_append(int64_t layer, const std::vector<Row*>& rows, int64_t s) const;
  void reserve(Row* row, int64_t from, int64_t to);
  bool next_of_append();
  bool next_of_rebuild();
  void install();
  void extend(Row& row, int64_t length);
  Units units_of_page() const;
  void count_page(Demand& demand, const int32_t* widths) const;

  wl_kv_book_params p_;
  int classes_;
  int64_t key_grid_bytes_, value_grid_bytes_;                        // of a page and head
  std::array<int64_t, 2> unit_bytes_, unit_quanta_, offset_quanta_;  // by class
  int64_t quantum_bytes_, quanta_, slot_quanta_, slots_;
  std::vector<Slabs> slabs_;  // by class
  std::vector<Page> pages_;   // by id
  std::vector<int32_t> free_pages_;
  std::vector<int32_t> tags_;  // [capacity, hk, 2]
  int64_t capacity_ = 0, moved_bytes_ = 0, missing_ = 0, tags_version_ = 0;
  std::vector<Layer> layers_;
  std::unordered_map<int64_t, Sequence> sequences_;
  int64_t next_id_ = 0;
  uint64_t stamp_ = 0;
  std::vector<int32_t> cooled_;  // pages that nobody wants in 16 bits any more, each once

  Writing writing_;
  std::vector<Reserved> reserved_;
  std::vector<Extent> extents_;
  int64_t target_ = 0, first_ = 0, rows_ = 0;  // of the piece
  // The ops' work.
  std::vector<wl_kv_move> moves_;
  std::vector<int64_t> piece_slots_;
  std::vector<int32_t> quantize_, quantize_bits_, shrink_, shrink_bits_;
  std::vector<bool> listed_;  // by block: in one of the lists
};

}  // namespace warploom::kv_cache
