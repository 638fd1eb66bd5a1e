"""Exact attention, one query row at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from warploom.mask import Mask, causal, full

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Attend = Callable[..., Pair]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Pair:
    """o ``[b, sq, h, dv]`` and lse ``[b, h, sq]``.

    Of q ``[b, sq, h, d]``, k ``[b, sk, hk, d]`` and v ``[b, sk, hk, dv]``. A row that sees no
    key gives o = 0 and lse = -inf.
    """
    mask = mask or full()
    (b, sq, h, d), sk = q.shape, k.shape[1]
    group = h // k.shape[2] if k.shape[2] else 1
    k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
    scale = (d**-0.5 if d else 1.0) if scale is None else scale
    rows, lses = [], []
    for i in range(sq):
        keys = mask.keys(i, sq, sk)
        if len(keys) == 0:
            rows.append(v.new_zeros(b, h, v.shape[3]))
            lses.append(v.new_full((b, h), -torch.inf))
            continue
        s = torch.einsum("bhd,bjhd->bhj", q[:, i], k[:, keys.start : keys.stop]) * scale
        if softcap:
            s = softcap * torch.tanh(s / softcap)
        rows.append(torch.einsum("bhj,bjhd->bhd", s.softmax(-1), v[:, keys.start : keys.stop]))
        lses.append(s.logsumexp(-1))
    if not rows:
        return v.new_zeros(b, 0, h, v.shape[3]), v.new_zeros(b, h, 0)
    return torch.stack(rows, dim=1), torch.stack(lses, dim=2)


def attention_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    *,
    attend: Attend = attention,
) -> Pair:
    """o ``[tq, h, dv]`` and lse ``[h, tq]``: every sequence by itself."""
    outputs, lses = [], []
    for (q0, q1), (k0, k1) in zip(_spans(cu_seqlens_q), _spans(cu_seqlens_k), strict=True):
        part, lse = attend(q[None, q0:q1], k[None, k0:k1], v[None, k0:k1], mask, scale, softcap)
        outputs.append(part[0])
        lses.append(lse[0])
    if not outputs:
        return v.new_zeros(0, q.shape[1], v.shape[2]), v.new_zeros(q.shape[1], 0)
    return torch.cat(outputs), torch.cat(lses, dim=1)


def attention_backward(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    *,
    attend: Attend = attention,
) -> Triple:
    """dq, dk, dv by torch's autograd through :func:`attention`."""
    q, k, v = _leaves(q, k, v)
    return _gradients(attend(q, k, v, mask, scale, softcap), grad_o, grad_lse, (q, k, v))


def attention_varlen_backward(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    *,
    attend: Attend = attention,
) -> Triple:
    """dq, dk, dv by torch's autograd through :func:`attention_varlen`."""
    q, k, v = _leaves(q, k, v)
    offsets = (cu_seqlens_q, cu_seqlens_k)
    result = attention_varlen(q, k, v, *offsets, mask, scale, softcap, attend=attend)
    return _gradients(result, grad_o, grad_lse, (q, k, v))


def attention_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    page_table: torch.Tensor | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    *,
    attend: Attend = attention,
) -> Pair:
    """o ``[b, s, h, dv]`` and lse ``[b, h, s]`` of the last ``s`` positions of every sequence."""
    mask = causal() if mask is None else mask
    outputs, lses = [], []
    for n, length in enumerate(lengths.tolist()):
        if page_table is None:
            k, v = k_cache[n], v_cache[n]
        else:
            pages = page_table[n, : -(-length // k_cache.shape[1])].long()
            k, v = k_cache[pages].flatten(0, 1), v_cache[pages].flatten(0, 1)
        part = attend(q[n, None], k[None, :length], v[None, :length], mask, scale, softcap)
        outputs.append(part[0])
        lses.append(part[1])
    return torch.cat(outputs), torch.cat(lses)


def merge_states(o: Sequence[torch.Tensor], lse: Sequence[torch.Tensor]) -> Pair:
    """The result over all keys from results over disjoint parts of them.

    o ``[b, s, h, dv]`` and lse ``[b, h, s]``, or ``[tokens, h, dv]`` and ``[h, tokens]``. A part
    whose lse is -inf is absent.
    """
    lses = torch.stack(list(lse))
    total = lses.logsumexp(0)
    absent = lses == -torch.inf
    weights = (lses - total).exp().masked_fill(absent, 0).transpose(-1, -2).unsqueeze(-1)
    hidden = absent.transpose(-1, -2).unsqueeze(-1)
    parts = torch.stack(list(o))
    return (weights.to(parts.dtype) * parts.masked_fill(hidden, 0)).sum(0), total


def page_write(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Row n of k and v goes to position ``slots[n]`` of the pages, in place; -1 skips it."""
    capacity = k_pages.shape[1]
    for n, slot in enumerate(slots.tolist()):
        if slot >= 0:
            k_pages[slot // capacity, slot % capacity] = k[n]
            v_pages[slot // capacity, slot % capacity] = v[n]


def _spans(offsets: torch.Tensor) -> list[tuple[int, int]]:
    return list(pairwise(offsets.tolist()))


def _leaves(*tensors: torch.Tensor) -> Triple:
    q, k, v = (t.detach().requires_grad_() for t in tensors)
    return q, k, v


def _gradients(
    result: Pair,
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    leaves: Triple,
) -> Triple:
    o, lse = result
    if grad_lse is None:
        grad_lse = torch.zeros_like(lse)
    if not (o.requires_grad or lse.requires_grad):  # no row sees any key
        dq, dk, dv = (torch.zeros_like(t) for t in leaves)
        return dq, dk, dv
    dq, dk, dv = torch.autograd.grad(
        (o, lse), leaves, (grad_o.to(o.dtype), grad_lse.to(lse.dtype)), materialize_grads=True
    )
    return dq, dk, dv
