"""Making plans: the arenas of a trace, each handed to the compiled planner."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from warploom import _core
from warploom.memory.plans import Arena, Plan, Step
from warploom.memory.trace import MOST, Ints, Longs, Trace

Streams = Literal["separate", "shared"]


def plan(
    trace: Trace,
    *,
    time_limit: float | None = 10.0,
    work_limit: int | None = None,
    capacity: int | None = None,
    seed: int = 0,
    streams: Streams = "separate",
    alignments: npt.ArrayLike | None = None,
    fixed: npt.ArrayLike | None = None,
) -> Plan:
    """Finds where in memory each request of a trace lives, in as few bytes as it can.

    Goes through a fixed sequence of strategies and searches, and ends when the plan is as small as
    the lower bound or a limit is reached. Limits of time count between two rounds, of which one may
    take longer than is left. The same trace, seed and ``work_limit`` give the same plan; what a
    limit of time gave is repeated by its ``work``, if there is one arena.

    Args:
        time_limit: seconds; None: none, then ``work_limit`` is needed.
        work_limit: units of work in each arena; None: none.
        capacity: bytes that are enough: ends as soon as the plan takes no more.
        seed: of what is random.
        streams: "separate": each stream has an arena of its own, as in torch's allocator, so that
            no block passes from one stream to another unseen. "shared": they share one, which is
            right if every ``free`` of the trace is when all streams had passed.
        alignments: [requests], bytes, multiples of the trace's own: of single requests. An arena
            begins at a multiple of all of its requests'.
        fixed: [requests], offsets that are given, -1 where none is; for traces of one arena.

    Raises:
        ValueError: capacity is below the lower bound (says by how much), fixed offsets overlap, or
            an argument cannot be.
    """
    begin = time.perf_counter()
    arenas = _arenas(trace, streams)
    columns = {
        "alignments": _column(trace, "alignments", alignments),
        "fixed": _column(trace, "fixed", fixed),
    }
    _check(arenas, time_limit, work_limit, capacity, columns["fixed"])
    if capacity is not None and len(arenas) > 1:
        _check_capacity(trace, arenas, capacity)
    groups = _groups(trace)
    offsets = np.zeros(len(trace), np.int64)
    made: list[Arena] = []
    left = len(trace)
    for pool, stream, requests in arenas:
        share = len(requests) / left
        left -= len(requests)
        seconds = 0.0
        if time_limit is not None:  # what others did not use is this one's
            seconds = max((time_limit - (time.perf_counter() - begin)) * share, 1e-3)
        found = _core.memory_plan(
            size=trace.size[requests],
            alloc=trace.alloc[requests],
            free=trace.free[requests],
            alignment=trace.alignment,
            group=groups[requests],
            seconds=seconds,
            work=work_limit or 0,
            seed=seed,
            capacity=(capacity or 0) if len(arenas) == 1 else 0,
            **{k: None if c is None else c[requests] for k, c in columns.items()},
        )
        base = _base(made, requests, columns["alignments"])
        offsets[requests] = np.frombuffer(found["offsets"], np.int64) + base
        made.append(_arena(pool, stream, base, found))
    offsets[trace.size == 0] = 0
    offsets.flags.writeable = False
    taken = time.perf_counter() - begin
    return Plan(offsets, tuple(made), trace.digest, seed, taken, trace, **columns)


def _base(made: list[Arena], requests: npt.NDArray[np.intp], alignments: Longs | None) -> int:
    """Where the next arena begins: after the last, at a multiple of its requests' alignments."""
    end = made[-1].base + made[-1].size if made else 0
    if end == 0 or alignments is None:
        return end
    multiple = math.lcm(*np.unique(alignments[requests]).tolist())
    base = -(-end // multiple) * multiple
    if base >= MOST:
        raise ValueError(
            f"alignments: an arena would begin at {base}, a multiple of {multiple}: must be less "
            "than 2**62"
        )
    return base


def _arenas(trace: Trace, streams: str) -> list[tuple[int, int | None, npt.NDArray[np.intp]]]:
    """Pool, stream and requests of each arena."""
    if streams not in ("separate", "shared"):
        raise ValueError(f"streams is {streams!r}: must be 'separate' or 'shared'")
    stream = trace.stream if streams == "separate" else np.zeros_like(trace.stream)
    keys, places = np.unique(np.stack([trace.pool, stream], 1), axis=0, return_inverse=True)
    return [
        (int(pool), int(own) if streams == "separate" else None, np.flatnonzero(places == number))
        for number, (pool, own) in enumerate(keys)
    ]


def _column(trace: Trace, name: str, given: npt.ArrayLike | None) -> Longs | None:
    if given is None:
        return None
    column = np.asarray(given)
    if column.shape != trace.size.shape or column.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has shape {column.shape} and dtype {column.dtype}: must be integers, one for "
            f"each of {len(trace)} requests"
        )
    # Half of what sizes are below, so that an offset, an alignment and a size have a sum.
    if column.size and int(column.max()) >= MOST // 2:
        raise ValueError(f"{name} has {int(column.max())}: must be less than 2**61")
    column = np.array(column, np.int64)
    column.flags.writeable = False
    return column


def _check(
    arenas: list[Any],
    time_limit: float | None,
    work_limit: int | None,
    capacity: int | None,
    fixed: Longs | None,
) -> None:
    limits = {"time_limit": time_limit, "work_limit": work_limit, "capacity": capacity}
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}: must be above 0, or None")
    if time_limit is None and work_limit is None:
        raise ValueError("time_limit and work_limit are None: one must end the search")
    if fixed is not None and len(arenas) > 1:
        raise ValueError(f"fixed is given: the trace must have one arena, it has {len(arenas)}")


def _check_capacity(trace: Trace, arenas: list[Any], capacity: int) -> None:
    need = sum(trace.take(requests).peak for _, _, requests in arenas)
    if capacity < need:
        raise ValueError(
            f"capacity is {capacity} bytes: the maximum loads of {len(arenas)} arenas are {need}, "
            f"which is {need - capacity} more: no plan can fit"
        )


def _groups(trace: Trace) -> Ints:
    """Equal for requests that begin in one phase and end in one, [requests]."""
    if len(trace) == 0 or len(trace.phases) == 1:
        return np.full(len(trace), -1, np.int32)
    pairs = trace.phase.astype(np.int64) * len(trace.phases) + trace.phase_at_free()
    groups: Ints = np.unique(pairs, return_inverse=True)[1].astype(np.int32)
    return groups


def _arena(pool: int, stream: int | None, base: int, found: dict[str, Any]) -> Arena:
    return Arena(
        pool,
        stream,
        base,
        size=found["size"],
        lower_bound=found["lower_bound"],
        peak_time=found["peak_time"],
        work=found["work"],
        parts=found["parts"],
        folded=found["folded"],
        history=tuple(Step(*step) for step in found["history"]),
    )
