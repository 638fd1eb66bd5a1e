"""Attention as plain torch computes it: the yardstick for a kernel's rounding errors.

Two matrix products and a softmax; backward by the formula that every fused kernel uses, with
``P = exp(S - lse)`` and ``dS = P * (dP - rowsum(dO * O) + dlse)``, whose terms cancel.
"""

from __future__ import annotations

from typing import Any

import torch

from warploom.mask import Mask


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """o ``[b, sq, h, dv]`` and lse ``[b, h, sq]``.

    NaNs are taken as 0: where they are seen there is no error to measure, and where they are
    hidden a dense product would spread them.
    """
    scale = (q.shape[3] ** -0.5 if q.shape[3] else 1.0) if scale is None else scale
    q, k, v = (t.nan_to_num(0).transpose(1, 2) for t in (q, k, v))
    group = q.shape[1] // k.shape[1] if k.shape[1] else 1
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)  # on the host: row by row
    for i in range(q.shape[2]):
        keys = mask.keys(i, q.shape[2], k.shape[2])
        hidden[i, keys.start : keys.stop] = False
    o, lse = _Heads.apply(q, k, v, hidden.to(q.device), scale, softcap)  # type: ignore[no-untyped-call]
    return o.transpose(1, 2), lse


class _Heads(torch.autograd.Function):
    """With the head axis before the rows, and as many key heads as query heads."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        hidden: torch.Tensor,
        scale: float,
        softcap: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        s, _ = _logits(q, k, hidden, scale, softcap)
        blind = hidden.all(-1, keepdim=True)
        o = s.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0) @ v
        lse = s.logsumexp(-1)
        ctx.save_for_backward(q, k, v, o, lse, hidden)
        ctx.formula = scale, softcap
        return o, lse

    @staticmethod
    def backward(ctx: Any, grad_o: torch.Tensor, grad_lse: torch.Tensor) -> Any:
        q, k, v, o, lse, hidden = ctx.saved_tensors
        scale, softcap = ctx.formula
        s, slope = _logits(q, k, hidden, scale, softcap)
        p = (s - lse.unsqueeze(-1)).exp().masked_fill(hidden, 0)
        delta = (grad_o * o).sum(-1) - grad_lse
        ds = p * (grad_o @ v.transpose(-1, -2) - delta.unsqueeze(-1)) * slope * scale
        dv = p.transpose(-1, -2) @ grad_o
        return ds @ k, ds.transpose(-1, -2) @ q, dv, None, None, None


def _logits(
    q: torch.Tensor, k: torch.Tensor, hidden: torch.Tensor, scale: float, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Capped and masked, and the slope of the cap."""
    s = q @ k.transpose(-1, -2) * scale
    slope: torch.Tensor | float = 1.0
    if softcap:
        bent = torch.tanh(s / softcap)
        s, slope = softcap * bent, 1 - bent * bent
    return s.masked_fill(hidden, -torch.inf), slope
