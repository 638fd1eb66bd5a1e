"""What rounding the weights of a softmax to bfloat16 costs, apart from storing the result.

With ``-s`` it prints the figures of docs/numerics.md.
"""

from __future__ import annotations

import pytest
import torch
from kernel_params import cpu_kernels, names

from warploom.testing import plain
from warploom.testing.attention import run_decode
from warploom.testing.cases import DecodeCase

# Targets whose instruction for products takes pairs of bfloat16, weights included.
PAIRS = {"cpu_avx512"}
KERNELS = [k for k in cpu_kernels("decode") if k.dtype == "bfloat16"]


def distance(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square error relative to the root mean square."""
    return float((actual.double() - exact).norm() / exact.norm())


def weighted(x, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The formula in float64 with weights rounded to ``dtype``, over their exact sum."""
    group = x.q.shape[2] // x.k_cache.shape[2]
    k, v = (t.double().repeat_interleave(group, 2) for t in (x.k_cache, x.v_cache))
    scores = torch.einsum("bshd,bkhd->bshk", x.q.double(), k) * scale
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    o = torch.einsum("bshk,bkhd->bshd", weights.to(dtype).double(), v)
    return o / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("keys", [16, 1024, 8192])
@pytest.mark.parametrize("kernel", names(KERNELS))
def test_weights_in_bfloat16_add_their_own_rounding_and_no_more(kernel, keys):
    case = DecodeCase(lengths=(keys,) * 4, h=8, hk=2, d=128, dtype="bfloat16")
    x = case.make()
    scale = case.d**-0.5
    exact = weighted(x, scale, torch.float64)
    stored = distance(exact.bfloat16(), exact)
    weights = distance(weighted(x, scale, torch.bfloat16), exact)
    found = distance(run_decode(case, x, kernel.name)[0], exact)
    torchs = torch.cat(
        [
            plain.attention(x.q[n, None], x.k_cache[n, None], x.v_cache[n, None], case.mask)[0]
            for n in range(case.b)
        ]
    )
    print(
        f"\n{kernel.name}, {keys} keys: {found:.2e}; storing {stored:.2e}, weights {weights:.2e}, "
        f"torch {distance(torchs, exact):.2e}"
    )
    expected = (stored**2 + weights**2) ** 0.5 if kernel.target in PAIRS else stored
    assert found == pytest.approx(expected, rel=0.1)
