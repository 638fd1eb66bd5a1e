// Host side of the GPU loops: what they take from attention's parameter structs.
#pragma once

#include "attention/gpu_common.cuh"
#include "simt/launcher.h"

namespace warploom::attention::gpu {

using simt::aligned;
using simt::Launcher;
using simt::scratch_bytes;

// The sizes of a prefill or backward call, in 32 bits where kernels want that. `vector` is the
// caller's to set.
inline problem problem_of(Launcher& launcher, const wl_attention_problem& p) {
  problem out{};
  out.b = launcher.narrow("b", p.b);
  out.h = launcher.narrow("h", p.h);
  out.hk = launcher.narrow("hk", p.hk);
  out.d = launcher.narrow("d", p.d);
  out.dv = launcher.narrow("dv", p.dv);
  out.sq = launcher.narrow("sq", p.sq);
  out.sk = launcher.narrow("sk", p.sk);
  if (!launcher.ok()) return out;
  out.tq = p.tq;
  out.tk = p.tk;
  out.cu_q = launcher.input(p.cu_seqlens_q, p.b + 1);
  out.cu_k = launcher.input(p.cu_seqlens_k, p.b + 1);
  out.mask = p.mask;
  out.f = formula_of(p.scale, p.softcap);
  out.error = launcher.error();
  return out;
}

inline bool aligned(const wl_strided& x, const Axes& a, int64_t bytes) {
  return aligned(x, {a.batch, a.rows, a.heads}, bytes);
}

inline int64_t tiles_of(int64_t length, int64_t tile) { return (length + tile - 1) / tile; }

}  // namespace warploom::attention::gpu
