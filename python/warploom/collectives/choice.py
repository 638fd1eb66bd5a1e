"""Which schedule fits a workload on a topology best, by predicted time and what it takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from warploom.collectives.cost import Cost, cost_of
from warploom.collectives.schedule import KINDS, Moves, Schedule, make
from warploom.collectives.topology import Topology
from warploom.collectives.workload import Workload

_EQUAL = 1.002  # predicted times this close are equal: then the one that communicates least is best
_MEMORY = 2.0


@dataclass(frozen=True)
class Prediction:
    """One candidate: its schedule and the cost of each pass, or why it is not possible."""

    kind: str
    options: dict[str, int]
    schedule: Schedule | None
    costs: tuple[Cost, ...]
    refused: str

    @property
    def name(self) -> str:
        """The kind with its options, such as "direct, parts 4"."""
        return ", ".join([self.kind, *(f"{key} {value}" for key, value in self.options.items())])

    @property
    def seconds(self) -> float:
        """Of all passes."""
        return sum(cost.seconds for cost in self.costs)


def predictions(
    topology: Topology,
    workload: Workload,
    *,
    kinds: Collection[str] = KINDS,
    moves: Collection[Moves] = ("kv", "q", "heads"),
    memory: float = _MEMORY,
) -> list[Prediction]:
    """Every kind's candidates: the best, the others by predicted time, those not possible last.

    The best is, of those whose time is within 0.2% of the smallest, the one that communicates for
    the least time.

    Args:
        kinds, moves: what to consider; what travels, where the caller cannot run everything.
        memory: most of others' data that a rank may hold at a time, in units of its own
            (``Schedule.peak_shards``); 2.0: one arrives while one is computed with.
    """
    found = []
    for kind, options in _candidates(topology, workload):
        if kind in kinds:
            prediction = _predict(topology, workload, kind, options, memory)
            if prediction.schedule is None or prediction.schedule.moves in moves:
                found.append(prediction)
    possible = [p for p in found if p.schedule is not None]
    possible.sort(key=lambda p: p.seconds)
    if possible:
        equal = [p for p in possible if p.seconds <= possible[0].seconds * _EQUAL]
        best = min(equal, key=lambda p: sum(cost.communication_seconds for cost in p.costs))
        possible.remove(best)
        possible.insert(0, best)
    return possible + [p for p in found if p.schedule is None]


def schedule(
    topology: Topology,
    kind: str = "auto",
    *,
    parts: int | None = None,
    group: int | None = None,
    workload: Workload | None = None,
    kinds: Collection[str] = KINDS,
    moves: Collection[Moves] = ("kv", "q", "heads"),
    memory: float = _MEMORY,
) -> Schedule:
    """A schedule on a topology.

    Args:
        kind: "auto", the best of ``kinds`` and ``moves`` for the ``workload``, the first of
            :func:`predictions`; or one of ``KINDS``:

            - "ring": each chunk goes round one cycle of all ranks; where links differ, one whose
              slowest link is fast.
            - "bidirectional": half of each owner's data each way round.
            - "hamilton": one part round each of ranks - 1 arc-disjoint Hamiltonian cycles, so that
              every link carries a chunk in every round (TASP, arXiv 2509.26541).
            - "direct": in round t each owner sends its part t to all; nothing is forwarded. As many
              bytes a link as "hamilton", and no rank waits for another's forwarding.
            - "hierarchical": to the rank in the same place of every other node, and from there
              inside the node; network cards and links carry no more than they must.
            - "ulysses": heads are exchanged for sequence, and back.
            - "hybrid": the same inside groups of ``group`` neighbours; keys and values go round the
              groups. Forward only.
            - "token_ring": queries go round, results straight home. Forward only.
        parts: into how many chunks each owner's data is cut, for "ring" (default: 1), "direct"
            (default: ranks - 1) and "hierarchical" (default: twice the ranks of a node).
        group: for "hybrid", ranks that exchange heads; divides the ranks.
        workload, kinds, moves, memory: for "auto", as of :func:`predictions`.

    Raises:
        ValueError: an argument is wrong, or the topology lacks a link that the kind needs; "auto":
            no kind is possible, and why each is not.
    """
    if kind != "auto":
        return make(topology, kind, parts=parts, group=group)
    if workload is None:
        raise ValueError("workload is None: kind 'auto' chooses by it")
    if parts is not None or group is not None:
        raise ValueError("parts and group: kind 'auto' chooses them itself")
    found = predictions(topology, workload, kinds=kinds, moves=moves, memory=memory)
    if not found or found[0].schedule is None:
        reasons = "; ".join(f"{p.name}: {p.refused}" for p in found)
        raise ValueError(
            f"no schedule is possible for this workload: {reasons or 'none asked for'}"
        )
    return found[0].schedule


def _candidates(topology: Topology, workload: Workload) -> Iterator[tuple[str, dict[str, int]]]:
    n = topology.ranks
    yield "direct", {"parts": 1}
    if n > 2:
        yield "direct", {"parts": n - 1}
    yield "ring", {}
    yield "bidirectional", {}
    yield "hamilton", {}
    m = n // topology.node_count
    if m < n:
        yield from (("hierarchical", {"parts": parts}) for parts in sorted({1, m, 2 * m, 4 * m}))
    yield "ulysses", {}
    if not workload.backward:
        yield from (("hybrid", {"group": g}) for g in range(2, n) if n % g == 0)
        yield "token_ring", {}


def _predict(
    topology: Topology, workload: Workload, kind: str, options: dict[str, int], memory: float
) -> Prediction:
    try:
        schedule = make(topology, kind, **options)
        passes = workload.passes(schedule)
        if schedule.peak_shards > memory:
            raise ValueError(
                f"a rank would hold {schedule.peak_shards:.1f} times its own data, more than the "
                f"{memory:.1f} allowed"
            )
    except ValueError as error:
        return Prediction(kind, options, None, (), str(error))
    costs = tuple(cost_of(schedule, what, topology) for what in passes)
    return Prediction(kind, options, schedule, costs, "")
