"""What PyTorch's caching allocator would take from the device for a trace, under each policy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from warploom import _core
from warploom.memory.allocator_options import MIB, AllocatorOptions
from warploom.memory.lifetimes import FREE_REQUESTED
from warploom.memory.plans import Plan
from warploom.memory.trace import Longs, Trace

Policy = Literal["caching", "caching+options", "expandable_segments", "planned"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Options = AllocatorOptions | str | Mapping[str, Any] | None

ACTIONS = (
    "alloc",
    "free_requested",
    "free_completed",
    "segment_alloc",
    "segment_free",
    "segment_map",
    "segment_unmap",
    "oom",
)
EVENT = np.dtype(
    [
        ("time", np.int64),
        ("request", np.int64),
        ("action", np.int32),
        ("stream", np.int32),
        ("address", np.int64),
        ("size", np.int64),
        ("reserved", np.int64),
        ("allocated", np.int64),
    ]
)
_ARENA_UNIT = 2 * MIB  # the device gives memory in pages of so many bytes


class Moment(NamedTuple):
    """What was held at a time."""

    time: int
    reserved: int  # bytes taken from the device
    allocated: int  # bytes of blocks in use: in a plan those asked for, else with their rounding

    @property
    def fragmentation(self) -> float:
        """The share of what is reserved that no block in use fills."""
        return 1 - self.allocated / self.reserved if self.reserved else 0.0


@dataclass(frozen=True, eq=False)
class Simulation:
    """What became of a trace under a policy.

    Attributes:
        capacity: bytes of the device; None: no limit.
        at_peak: the first moment of most bytes reserved.
        allocated_peak: most bytes of blocks in use at a time, with what rounding added.
        requested_peak: most bytes asked for and held at a time.
        worst: of the moments at which memory was taken from the device for a request, that at
            which most of it was reserved and not in use; zeros if there was none.
        last: when the simulation ended.
        segments: most pieces of the device's memory at a time; with expandable segments, ranges of
            addresses.
        device_allocs, device_frees: calls that take or return the device's memory.
        retries: how often all of the cache was given back to make room.
        in_plan, conflicts: requests that got their place in the plan, and whose place was taken.
        unmatched: requests of the trace for which the plan has no place.
        oom_request: the first request that did not fit, at which the simulation ended; or None.
        oom: what was held then.
        log: what happened, in order, with dtype ``EVENT`` (``action`` is a place in ``ACTIONS``),
            where it was asked for.
    """

    policy: str
    options: AllocatorOptions
    capacity: int | None
    at_peak: Moment
    allocated_peak: int
    requested_peak: int
    worst: Moment
    last: Moment
    segments: int
    device_allocs: int
    device_frees: int
    retries: int
    in_plan: int
    conflicts: int
    unmatched: int
    oom_request: int | None
    oom: Moment | None
    log: npt.NDArray[Any] | None = None

    @property
    def reserved_peak(self) -> int:
        """Most bytes taken from the device at a time."""
        return self.at_peak.reserved

    @property
    def fragmentation(self) -> float:
        """1 - allocated/reserved, of the peaks of both."""
        return 1 - self.allocated_peak / self.reserved_peak if self.reserved_peak else 0.0

    @property
    def fits(self) -> bool:
        """Whether every request got its memory."""
        return self.oom_request is None

    @property
    def timeline(self) -> tuple[Longs, Longs, Longs]:
        """Times, bytes reserved and bytes allocated after each event of the log.

        Raises:
            ValueError: there is no log.
        """
        if self.log is None:
            raise ValueError("log is None: must be asked for, simulate(..., log=True)")
        return self.log["time"], self.log["reserved"], self.log["allocated"]

    def __repr__(self) -> str:
        end = "fits" if self.fits else f"out of memory at request {self.oom_request}"
        return (
            f"Simulation({self.policy}, reserved {self.reserved_peak} bytes, "
            f"fragmentation {self.fragmentation:.2%}, {end})"
        )


def simulate(
    trace: Trace,
    *,
    policy: Policy = "caching",
    capacity: int | None = None,
    options: Options = None,
    plan: Plan | None = None,
    empty_cache: Sequence[int] = (),
    segments: Sequence[int] = (),
    log: bool = False,
) -> Simulation:
    """Runs a trace through PyTorch's caching allocator for CUDA devices.

    The rules are PyTorch's; what they leave open is where segments lie, which decides between equal
    blocks of different segments: here addresses rise and are never used twice, but for those in
    ``segments``. The first request
    that gets no memory ends the simulation, as it would most programs.

    Args:
        policy: "caching": PyTorch's defaults. "caching+options": with ``options``.
            "expandable_segments": ``options`` and expandable_segments:True. "planned": an arena of
            the plan's size, rounded up to 2 MiB; what has no place in it, or whose place is taken,
            goes to the caching allocator with ``options``.
        capacity: bytes of the device; None: no limit.
        options: as in PYTORCH_ALLOC_CONF, a text or a mapping.
        plan: for "planned". If it is another trace's, it must have that trace, and requests are
            matched: the n-th of a pool, stream, phase and size takes the place of the n-th there;
            a RuntimeWarning tells where none is. "forward 3" is another phase than "forward 0", so
            that later steps do not match the plan of earlier ones.
        empty_cache: times at which torch.cuda.empty_cache is called.
        segments: addresses of new segments, in the order in which they are taken.
        log: keeps everything that happens, 56 bytes for each event.

    Raises:
        ValueError: an option that cannot be, a plan that is missing, too large for the capacity or
            cannot be matched.
    """
    chosen = _options(policy, options)
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity is {capacity}: must be at least 1 byte, or None")
    if (plan is not None) != (policy == "planned"):
        raise ValueError(f"plan is {plan!r}: must be given for policy 'planned', and only for it")
    offset, arena = (None, 0) if plan is None else _places(trace, plan)
    unmatched = 0 if offset is None else int((offset < 0).sum())
    if len(trace) and unmatched == len(trace):
        warnings.warn(
            f"plan matches none of the trace's {len(trace)} requests: all go to the caching "
            "allocator; pools, streams, phases and sizes must be those of the plan's trace",
            RuntimeWarning,
            stacklevel=2,
        )
    answer = _core.memory_simulate(
        size=trace.size,
        alloc=trace.alloc,
        free=trace.free,
        requested=_requested(trace),
        stream=trace.stream,
        pool=trace.pool,
        offset=offset,
        arena=arena,
        empty_cache=np.asarray(empty_cache, np.int64),
        segments=np.asarray(segments, np.int64),
        capacity=capacity or 0,
        memory_fraction=chosen.per_process_memory_fraction or 0.0,
        max_split_size=(chosen.max_split_size_mb or 0) * MIB,
        max_non_split_rounding=chosen.max_non_split_rounding_mb * MIB,
        garbage_collection_threshold=chosen.garbage_collection_threshold or 0.0,
        roundup_power2_divisions=list(chosen.roundup_power2_divisions),
        expandable_segments=chosen.expandable_segments,
        log=log,
    )
    failed = answer["oom_request"] >= 0
    return Simulation(
        policy=policy,
        options=chosen,
        capacity=capacity,
        at_peak=Moment(*answer["reserved_peak"]),
        allocated_peak=answer["allocated_peak"][2],
        requested_peak=answer["requested_peak"],
        worst=Moment(*answer["worst"]),
        last=Moment(*answer["last"]),
        segments=answer["segments_peak"],
        device_allocs=answer["device_allocs"],
        device_frees=answer["device_frees"],
        retries=answer["retries"],
        in_plan=answer["in_arena"],
        conflicts=answer["conflicts"],
        unmatched=unmatched,
        oom_request=answer["oom_request"] if failed else None,
        oom=Moment(*answer["oom"]) if failed else None,
        log=np.frombuffer(answer["log"], EVENT) if log else None,
    )


def best_options(
    trace: Trace,
    *,
    capacity: int | None = None,
    max_split_size_mb: Iterable[int | None] = (None, 64, 128, 256, 512),
    roundup_power2_divisions: Iterable[int] = (0, 2, 4, 8, 16),
) -> AllocatorOptions:
    """Of all pairs of these settings, the one under which least is reserved and the trace fits; of
    equal ones the first. Costs a simulation for each."""

    def score(options: AllocatorOptions) -> tuple[bool, int]:
        result = simulate(trace, policy="caching+options", capacity=capacity, options=options)
        return not result.fits, result.reserved_peak

    divisions = list(roundup_power2_divisions)
    return min(
        (
            AllocatorOptions.of({"max_split_size_mb": split, "roundup_power2_divisions": parts})
            for split in max_split_size_mb
            for parts in divisions
        ),
        key=score,
    )


def _options(policy: str, options: Options) -> AllocatorOptions:
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}: must be one of {', '.join(POLICIES)}")
    if policy == "caching" and options is not None:
        raise ValueError("options are given: policy 'caching' has none, use 'caching+options'")
    if policy == "caching+options" and options is None:
        raise ValueError("options is None: policy 'caching+options' needs some; see best_options")
    chosen = AllocatorOptions.of(options)
    return chosen.with_expandable_segments() if policy == "expandable_segments" else chosen


def _requested(trace: Trace) -> Longs | None:
    """When the owner of each block let go, where importers noted that it was before its free."""
    pairs = trace.notes.get(FREE_REQUESTED)
    if not pairs:
        return None
    noted = np.asarray(pairs, np.int64).reshape(-1, 2)
    order = np.argsort(trace.alloc, kind="stable")
    times = trace.alloc[order]
    if (times[1:] == times[:-1]).any():
        raise ValueError(f"the note {FREE_REQUESTED!r} names requests by alloc: two have the same")
    places = np.searchsorted(times, noted[:, 0]).clip(0, max(len(trace) - 1, 0))
    there = times[places] == noted[:, 0] if len(trace) else np.zeros(len(noted), bool)
    requested = trace.free.copy()
    requested[order[places[there]]] = noted[there, 1]
    return requested


def _places(trace: Trace, plan: Plan) -> tuple[Longs, int]:
    """Each request's place in the plan, -1 where it has none, and the arena's bytes."""
    arena = -(-plan.size // _ARENA_UNIT) * _ARENA_UNIT
    if plan.trace_digest == trace.digest:
        return np.ascontiguousarray(plan.offsets, np.int64), arena
    if plan.trace is None:
        raise ValueError(
            f"the plan is for trace {plan.trace_digest}, this one is {trace.digest}: to match "
            "their requests the plan must have its trace, plan.for_trace"
        )
    first, second = _keys((plan.trace, trace))
    order = np.argsort(first, kind="stable")
    places = np.searchsorted(first[order], second).clip(0, max(len(first) - 1, 0))
    offset = np.full(len(trace), -1, np.int64)
    if len(first):
        found = order[places]
        match = first[found] == second
        offset[match] = plan.offsets[found[match]]
    return offset, arena


def _keys(traces: tuple[Trace, Trace]) -> list[Longs]:
    """Numbers that are equal for the n-th requests of equal pool, stream, phase and size."""
    phases: dict[str, int] = {}
    rows = []
    for trace in traces:
        names = np.array([phases.setdefault(name, len(phases)) for name in trace.phases], np.int64)
        rows.append(np.stack([trace.pool, trace.stream, names[trace.phase], trace.size], 1))
    kinds = np.unique(np.concatenate(rows), axis=0, return_inverse=True)[1].reshape(-1)
    split = len(traces[0])
    most = max(len(trace) for trace in traces) + 1
    return [_numbered(part) + part * most for part in (kinds[:split], kinds[split:])]


def _numbered(kinds: npt.NDArray[Any]) -> Longs:
    """How many of the same kind came before."""
    order = np.argsort(kinds, kind="stable")
    ordered = kinds[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(kinds) else order
    runs = np.diff(np.r_[starts, len(kinds)])
    numbers = np.empty(len(kinds), np.int64)
    numbers[order] = np.arange(len(kinds)) - np.repeat(starts, runs)
    return numbers
