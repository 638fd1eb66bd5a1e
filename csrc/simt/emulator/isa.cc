// Matrix instructions carried out from their definitions in the vendors' instruction sets. This
// file knows nothing of machine.h: a wrong table there must show as a wrong product here.
#include <cstring>

#include "simt/emulator/engine.h"
#include "simt/number.h"

namespace warploom::simt::emulator {

namespace {

struct matrix_offer {
  const uint32_t* a;
  const uint32_t* b;
  float* d;
  operand type;
};
struct load_offer {
  uint32_t* r;
  const char* row;  // null: the access was refused
};

float value(uint32_t bits, operand type) {
  const auto half = static_cast<uint16_t>(bits);
  return type == operand::bf16 ? number::bf16_value(half) : number::f16_value_portable(half);
}

template <class Offer>
Offer& offer(warp& w, int lane) {
  return *static_cast<Offer*>(w.fibers[static_cast<size_t>(lane)].offer);
}

// The i-th of the 16-bit elements packed into a lane's registers.
float element(const uint32_t* r, int i, operand type) {
  return value(i % 2 ? r[i / 2] >> 16 : r[i / 2] & 0xffffu, type);
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type":
//   A: row = groupID for i in {0,1,4,5}, groupID + 8 otherwise;
//      col = threadID_in_group * 2 + (i & 1), plus 8 for i >= 4
//   B: row = threadID_in_group * 2 + (i & 1), plus 8 for i >= 2; col = groupID
//   C: row = groupID for i < 2, groupID + 8 otherwise; col = threadID_in_group * 2 + (i & 1)
void product_m16n8k16(warp& w) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    const auto& o = offer<matrix_offer>(w, lane);
    for (int i = 0; i < 8; ++i) {
      const bool low_rows = i == 0 || i == 1 || i == 4 || i == 5;
      a[low_rows ? group : group + 8][in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)] =
          element(o.a, i, o.type);
    }
    for (int i = 0; i < 4; ++i) {
      b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = element(o.b, i, o.type);
    }
  }
  float d[16][8] = {};
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, in_group = lane % 4;
    float* out = offer<matrix_offer>(w, lane).d;
    for (int i = 0; i < 4; ++i) {
      out[i] += d[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
    }
  }
}

// CDNA2 ISA, V_MFMA_F32_16X16X16 (one block): for lane l and element j in 0..3,
//   A[i][k]: i = l % 16, k = 4 * (l / 16) + j
//   B[k][n]: n = l % 16, k = 4 * (l / 16) + j
//   D[i][n]: n = l % 16, i = 4 * (l / 16) + j
void product_16x16x16(warp& w) {
  float a[16][16], b[16][16];
  for (int lane = 0; lane < 64; ++lane) {
    const auto& o = offer<matrix_offer>(w, lane);
    for (int j = 0; j < 4; ++j) {
      a[lane % 16][4 * (lane / 16) + j] = element(o.a, j, o.type);
      b[4 * (lane / 16) + j][lane % 16] = element(o.b, j, o.type);
    }
  }
  float d[16][16] = {};
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 16; ++n) d[i][n] += a[i][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 64; ++lane) {
    float* out = offer<matrix_offer>(w, lane).d;
    for (int j = 0; j < 4; ++j) out[j] += d[4 * (lane / 16) + j][lane % 16];
  }
}

// PTX ISA, ldmatrix .m8n8.x4: threads 8j .. 8j+7 hold the addresses of matrix j's rows; thread T
// receives, in register j, elements 2*(T%4) and 2*(T%4)+1 of row T/4. With .trans it receives
// the elements of rows 2*(T%4) and 2*(T%4)+1 in column T/4.
template <bool Trans>
void load_matrices(warp& w) {
  for (int j = 0; j < 4; ++j) {
    uint16_t m[8][8] = {};
    for (int row = 0; row < 8; ++row) {
      const char* from = offer<load_offer>(w, 8 * j + row).row;
      if (from) std::memcpy(m[row], from, 16);
    }
    for (int t = 0; t < 32; ++t) {
      const int pair = 2 * (t % 4), line = t / 4;
      const uint32_t low = Trans ? m[pair][line] : m[line][pair];
      const uint32_t high = Trans ? m[pair + 1][line] : m[line][pair + 1];
      offer<load_offer>(w, t).r[j] = low | high << 16;
    }
  }
}

}  // namespace

void ldmatrix_x4(uint32_t* r, uint32_t offset, uint32_t low, uint32_t high, bool trans, site at) {
  load_offer mine{r, touch_shared(access::fragment, offset, 16, low, high, at)};
  the_engine().meet(rendezvous::fragment_load, &mine,
                    trans ? load_matrices<true> : load_matrices<false>, at);
}

void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, operand type, site at) {
  matrix_offer mine{a, b, c, type};
  the_engine().meet(rendezvous::matrix_product, &mine, product_m16n8k16, at);
}

void mfma_16x16x16(float* d, const uint32_t* a, const uint32_t* b, operand type, site at) {
  matrix_offer mine{a, b, d, type};
  the_engine().meet(rendezvous::matrix_product, &mine, product_16x16x16, at);
}

}  // namespace warploom::simt::emulator
