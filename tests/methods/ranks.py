"""Attention cases run by simulated ranks, each on its rows of the inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch

from warploom.distributed import run_ranks
from warploom.methods import tasp
from warploom.testing.attention import grad_of_lse, match_backward, match_forward
from warploom.testing.cases import AttentionCase


class Results(NamedTuple):
    """Of the whole sequence, in the shapes of the case."""

    o: torch.Tensor
    lse: torch.Tensor
    dq: torch.Tensor | None = None
    dk: torch.Tensor | None = None
    dv: torch.Tensor | None = None


def length_of(case):
    return sum(case.lengths_q) if case.ragged else case.sq


def run_rank(
    world, case, kind, layout="zigzag", backward=True, with_lse=True, timeout=30.0, topology=None
):
    """What one rank does; every rank gets the whole results."""
    x = case.make()
    tensors = [t[None] if case.ragged else t for t in (*x.qkv, x.grad_o)]
    part = tasp.Sharding(length_of(case), world, layout, x.cu_seqlens_q, topology)
    *qkv, grad_o = (part.shard(t) for t in tensors)
    qkv = [t.requires_grad_(backward) for t in qkv]
    o, lse = tasp.ring_attention(
        *qkv, sharding=part, mask=case.mask, schedule=kind, scale=case.scale, softcap=case.softcap,
        timeout=timeout, return_lse=True,
    )  # fmt: skip
    results = [part.unshard(o.detach()), part.unshard(lse.detach(), dim=2)]
    if backward:
        grad_lse = grad_of_lse(case, x)
        grad_lse = part.shard(grad_lse[None] if case.ragged else grad_lse, dim=2)
        outputs, weights = ([o, lse], [grad_o, grad_lse]) if with_lse else ([o], [grad_o])
        gradients = torch.autograd.grad(outputs, qkv, weights)
        results += [part.unshard(t) for t in gradients]
    return Results(*(t[0] if case.ragged else t for t in results))


def run(case, ranks, kind, layout="zigzag", **options):
    """The results, the same bits on every rank."""
    simulated = {name: options.pop(name) for name in ("delay", "seed") if name in options}
    found = run_ranks(
        ranks, lambda world: run_rank(world, case, kind, layout, **options), timeout=30, **simulated
    )
    for other in found[1:]:
        assert same_bits(other, found[0])
    return found[0]


def same_bits(a, b):
    return all(x is y or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def check(case: AttentionCase, results: Results, with_lse=True):
    """Raises AssertionError unless they are right, by the rule of twice torch's error."""
    match_forward(case, (results.o, results.lse))
    if results.dq is not None:
        match_backward(case, (results.dq, results.dk, results.dv), with_lse)
