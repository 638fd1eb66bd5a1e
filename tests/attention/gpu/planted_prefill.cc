#include "attention/gpu_prefill.cuh"
#include "planted.h"

int main(int count, char** arguments) {
  return run_planted(count, arguments, []<class M>() {
    constexpr int64_t s = 150, d = 64;
    std::vector<uint16_t> q(s * d, kOne), o(s * d);
    std::vector<float> lse(s);
    wl_attention_forward_params p{};
    p.problem.dtype = WL_BF16;
    p.problem.b = p.problem.h = p.problem.hk = 1;
    p.problem.d = p.problem.dv = d;
    p.problem.sq = p.problem.sk = s;
    p.problem.mask = {WL_MASK_WINDOW, -1, 0};
    p.problem.scale = 0.125f;
    p.q = p.k = p.v = {q.data(), {s * d, d, d}};
    p.o = {o.data(), {s * d, d, d}};
    p.lse = lse.data();
    return report_of(attention::gpu::prefill_op<M, simt::bf16, d>::run(p));
  });
}
