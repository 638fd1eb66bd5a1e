"""The proof that a plan is right: a sweep over time. Shares nothing with the planner."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from warploom.memory.trace import Longs, Trace

Span = tuple[int, int | None, int, int]  # pool, stream (None: any), begin, end


def check(trace: Trace, offsets: Longs, arenas: Sequence[Span]) -> None:
    """Checks every request against its arena and against all others that are held with it.

    Raises:
        ValueError: the first request at fault, by name.
    """
    if offsets.shape != trace.size.shape:
        raise ValueError(
            f"the plan has {len(offsets)} offsets: the trace has {len(trace)} requests"
        )
    _check_arenas(trace, offsets, arenas)
    crooked = np.flatnonzero(offsets % trace.alignment != 0)
    if len(crooked):
        name, offset = trace.name(crooked[0]), offsets[crooked[0]]
        raise ValueError(
            f"request {name} lies at {offset}: must be a multiple of {trace.alignment}"
        )
    _sweep(trace, offsets)


def _check_arenas(trace: Trace, offsets: Longs, arenas: Sequence[Span]) -> None:
    ends = sorted((begin, end) for _, _, begin, end in arenas)
    for (_, end), (begin, _) in pairwise(ends):
        if begin < end:
            raise ValueError(f"arenas overlap at {begin}: one reaches to {end}")
    placed = trace.size == 0
    for pool, stream, begin, end in arenas:
        mine = trace.pool == pool
        if stream is not None:
            mine &= trace.stream == stream
        inside = (offsets >= begin) & (offsets + trace.size <= end)
        outside = np.flatnonzero(mine & ~inside & ~placed)
        if len(outside):
            first = outside[0]
            raise ValueError(
                f"request {trace.name(first)} lies at {offsets[first]}, {trace.size[first]} bytes: "
                f"must be inside of its arena, {begin} to {end}"
            )
        placed |= mine
    if not placed.all():
        first = int(np.flatnonzero(~placed)[0])
        raise ValueError(f"request {trace.name(first)} has no arena")


def _sweep(trace: Trace, offsets: Longs) -> None:
    """Goes through all begins and ends in time, with what is held in the order of its offsets."""
    some = np.flatnonzero(trace.size > 0)
    times = np.concatenate([trace.free[some], trace.alloc[some]])
    kinds = np.repeat([0, 1], len(some))  # ends before begins at equal times
    order = np.lexsort((kinds, times))
    requests = np.concatenate([some, some])[order].tolist()
    begins = kinds[order].tolist()
    lows, highs = offsets.tolist(), (offsets + trace.size).tolist()
    held: list[tuple[int, int]] = []  # (offset, request)
    for request, begin in zip(requests, begins, strict=True):
        entry = (lows[request], request)
        if not begin:
            del held[bisect_left(held, entry)]
            continue
        place = bisect_left(held, entry)
        for other in held[max(place - 1, 0) : place + 1]:
            if other[0] < highs[request] and lows[request] < highs[other[1]]:
                raise ValueError(
                    f"requests {trace.name(other[1])} and {trace.name(request)} overlap: "
                    f"{other[0]} to {highs[other[1]]} and {lows[request]} to {highs[request]}, "
                    f"both held at time {trace.alloc[request]}"
                )
        insort(held, entry)
