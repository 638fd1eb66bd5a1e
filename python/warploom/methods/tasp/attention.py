"""``ring_attention``: exact attention of a sequence that is cut over ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from warploom.collectives import Schedule, Workload, head_slices
from warploom.mask import Mask
from warploom.methods.tasp import ring, token_ring
from warploom.methods.tasp.groups import Grouped, known_stages
from warploom.methods.tasp.heads import HeadExchange, ToHeads, ToRows
from warploom.methods.tasp.local import Backward, Formula, Forward, Pair
from warploom.methods.tasp.plan import Call
from warploom.methods.tasp.ring import Job
from warploom.methods.tasp.schedules import best_schedule, known_schedule, proven
from warploom.methods.tasp.sharding import Sharding
from warploom.methods.tasp.uncompiled import uncompiled
from warploom.methods.tasp.visibility import Rectangle
from warploom.ops._checks import band, dense_sizes, dtype_code, same_device, strides


def ring_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    sharding: Sharding,
    mask: Mask | None = None,
    schedule: str | Schedule = "auto",
    scale: float | None = None,
    softcap: float | None = None,
    timeout: float = 30.0,
    return_lse: bool = False,
) -> Any:
    """``warploom.attention`` of a sequence whose rows lie on several ranks; all take part.

    Each rank gives its rows and gets the output of its rows, attended to the keys of all. Partial
    results are summed in float32 in an order that the schedule fixes, and so are gradients at the
    rank that owns the rows: results are bitwise the same from call to call, whatever arrives
    first. Differentiable once in q, k and v, through o and lse, with schedules that move keys and
    values or heads; then every rank must run the backward too.

    Args:
        q: ``[b, rows, h, d]``, float32, float16 or bfloat16: this rank's rows of the sequence, as
            ``sharding.shard`` gives them.
        k: ``[b, rows, hk, d]``; hk divides h. v: ``[b, rows, hk, dv]``.
        sharding: who holds which rows; its documents apply.
        mask: from ``wl.mask``, on positions of the whole sequence (of each document by itself);
            None is ``full()``.
        schedule: ``"auto"``, the one with the least predicted communication on
            ``sharding.topology``; a kind, made for it; or a schedule, which is verified once.
        scale: factor of the logits; None is ``d ** -0.5``.
        softcap: c > 0 turns a logit x into ``c * tanh(x / c)``; None does not.
        timeout: seconds that one wait for other ranks may last.
        return_lse: return lse too.

    Returns:
        o ``[b, rows, h, dv]`` in q's dtype; with ``return_lse``, also lse ``[b, h, rows]`` in
        float32.

    Raises:
        ValueError: an argument is wrong, or ranks gave different ones; nothing has moved then.
        NotImplementedError: the schedule has no backward, and an input requires grad; or no kernel
            fits. Nothing has moved then.
        TimeoutError, ConnectionError: a rank stalled or is gone; which, and at which transfer.
    """
    result = _attend(q, k, v, sharding, mask, schedule, scale, softcap, timeout)
    return result if return_lse else result[0]


@uncompiled
def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sharding: Sharding,
    mask: Mask | None,
    schedule: str | Schedule,
    scale: float | None,
    softcap: float | None,
    timeout: float,
) -> Pair:
    q, k, v = (_autocast(t) for t in (q, k, v))
    _check(q, k, v, sharding, scale, softcap)
    bands = Mask(*band(mask))
    record = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    chosen = _choose(sharding, schedule, q, v, bands, record)
    if chosen is not None and record and not _differentiable(chosen):
        raise NotImplementedError(
            f"schedule {chosen.kind!r} has no backward: use one that moves keys and values or all "
            "heads, or call it under torch.no_grad()"
        )
    formula = Formula((q.shape[3] or 1) ** -0.5 if scale is None else float(scale), softcap)
    heads = (q.shape[2], k.shape[2], q.shape[3], v.shape[3])
    _need_kernels(q.dtype, q.device, heads, bands, formula, record)
    inputs = {
        "batch": q.shape[0],
        "dtype": q.dtype,
        "heads of q": q.shape[2],
        "heads of k and v": k.shape[2],
        "head dims of q and v": (q.shape[3], v.shape[3]),
    }
    job = Job(
        sharding.world,
        sharding.partition,
        chosen,
        bands,
        formula,
        timeout,
        tuple(inputs.items()),
        (k.shape[2],) * sharding.world.size,
    )
    return _RUNS["kv" if chosen is None else chosen.moves](job, record, q, k, v)


def _choose(
    sharding: Sharding,
    schedule: str | Schedule,
    q: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    record: bool,
) -> Schedule | None:
    """The schedule of a call; None where there is no other rank."""
    if not isinstance(schedule, str | Schedule):
        raise ValueError(
            f"schedule is {schedule!r}: must be 'auto', a kind, or a warploom.collectives.Schedule"
        )
    if isinstance(schedule, Schedule) and schedule.ranks != sharding.world.size:
        raise ValueError(
            f"schedule is for {schedule.ranks} ranks: must be for the {sharding.world.size} of "
            f"{sharding}"
        )
    if sharding.topology is None:
        return None
    if isinstance(schedule, Schedule):
        return proven(schedule)
    if schedule != "auto":
        return known_schedule(sharding.topology, schedule)
    b, _, h, d = (max(size, 1) for size in q.shape)
    workload = Workload(
        queries=max(sharding.length, 1),
        heads=h,
        head_dim=d,
        kv_heads=v.shape[2],
        value_dim=v.shape[3],
        batch=b,
        element_bytes=q.element_size(),
        causal=mask.right == 0,
        backward=record,
    )
    return best_schedule(sharding.topology, workload)


@lru_cache(maxsize=64)
def _need_kernels(
    dtype: torch.dtype,
    device: torch.device,
    heads: tuple[int, int, int, int],
    mask: Mask,
    formula: Formula,
    backward: bool,
) -> None:
    """Raises what attention would, on one row: amid an exchange that ends the group of all ranks.

    heads: h, hk, d and dv.
    """
    h, hk, d, dv = heads
    q, k, v = (torch.zeros(1, 1, *size, dtype=dtype, device=device) for size in
               ((h, d), (hk, d), (hk, dv)))  # fmt: skip
    calls = [Call(Rectangle(0, 1, 0, 1, mask))]
    forward = Forward(q, dv, formula)
    forward.add(k, v, calls)
    if backward:
        o, lse = forward.result()
        sums = (torch.zeros_like(t, dtype=torch.float32) for t in (k, v))
        Backward(o, lse, q, o, lse, formula).add(k, v, calls, *sums)


def _differentiable(schedule: Schedule) -> bool:
    """Queries that travel bring no gradients home, nor do keys between groups."""
    several_groups = schedule.moves == "heads" and schedule.parts < schedule.ranks
    return schedule.moves != "q" and not several_groups


def _keys_travel(job: Job, record: bool, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Pair:
    result: Pair = _RingAttention.apply(job, record, q, k, v)  # type: ignore[no-untyped-call]
    return result


def _queries_travel(
    job: Job, record: bool, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Pair:
    return token_ring.forward(job, q, k, v)


def _heads_travel(
    job: Job, record: bool, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Pair:
    """Heads for sequence, attention to the group's keys and what comes from others, and back."""
    assert isinstance(job.schedule, Schedule)
    exchanged, between = known_stages(job.schedule)
    group = exchanged.parts
    grouped = Grouped(job.partition, group)
    exchange = HeadExchange(job.world, job.partition, grouped, exchanged, job.timeout)
    heads, kv_heads = head_slices(q.shape[2], k.shape[2], group)
    contract = {**job.contract("ring_attention"), "gradients": record}
    gathered = ToHeads.apply(exchange, (heads, kv_heads, kv_heads), contract, q, k, v)  # type: ignore[no-untyped-call]
    held = tuple(len(kv_heads[rank % group]) for rank in range(job.world.size))
    inner = replace(job, partition=grouped, schedule=between, kv_heads=held)
    o, lse = _keys_travel(inner, record, *gathered)
    results = (o, lse.transpose(1, 2).unsqueeze(3))
    contract = {"call": "results of ring_attention"}
    o, lse = ToRows.apply(exchange, (heads, heads), contract, *results)  # type: ignore[no-untyped-call]
    return o, lse.squeeze(3).transpose(1, 2).contiguous()


