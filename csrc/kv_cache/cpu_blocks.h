// A block of a page between its bytes and a matrix [positions, channels] of codes or values.
#pragma once

#include "kv_cache/cpu_codes.h"
#include "kv_cache/pages.h"

namespace warploom::kv_cache {

// One block: where its codes and grids are, and which way its groups and tiles lie.
struct Block {
  uint8_t* bytes;
  uint16_t* grids;  // [groups, 2, lanes]: min, then range
  int64_t positions, dim, group;
  int width;
  bool values;    // tiles of channels whose words run along positions; else the other way round
  bool channels;  // groups along positions; else along channels

  int64_t count() const { return positions * dim; }
  int64_t groups() const { return (channels ? positions : dim) / group; }
  int64_t lanes() const { return channels ? dim : positions; }
  uint16_t* min(int64_t g) const { return grids + 2 * g * lanes(); }
  uint16_t* range(int64_t g) const { return grids + (2 * g + 1) * lanes(); }

  // Where the code of a position and channel is at 8 bits, in lines of 64 bytes.
  int64_t line_of(int64_t position, int64_t channel) const {
    return values ? channel / 16 * (positions / 4) + position / 4
                  : position / 16 * (dim / 4) + channel / 4;
  }
};

inline Block block_of(const wl_kv_pages& p, int64_t page, int64_t head, int side) {
  const bool channels = side == 0 && p.keys_per_channel;
  Block b{};
  b.bytes = block_at(p, page, head, side);
  b.positions = p.page;
  b.dim = side ? p.dv : p.d;
  b.group = side ? p.value_group : p.key_group;
  b.width = width_of(tag_of(p, page, head, side));
  b.values = side == 1;
  b.channels = channels;
  b.grids =
      (side ? p.value_grids : p.key_grids) + (page * p.hk + head) * 2 * b.groups() * b.lanes();
  return b;
}

typedef uint64_t Line __attribute__((vector_size(64)));

// A line of 8 bits: four codes of each of 16 rows, the first of which are at `codes`.
inline void line_of_keys(const uint8_t* codes, int64_t dim, uint8_t* line) {
  for (int r = 0; r < 16; ++r) std::memcpy(line + 4 * r, codes + r * dim, 4);
}

// Rows are channels here: four positions of 16 of them take turns by bytes.
inline void line_of_values(const uint8_t* codes, int64_t dim, uint8_t* line) {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  typedef uint16_t Pairs __attribute__((vector_size(16)));
  constexpr Bytes bytes[2] = {{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23},
                              {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}};
  constexpr Pairs pairs[2] = {{0, 8, 1, 9, 2, 10, 3, 11}, {4, 12, 5, 13, 6, 14, 7, 15}};
  Bytes rows[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], codes + i * dim, 16);
  for (int half = 0; half < 2; ++half) {
    const Pairs first = Pairs(__builtin_shuffle(rows[0], rows[1], bytes[half]));
    const Pairs second = Pairs(__builtin_shuffle(rows[2], rows[3], bytes[half]));
    for (int quarter = 0; quarter < 2; ++quarter) {
      const Pairs both = __builtin_shuffle(first, second, pairs[quarter]);
      std::memcpy(line + 32 * half + 16 * quarter, &both, 16);
    }
  }
}

// Codes [positions, dim] of 8, 4 or 2 bits, one to a byte, into the block's tiles. Lines that meet
// become one, the first in the lowest bits of every byte; they are of one tile.
inline void put_codes(const Block& b, int bits, const uint8_t* codes) {
  const int meet = 8 / bits;
  const int64_t tiles = (b.values ? b.dim : b.positions) / 16;
  const int64_t lines = (b.values ? b.positions : b.dim) / 4;
  uint8_t* to = b.bytes;
  alignas(64) uint8_t line[64];
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const uint8_t* first = codes + tile * 16 * (b.values ? 1 : b.dim);
    for (int64_t n = 0; n < lines; n += meet, to += 64) {
      Line joined{};
      for (int part = 0; part < meet; ++part) {
        if (b.values) {
          line_of_values(first + (n + part) * 4 * b.dim, b.dim, line);
        } else {
          line_of_keys(first + (n + part) * 4, b.dim, line);
        }
        Line next;
        std::memcpy(&next, line, 64);
        joined |= next << (part * bits);  // a code stays within its byte
      }
      std::memcpy(to, &joined, 64);
    }
  }
}

