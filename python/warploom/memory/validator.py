"""The proof that a plan is right: a sweep over time. Shares nothing with the planner."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from warploom.memory.trace import Longs, Trace


class Span(NamedTuple):
    """An arena, and what is said of it."""

    pool: int
    stream: int | None  # None: any
    begin: int
    size: int
    lower_bound: int


def check(
    trace: Trace,
    offsets: Longs,
    arenas: Sequence[Span],
    alignments: Longs | None = None,
    fixed: Longs | None = None,
) -> None:
    """Checks every request against its arena, against what it was given and against all others that
    are held with it, and every arena against what lies in it. Requests of no bytes lie nowhere.

    Raises:
        ValueError: the first request at fault, by name, or the first arena.
    """
    if offsets.shape != trace.size.shape:
        raise ValueError(
            f"the plan has {len(offsets)} offsets: the trace has {len(trace)} requests"
        )
    _check_arenas(trace, offsets, arenas)
    _check_alignments(trace, offsets, np.full(len(trace), trace.alignment))
    if alignments is not None:
        _check_given("alignments", alignments, trace)
        _check_alignments(trace, offsets, alignments)
    if fixed is not None:
        _check_given("fixed", fixed, trace)
        moved = np.flatnonzero((fixed >= 0) & (offsets != fixed) & (trace.size > 0))
        if len(moved):
            name, offset = trace.name(moved[0]), offsets[moved[0]]
            raise ValueError(f"request {name} lies at {offset}: was given {fixed[moved[0]]}")
    _sweep(trace, offsets)


def _check_given(name: str, column: Longs, trace: Trace) -> None:
    if column.shape != trace.size.shape:
        raise ValueError(f"{name} has {len(column)} values: the trace has {len(trace)} requests")
    if name == "alignments" and (column < 1).any():
        raise ValueError(f"alignments has {column.min()}: must be at least 1")


def _check_alignments(trace: Trace, offsets: Longs, alignments: Longs) -> None:
    crooked = np.flatnonzero((offsets % alignments != 0) & (trace.size > 0))
    if len(crooked):
        first = crooked[0]
        raise ValueError(
            f"request {trace.name(first)} lies at {offsets[first]}: must be a multiple of "
            f"{alignments[first]}"
        )


def _check_arenas(trace: Trace, offsets: Longs, arenas: Sequence[Span]) -> None:
    ends = sorted((arena.begin, arena.begin + arena.size) for arena in arenas)
    for (_, end), (begin, _) in pairwise(ends):
        if begin < end:
            raise ValueError(f"arenas overlap at {begin}: one reaches to {end}")
    placed = trace.size == 0
    for arena in arenas:
        begin, end = arena.begin, arena.begin + arena.size
        if begin < 0 or arena.size < 0 or end >= 1 << 63:
            raise ValueError(
                f"an arena lies at {begin} and has {arena.size} bytes: both must be at least 0, "
                "their sum less than 2**63"
            )
        mine = trace.pool == arena.pool
        if arena.stream is not None:
            mine &= trace.stream == arena.stream
        inside = (offsets >= begin) & (offsets <= end - trace.size)
        outside = np.flatnonzero(mine & ~inside & ~placed)
        if len(outside):
            first = outside[0]
            raise ValueError(
                f"request {trace.name(first)} lies at {offsets[first]}, {trace.size[first]} bytes: "
                f"must be inside of its arena, {begin} to {end}"
            )
        _check_sizes(trace, offsets, mine & (trace.size > 0), arena)
        placed |= mine
    if not placed.all():
        first = int(np.flatnonzero(~placed)[0])
        raise ValueError(f"request {trace.name(first)} has no arena")


def _check_sizes(trace: Trace, offsets: Longs, mine: npt.NDArray[np.bool_], arena: Span) -> None:
    """The arena's size is the end of its highest request, its bound between load and size."""
    highest = int((offsets + trace.padded)[mine].max(initial=arena.begin)) - arena.begin
    if arena.size != highest:
        raise ValueError(
            f"the arena at {arena.begin} has {arena.size} bytes: its requests end at {highest}"
        )
    load = trace.take(mine).peak
    if not load <= arena.lower_bound <= arena.size:
        raise ValueError(
            f"the arena at {arena.begin} has the lower bound {arena.lower_bound}: must be between "
            f"its maximum load, {load}, and its size, {arena.size}"
        )


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