_RUNS = {"kv": _keys_travel, "q": _queries_travel, "heads": _heads_travel}


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: Job, record: bool, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> Pair:
        o, lse = ring.forward(job, q, k, v, record)
        ctx.job = job
        ctx.set_materialize_grads(False)  # no gradient of lse: a cheaper kernel
        ctx.save_for_backward(q, k, v, o, lse)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: torch.Tensor | None, grad_lse: torch.Tensor | None) -> Any:
        q, k, v, o, lse = ctx.saved_tensors
        grad_o = torch.zeros_like(o) if grad_o is None else grad_o
        return None, None, *ring.backward(ctx.job, grad_o, grad_lse, q, k, v, o, lse)


def _autocast(t: torch.Tensor) -> torch.Tensor:
    """As torch casts the inputs of its own attention."""
    kind = t.device.type
    return t.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else t


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sharding: Sharding,
    scale: float | None,
    softcap: float | None,
) -> None:
    """All that can be seen here alone, before other ranks are kept waiting."""
    if not isinstance(sharding, Sharding):
        raise ValueError(f"sharding is {sharding!r}: must be a tasp.Sharding")
    dense_sizes(q, k, v)
    dtype_code(q, k, v)
    same_device(q, k=k, v=v)
    for name, t in (("q", q), ("k", k), ("v", v)):
        strides(name, t)
        if t.shape[1] != sharding.rows:
            raise ValueError(
                f"{name} has {t.shape[1]} rows: must have the {sharding.rows} of {sharding}, "
                "as its shard() gives them"
            )
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale is {scale}: must be finite")
    if softcap is not None and not (math.isfinite(softcap) and softcap > 0):
        raise ValueError(f"softcap is {softcap}: must be a positive number, or None for none")
