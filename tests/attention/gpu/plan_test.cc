// The pure functions by which GPU work is cut.
#include <cmath>
#include <cstdio>

#include "attention/gpu_plan.h"

using namespace warploom::attention::gpu;

static int failures = 0;
#define EXPECT(condition)                                                            \
  do {                                                                               \
    if (!(condition)) ++failures, std::printf("%d: not %s\n", __LINE__, #condition); \
  } while (0)

static void splits_fill_a_device_and_stay_long() {
  EXPECT(decode_splits(0, 8, 1, 4096, 64) >= 1);
  EXPECT(decode_splits(1, 1, 1, 0, 64) == 1);
  EXPECT(decode_splits(1, 1, 1, 64, 64) == 1);
  EXPECT(decode_splits(64, 8, 1, 1 << 20, 64) == 1);  // blocks enough already
  for (const int64_t capacity : {65, 300, 8192, 1 << 20}) {
    int64_t before = 1 << 30;
    for (const int64_t b : {1, 2, 4, 16, 64, 600}) {
      const int64_t n = decode_splits(b, 8, 1, capacity, 64);
      EXPECT(n >= 1 && n <= 128);
      EXPECT(n <= before);                         // more sequences, fewer parts
      EXPECT(n == 1 || capacity > (n - 1) * 256);  // but for the last, four tiles or more
      before = n;
    }
  }
}

static void formula_keeps_the_order_of_scores() {
  for (const float scale : {1.0f, 0.125f, 0.0f, -0.3f, 1e-40f}) {
    for (const float cap : {0.0f, 2.0f}) {
      const formula f = formula_of(scale, cap);
      EXPECT(f.factor > 0 && std::isnormal(f.factor));
      const float s = 3.0f;
      const float g = f.how == formula::raw      ? s
                      : f.how == formula::scaled ? f.before * s
                                                 : std::tanh(f.before * s);
      const float score = cap > 0 ? cap * std::tanh(scale * s / cap) : scale * s;
      EXPECT(std::fabs(f.factor * g - score * warploom::kLog2E) < 1e-6f);
      EXPECT(f.scale == scale);
    }
  }
}

template <class M, int D>
static void tiles_are_whole() {
  const forward_tiles forward[] = {prefill_tiles<M, D>(), decode_tiles<M, D>()};
  for (const forward_tiles& t : forward) {
    EXPECT(t.keys % (16 * t.key_warps) == 0);
    EXPECT(t.keys <= 128);  // what the codes of gpu_hidden.cuh can count
    EXPECT(t.warps() * M::lanes <= 1024);
    EXPECT(t.key_warps == 1 || t.row_warps == 1);
  }
  const backward_tiles backward[] = {backward_key_tiles<M, D>(), backward_query_tiles<M, D>()};
  for (const backward_tiles& t : backward) {
    EXPECT(t.across % 16 == 0 && t.across <= 128);
    EXPECT(D % t.slice == 0);
    EXPECT(t.warps * M::lanes <= 1024);
  }
}

int main() {
  splits_fill_a_device_and_stay_long();
  formula_keeps_the_order_of_scores();
  tiles_are_whole<warploom::simt::mma32, 64>();
  tiles_are_whole<warploom::simt::mma32, 128>();
  tiles_are_whole<warploom::simt::mma32, 256>();
  tiles_are_whole<warploom::simt::mfma64, 64>();
  tiles_are_whole<warploom::simt::mfma64, 128>();
  tiles_are_whole<warploom::simt::mfma64, 256>();
  return failures != 0;
}