// The codes of one position.
inline void get_codes(const Block& b, int64_t position, uint8_t* codes) {
  const int meet = 8 / b.width;
  const unsigned mask = (1u << b.width) - 1;
  const auto part_of = [&](int64_t line) {
    return std::pair{b.bytes + 64 * (line / meet), int(line % meet) * b.width};
  };
  if (b.values) {
    for (int64_t c = 0; c < b.dim; c += 16) {
      const auto [line, shift] = part_of(b.line_of(position, c));
      for (int r = 0; r < 16; ++r) codes[c + r] = line[4 * r + position % 4] >> shift & mask;
    }
  } else {
    for (int64_t c = 0; c < b.dim; c += 4) {
      const auto [line, shift] = part_of(b.line_of(position, c));
      for (int i = 0; i < 4; ++i) codes[c + i] = line[4 * (position % 16) + i] >> shift & mask;
    }
  }
}

// What one position of a block of codes stands for. `codes` is room for them.
template <class T>
void get_values(const Block& b, int64_t position, uint8_t* codes, T* x) {
  get_codes(b, position, codes);
  const float levels = float((1 << b.width) - 1);
  if (!b.channels) {
    for (int64_t g = 0; g < b.groups(); ++g) {
      decode(codes + g * b.group, b.group, widen(b.min(g)[position]),
             widen(b.range(g)[position]) / levels, x + g * b.group);
    }
    return;
  }
  const int64_t g = position / b.group;
  const bf16* min = reinterpret_cast<const bf16*>(b.min(g));
  const bf16* range = reinterpret_cast<const bf16*>(b.range(g));
  for (int64_t c = 0; c < b.dim; c += kLanes) {
    decode_lanes(codes + c, load_floats(min + c), load_floats(range + c) / levels, x + c);
  }
}

// Grids of a matrix [positions, dim] and its codes. False where a group has no grid: grids are
// then not all written.
template <class T>
bool quantize_block(const Block& b, int bits, const T* x, uint8_t* codes) {
  const int levels = (1 << bits) - 1;
  if (!b.channels) {
    for (int64_t n = 0; n < b.positions; ++n) {
      for (int64_t g = 0; g < b.groups(); ++g) {
        const int64_t at = n * b.dim + g * b.group;
        const Grid grid = grid_of(x + at, b.group, levels);
        if (!grid.finite) return false;
        b.min(g)[n] = grid.min;
        b.range(g)[n] = grid.range;
        encode(x + at, b.group, grid, codes + at);
      }
    }
    return true;
  }
  for (int64_t g = 0; g < b.groups(); ++g) {
    for (int64_t c = 0; c < b.dim; c += kLanes) {
      const T* first = x + g * b.group * b.dim + c;
      Floats least = load_floats(first), most = least, lowest{}, inverse{};
      Words odd{};
      for (int64_t n = 0; n < b.group; ++n) {
        const Floats value = load_floats(first + n * b.dim);
        least = min(least, value);
        most = max(most, value);
        odd |= Words((warploom::bits(value) & 0x7f800000u) == 0x7f800000u);
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        const Grid grid = grid_of(least[lane], most[lane], levels);
        if (!grid.finite || odd[lane]) return false;
        b.min(g)[c + lane] = grid.min;
        b.range(g)[c + lane] = grid.range;
        lowest[lane] = grid.lowest;
        inverse[lane] = grid.inverse_step;
      }
      for (int64_t n = 0; n < b.group; ++n) {
        encode_lanes(first + n * b.dim, lowest, inverse, codes + (g * b.group + n) * b.dim + c);
      }
    }
  }
  return true;
}

}  // namespace warploom::kv_cache
