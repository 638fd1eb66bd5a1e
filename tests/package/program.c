/* A C program that uses the installed library: one query row over two keys of equal score. */
#include <stdio.h>
#include <string.h>

#include "warploom/attention.h"

int main(void) {
  float q[2] = {1, 1}, k[4] = {1, 0, 0, 1}, v[4] = {1, 2, 3, 6}, o[2] = {0, 0}, lse = 0;
  wl_attention_forward_params p;
  memset(&p, 0, sizeof p);
  p.struct_size = sizeof p;
  p.exec.threads = 1;
  p.problem.dtype = WL_F32;
  p.problem.b = p.problem.h = p.problem.hk = p.problem.sq = 1;
  p.problem.d = p.problem.dv = p.problem.sk = 2;
  p.problem.scale = 1;
  p.q = (wl_strided){q, {2, 2, 2}};
  p.k = (wl_strided){k, {4, 2, 2}};
  p.v = (wl_strided){v, {4, 2, 2}};
  p.o = (wl_strided){o, {2, 2, 2}};
  p.lse = &lse;
  if (wl_attention_forward(&p) != WL_OK) {
    fprintf(stderr, "%s\n", wl_last_error());
    return 1;
  }
  printf("%s %.4f %.4f %.4f\n", wl_version(), o[0], o[1], lse);
  p.problem.d = -1;
  if (wl_attention_forward(&p) != WL_INVALID || !strstr(wl_last_error(), "-1")) return 2;
  return 0;
}
