"""Attention while keys and values travel: every chunk passes every rank, gradients go home.

Keys and values are sent and received with the sequence as their first axis, so that any run of rows
is contiguous: an arriving chunk goes straight into its place among those that it is computed with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from warploom.collectives import Schedule
from warploom.distributed import Layout, Spec, World
from warploom.mask import Mask
from warploom.methods.tasp.groups import Stage
from warploom.methods.tasp.local import Backward, Formula, Forward, Pair, Triple
from warploom.methods.tasp.partition import Partition
from warploom.methods.tasp.plan import Plan, plan

Tensors = list[torch.Tensor]

known_plan = lru_cache(maxsize=64)(plan)


@dataclass(frozen=True)
class Job:
    """What is to be computed, by all ranks alike, and who of them computes it here."""

    world: World
    partition: Partition
    schedule: Schedule | Stage | None  # None where no keys travel
    mask: Mask
    formula: Formula
    timeout: float
    inputs: tuple[tuple[str, object], ...]  # what the ranks' tensors must have in common
    kv_heads: tuple[int, ...]  # that each rank holds

    @property
    def plan(self) -> Plan:
        return known_plan(self.partition, self.world.rank, self.mask, self.schedule)

    def contract(self, what: str) -> Mapping[str, object]:
        """What must be equal on all ranks, besides shapes and schedule."""
        return {
            "call": what,
            "length": self.partition.length,
            "layout of the sequence": self.partition.layout,
            "documents": self.partition.documents,
            **dict(self.inputs),
            "mask": self.mask,
            "scale": self.formula.scale,
            "softcap": self.formula.softcap,
        }


def forward(job: Job, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, record: bool) -> Pair:
    """o ``[b, s, h, dv]`` and lse ``[b, h, s]`` of this rank's rows; all ranks take part.

    ``record``: whether gradients will be asked for; the same on all ranks.
    """
    total = Forward(q, v.shape[3], job.formula)
    steps = job.plan.steps
    if job.schedule is None:
        total.add(k, v, steps[0].calls)
        return total.result()
    rows = _Rows(job.plan, k, v)
    contract = {**job.contract("ring_attention"), "gradients": record}
    with job.world.exchange(
        job.schedule, rows.own(), _kv_layout(job, k, v), contract=contract, pool=rows,
        timeout=job.timeout,
    ) as run:  # fmt: skip
        for step, _ in run:
            keys, values = rows.of(step)
            total.add(keys, values, steps[step].calls)
    return total.result()


def backward(
    job: Job,
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
) -> Triple:
    """dq, dk, dv of this rank's rows, from the forward's results; all ranks take part."""
    total = Backward(grad_o, grad_lse, q, o, lse, job.formula)
    rows = _Rows(job.plan, k, v)
    steps = job.plan.steps
    if job.schedule is None:
        dk, dv = _zeros_like(k), _zeros_like(v)
        total.add(k, v, steps[0].calls, _batch_first(dk), _batch_first(dv))
        return total.dq(), _batch_first(dk).to(k.dtype), _batch_first(dv).to(v.dtype)
    layout = _kv_layout(job, k, v)
    with job.world.exchange(
        job.schedule, rows.own(), layout, contract=job.contract("gradient of ring_attention"),
        pool=rows, reduce=layout.with_dtype(torch.float32), timeout=job.timeout,
    ) as run:  # fmt: skip
        for step, chunks in run:
            keys, values = rows.of(step)
            sums = _zeros_like(keys), _zeros_like(values)
            total.add(keys, values, steps[step].calls, *map(_batch_first, sums))
            for chunk in chunks:
                seen = steps[step].touched(chunk)
                run.give(chunk, rows.pieces(chunk, *sums) if seen else None)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for chunk, gradients in run.results.items():
        homes = rows.pieces(chunk, _rows_first(dk), _rows_first(dv))
        for home, gradient in zip(homes, gradients, strict=True):
            home.copy_(gradient)
    return total.dq(), dk, dv


class _Rows:
    """The keys and values of every step; those of others, in one buffer a step."""

    def __init__(self, plan: Plan, k: torch.Tensor, v: torch.Tensor) -> None:
        self._plan = plan
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {0: (k, v)}
        self._held: dict[int, int] = {}  # chunks of a step that are still needed

    def own(self) -> dict[int, Tensors]:
        """This rank's chunks; copied only where rows of its tensors are not contiguous."""
        k, v = (_rows_first(t).contiguous() for t in self._buffers[0])
        return {chunk: self.pieces(chunk, k, v) for chunk in self._plan.steps[0].slots}

    def pieces(self, chunk: int, k: torch.Tensor, v: torch.Tensor) -> Tensors:
        """The chunk's rows of its step's k and v, ``[rows, b, hk, d]``: keys, then values."""
        slots = self._plan.steps[self._plan.step_of[chunk]].slots[chunk]
        return [t[slot.target : slot.target + slot.rows] for t in (k, v) for slot in slots]

    def of(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """k and v ``[b, rows, hk, d]`` of a step."""
        if step == 0:
            return self._buffers[0]
        k, v = self._buffer(step)
        return _batch_first(k), _batch_first(v)

    def take(self, chunk: int) -> Tensors:
        """Where an arriving chunk goes."""
        step = self._plan.step_of[chunk]
        self._held[step] = self._held.get(step, 0) + 1
        return self.pieces(chunk, *self._buffer(step))

    def give_back(self, chunk: int, tensors: Tensors) -> None:
        """The chunk is needed no more; nor is its buffer after the last."""
        step = self._plan.step_of[chunk]
        self._held[step] -= 1
        if self._held[step] == 0:
            del self._buffers[step]

    def _buffer(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step not in self._buffers:
            rows = self._plan.steps[step].rows
            b, _, hk, d = self._buffers[0][0].shape
            k, v = self._buffers[0]
            self._buffers[step] = (
                k.new_empty(rows, b, hk, d),
                v.new_empty(rows, b, hk, v.shape[3]),
            )
        return self._buffers[step]


def _kv_layout(job: Job, k: torch.Tensor, v: torch.Tensor) -> Layout:
    assert job.schedule is not None
    sizes = (k.shape[0], k.shape[3], v.shape[3])
    return _known_layout(job.partition, job.schedule.parts, job.kv_heads, sizes, k.dtype)


@lru_cache(maxsize=64)
def _known_layout(
    partition: Partition,
    parts: int,
    kv_heads: tuple[int, ...],
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
) -> Layout:
    """Every chunk: the rows of each of its pieces, first the keys' and then the values'."""
    b, *dims = sizes
    return Layout(
        [
            Spec((piece.span.length, b, kv_heads[owner], d), dtype)
            for d in dims
            for piece in partition.pieces(owner, part, parts)
        ]
        for owner in range(partition.ranks)
        for part in range(parts)
    )


def _rows_first(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(0, 1)


_batch_first = _rows_first


def _zeros_like(t: torch.Tensor) -> torch.Tensor:
    """Float32 ``[rows, b, hk, d]`` for a tensor ``[b, rows, hk, d]``."""
    b, rows, hk, d = t.shape
    return t.new_zeros((rows, b, hk, d), dtype=torch.float32)
