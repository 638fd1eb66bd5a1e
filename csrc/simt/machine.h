// The two machines, as data: lane count and, for the logical 16x16x16 matrix atom, which element
// of each operand a lane holds. A kernel takes one as a template parameter and asks it; nothing
// else in a kernel may assume a width or a layout.
//
//   D[16 x 16] = A[16 x 16] * B[16 x 16] + C,  A(row, k), B(k, col), C and D (row, col)
//
// c(lane, element) and a(lane, element) are the same map, so an accumulator turns into the next
// product's A operand without leaving its registers (see to_a in atom.h).
#pragma once

#include "simt/target.h"

namespace warploom::simt {

struct position {
  int row, col;
};

// NVIDIA, sm_80 and later: two mma.sync m16n8k16 side by side make one atom.
struct mma32 {
  static constexpr int lanes = 32;
  static constexpr int elements = 8;  // of each operand, per lane
  static constexpr int registers = 4;
  static constexpr int run = 2;        // neighbouring elements that lie in neighbouring columns
  static constexpr int row_slots = 2;  // different rows of C that one lane holds
  static constexpr int row_mask_low = 1, row_mask_high = 2;  // lanes that share a row: xor bits
  static constexpr int col_mask_low = 4, col_mask_high = 16;

  SIMT_HOST_DEVICE static constexpr int row_slot(int e) { return (e >> 1) & 1; }
  SIMT_HOST_DEVICE static constexpr int slot_row(int lane, int slot) {
    return (lane >> 2) + slot * 8;
  }
  SIMT_HOST_DEVICE static constexpr position a(int lane, int e) {
    return {(lane >> 2) + ((e >> 1) & 1) * 8, (lane & 3) * 2 + (e & 1) + (e >> 2) * 8};
  }
  SIMT_HOST_DEVICE static constexpr position b(int lane, int e) {  // row is k
    return {(lane & 3) * 2 + (e & 1) + ((e >> 1) & 1) * 8, (lane >> 2) + (e >> 2) * 8};
  }
  SIMT_HOST_DEVICE static constexpr position c(int lane, int e) {
    return {slot_row(lane, row_slot(e)), (lane & 3) * 2 + (e & 1) + (e >> 2) * 8};
  }
};

// AMD, gfx90a: one MFMA 16x16x16 with its operands exchanged, so that it computes the transpose
// and its result map becomes the A map.
struct mfma64 {
  static constexpr int lanes = 64;
  static constexpr int elements = 4;
  static constexpr int registers = 2;
  static constexpr int run = 4;
  static constexpr int row_slots = 1;
  static constexpr int row_mask_low = 16, row_mask_high = 32;
  static constexpr int col_mask_low = 1, col_mask_high = 8;

  SIMT_HOST_DEVICE static constexpr int row_slot(int) { return 0; }
  SIMT_HOST_DEVICE static constexpr int slot_row(int lane, int) { return lane & 15; }
  SIMT_HOST_DEVICE static constexpr position a(int lane, int e) {
    return {lane & 15, (lane >> 4) * 4 + e};
  }
  SIMT_HOST_DEVICE static constexpr position b(int lane, int e) {  // row is k
    return {(lane >> 4) * 4 + e, lane & 15};
  }
  SIMT_HOST_DEVICE static constexpr position c(int lane, int e) {
    return {slot_row(lane, 0), (lane >> 4) * 4 + e};
  }
};

namespace machine {

template <class M>
constexpr bool accumulator_is_a_operand() {
  for (int lane = 0; lane < M::lanes; ++lane) {
    for (int e = 0; e < M::elements; ++e) {
      if (M::a(lane, e).row != M::c(lane, e).row) return false;
      if (M::a(lane, e).col != M::c(lane, e).col) return false;
      if (M::c(lane, e).row != M::slot_row(lane, M::row_slot(e))) return false;
      if (M::c(lane, e).col != M::c(lane, e - e % M::run).col + e % M::run) return false;
    }
  }
  return true;
}
static_assert(accumulator_is_a_operand<mma32>() && accumulator_is_a_operand<mfma64>());

}  // namespace machine

#if defined(WARPLOOM_SIMT_CUDA)
using device_machine = mma32;
#elif defined(WARPLOOM_SIMT_HIP)
using device_machine = mfma64;
#endif

}  // namespace warploom::simt
