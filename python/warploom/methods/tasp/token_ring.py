"""Attention while queries travel: keys stay, and what each rank computed for a query goes home.

A partial result is o in float32 and lse in float64. They are merged at the queries' owner, in the
order that the schedule fixes. Forward only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from warploom.distributed import Layout, Spec
from warploom.methods.tasp.local import Forward, Pair, merge
from warploom.methods.tasp.partition import Partition
from warploom.methods.tasp.plan import own_calls, query_calls
from warploom.methods.tasp.ring import Job


def forward(job: Job, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Pair:
    """o ``[b, s, h, dv]`` and lse ``[b, h, s]`` of this rank's rows; all ranks take part."""
    assert job.schedule is not None
    parts, rank, partition = job.schedule.parts, job.world.rank, job.partition
    b, _, h, d = q.shape
    chunks = range(rank * parts, (rank + 1) * parts)
    places = {chunk: _rows(partition, chunk, parts) for chunk in chunks}
    queries, results = _layouts(partition, parts, (b, h, d, v.shape[3]), q.dtype)
    contract = job.contract("ring_attention")
    with job.world.exchange(
        job.schedule, {chunk: [q[:, places[chunk]]] for chunk in chunks}, queries,
        contract=contract, reduce=results, combine=_merge, timeout=job.timeout,
    ) as run:  # fmt: skip
        for step, arrived in run:
            if step == 0:
                total = Forward(q, v.shape[3], job.formula)
                total.add(k, v, own_calls(partition, rank, job.mask))
                o, lse = total.sums
                for chunk, rows in places.items():
                    run.give(chunk, [o[:, rows], lse[..., rows]])
                continue
            for chunk, (theirs,) in arrived.items():
                partial = Forward(theirs, v.shape[3], job.formula)
                partial.add(k, v, query_calls(partition, rank, job.mask, chunk, parts))
                run.give(chunk, list(partial.sums))
    for chunk, (part, weights) in run.results.items():
        o[:, places[chunk]], lse[..., places[chunk]] = part, weights
    return o.to(q.dtype), lse.float()


def _merge(total: Sequence[torch.Tensor], partial: Sequence[torch.Tensor]) -> None:
    (o, lse), (part, weight) = total, partial
    merge(o, lse, part, weight)


def _rows(partition: Partition, chunk: int, parts: int) -> torch.Tensor:
    """The chunk's rows at their owner."""
    pieces = partition.pieces(*divmod(chunk, parts), parts)
    return torch.cat(
        [torch.arange(0), *(torch.arange(p.row, p.row + p.span.length) for p in pieces)]
    )


@lru_cache(maxsize=64)
def _layouts(
    partition: Partition, parts: int, sizes: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[Layout, Layout]:
    """Chunks of queries, and of their results."""
    b, h, d, dv = sizes
    rows = [
        sum(piece.span.length for piece in partition.pieces(owner, part, parts))
        for owner in range(partition.ranks)
        for part in range(parts)
    ]
    results = [[Spec((b, n, h, dv), torch.float32), Spec((b, h, n), torch.float64)] for n in rows]
    return Layout([Spec((b, n, h, d), dtype)] for n in rows), Layout(results)
