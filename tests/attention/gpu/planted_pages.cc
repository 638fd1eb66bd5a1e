#include "attention/gpu_pages.cuh"
#include "planted.h"

// 600 positions of one head, all keys the same, values 0 or 1 by their channel: keys of 8 bits,
// values of 4 bits.
int main(int count, char** arguments) {
  return run_planted(count, arguments, []<class M>() -> std::string {
    constexpr int64_t length = 600, page = 32, pages = (length + page - 1) / page, d = 64, h = 2;
    constexpr int64_t quantum = page * d;
    using op = attention::gpu::pages_op<M, simt::bf16, d>;
    std::vector<uint16_t> q(h * d, kOne), o(h * d);
    std::vector<float> lse(h);
    std::vector<int32_t> table(pages), tags(2 * pages);
    alignas(64) static uint8_t pool[2 * pages * quantum];
    // Keys: min 0, range 255, code 1. Values: min 0, range 15, code 1 in odd channels.
    std::vector<uint16_t> key_grids(pages * 2 * page), value_grids(pages * 2 * page);
    for (int64_t n = 0; n < pages; ++n) {
      table[n] = int32_t(pages - 1 - n);
      for (int64_t side = 0; side < 2; ++side) tags[2 * n + side] = int32_t(2 * n + side) * 4 + 2;
      --tags[2 * n + 1];
      for (int64_t i = 0; i < page; ++i) {
        key_grids[(2 * n + 1) * page + i] = 0x437f;
        value_grids[(2 * n + 1) * page + i] = 0x4170;
      }
      for (int64_t i = 0; i < quantum; ++i) {
        pool[2 * n * quantum + i] = 1;
        pool[(2 * n + 1) * quantum + i] = i / 4 % 2 ? 0x11 : 0;
      }
    }
    const int32_t lengths[] = {length};
    wl_attention_pages_params p{};
    p.dtype = WL_BF16;
    p.b = p.s = 1;
    p.h = h;
    p.pages = {pages,
               page,
               1,
               d,
               d,
               d,
               d,
               0,
               pool,
               sizeof pool,
               quantum,
               tags.data(),
               key_grids.data(),
               value_grids.data()};
    p.max_pages = p.page_table_stride = pages;
    p.page_table = table.data();
    p.lengths = lengths;
    p.mask = {WL_MASK_WINDOW, -1, 0};
    p.scale = 0.125f;
    p.q = {q.data(), {h * d, h * d, d}};
    p.o = {o.data(), {h * d, h * d, d}};
    p.lse = lse.data();
    if (op::splits(p) < 2) return "one part alone";
    std::vector<char> workspace(op::workspace(p) + 16);
    p.exec.workspace = workspace.data();
    p.exec.workspace_bytes = int64_t(workspace.size());
    const std::string report = report_of(op::run(p));
    if (report != "clean") return report;
    const float expected = d * p.scale + std::log(float(length));
    for (const float found : lse) {
      if (!(std::abs(found - expected) < 1e-3f)) return "wrong result";
    }
    for (int64_t i = 0; i < h * d; ++i) {
      if (o[i] != (i % 2 ? kOne : 0)) return "wrong result";
    }
    return report;
  });
}
