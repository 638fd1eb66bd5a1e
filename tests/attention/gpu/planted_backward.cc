#include "attention/gpu_backward.cuh"
#include "planted.h"

int main(int count, char** arguments) {
  return run_planted(count, arguments, []<class M>() -> std::string {
    constexpr int64_t s = 150, d = 64;
    using op = attention::gpu::backward_op<M, simt::bf16, d>;
    std::vector<uint16_t> x(s * d, kOne), dq(s * d, kOne), dk(s * d, kOne), dv(s * d, kOne);
    std::vector<float> lse(s, 12.0f);
    wl_attention_backward_params p{};
    p.problem.dtype = WL_BF16;
    p.problem.b = p.problem.h = p.problem.hk = 1;
    p.problem.d = p.problem.dv = d;
    p.problem.sq = p.problem.sk = s;
    p.problem.mask = {WL_MASK_WINDOW, -1, 0};
    p.problem.scale = 0.125f;
    p.q = p.k = p.v = p.o = p.grad_o = {x.data(), {s * d, d, d}};
    p.lse = lse.data();
    p.dq = {dq.data(), {s * d, d, d}};
    p.dk = {dk.data(), {s * d, d, d}};
    p.dv = {dv.data(), {s * d, d, d}};
    std::vector<char> workspace(op::workspace(p) + 16);
    p.exec.workspace = workspace.data();
    p.exec.workspace_bytes = int64_t(workspace.size());
    const std::string report = report_of(op::run(p));
    // Every key is seen, so that each gradient of values is a sum of positive weights.
    const bool kept = dv == std::vector<uint16_t>(s * d, kOne);
    return kept == (report != "clean" && report.find("needs") != std::string::npos)
               ? report
               : report + (kept ? ", yet nothing was written" : ", after gradients were written");
  });
}
