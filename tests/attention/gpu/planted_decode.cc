#include "attention/gpu_decode.cuh"
#include "planted.h"

int main(int count, char** arguments) {
  return run_planted(count, arguments, []<class M>() -> std::string {
    constexpr int64_t length = 600, d = 64, h = 2;
    using op = attention::gpu::decode_op<M, simt::bf16, d>;
    std::vector<uint16_t> q(h * d, kOne), k(length * d, kOne), o(h * d);
    std::vector<float> lse(h);
    const int32_t lengths[] = {length};
    wl_attention_decode_params p{};
    p.dtype = WL_BF16;
    p.b = p.s = p.hk = 1;
    p.h = h;
    p.d = p.dv = d;
    p.capacity = length;
    p.lengths = lengths;
    p.mask = {WL_MASK_WINDOW, -1, 0};
    p.scale = 0.125f;
    p.q = {q.data(), {h * d, h * d, d}};
    p.o = {o.data(), {h * d, h * d, d}};
    p.k_cache = p.v_cache = {k.data(), {length * d, d, d}};
    p.lse = lse.data();
    if (op::splits(p) < 2) return "one part alone";
    std::vector<char> workspace(op::workspace(p) + 16);
    p.exec.workspace = workspace.data();
    p.exec.workspace_bytes = int64_t(workspace.size());
    const std::string report = report_of(op::run(p));
    // All scores are d * scale.
    const float expected = d * p.scale + std::log(float(length));
    for (const float found : lse) {
      if (report == "clean" && std::abs(found - expected) > 1e-3f) return "wrong result";
    }
    return report;
  });
}
