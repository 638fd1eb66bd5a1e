"""Schedules: rounds of transfers that bring every chunk where it is needed, and results home."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from warploom import _core
from warploom.collectives.cost import Cost, Load, cost_of, loads_of
from warploom.collectives.topology import Topology
from warploom.collectives.workload import Pass

KINDS = (
    "ring",
    "bidirectional",
    "hamilton",
    "direct",
    "hierarchical",
    "ulysses",
    "hybrid",
    "token_ring",
)
Moves = Literal["kv", "q", "heads"]
_MOVES: tuple[Moves, ...] = ("kv", "q", "heads")


class Transfer(NamedTuple):
    """One chunk on its way; ``chunk = owner * parts + part``."""

    source: int
    target: int
    chunk: int


Rounds = tuple[tuple[Transfer, ...], ...]


class Schedule:
    """Who sends which chunk to whom in which round; immutable; made by :func:`schedule`.

    Every rank is the owner of ``parts`` chunks. In step t, ``rounds[t]`` and ``reduction[t]`` are
    in flight while each rank computes with what arrived in round t - 1 (in step 0: with its own
    chunks). A chunk that arrives in round t may be sent on from round t + 1, and what a rank
    computed from it may leave from reduction round t + 2.

    A transfer of ``reduction`` hands on its source's partial result of the chunk: the source's own
    contribution, plus the partial results that it received for that chunk, in the order in which
    ``reduction`` lists them. The owner ends with everybody's; the schedule alone fixes the order.

    Attributes:
        kind: the generator's name.
        moves: what travels. "kv": keys and values, to every rank; their gradients come home.
            "q": queries, to every rank; (o, lse) come home. "heads": part p is a slice of the heads
            of q, k and v, and goes to the ranks r with ``r % parts == p``; their o comes home.
        ranks, parts: number of ranks, and of chunks that each owner's data is cut into.
        note: what its user should know, or "".
    """

    def __init__(self, topology: Topology, handle: Any) -> None:
        self.topology = topology
        self._handle = handle
        self.kind: str = handle.kind
        self.note: str = handle.note
        self.moves: Moves = _MOVES[handle.moves]
        self.ranks: int = handle.ranks
        self.parts: int = handle.parts

    @classmethod
    def from_rounds(
        cls,
        topology: Topology,
        rounds: Iterable[Iterable[tuple[int, int, int]]],
        reduction: Iterable[Iterable[tuple[int, int, int]]],
        *,
        parts: int,
        moves: Moves = "kv",
        kind: str = "custom",
    ) -> Schedule:
        """A schedule of your own, from (source, target, chunk) triples; call ``verify`` on it."""
        if moves not in _MOVES:
            raise ValueError(f"moves is {moves!r}: must be one of {', '.join(_MOVES)}")
        flat = (*_flat(rounds), *_flat(reduction))
        return _restored(topology, kind, "", _MOVES.index(moves), parts, *flat)

    @cached_property
    def rounds(self) -> Rounds:
        """The transfers of each round."""
        return _nested(*self._handle.rounds())

    @cached_property
    def reduction(self) -> Rounds:
        """The transfers of each reduction round, on the same steps as ``rounds``."""
        return _nested(*self._handle.reduction())

    def table(self, *, reduction: bool = False) -> npt.NDArray[np.int32]:
        """The transfers as rows (round, source, target, chunk), [transfers, 4], in order."""
        ends, transfers = self._handle.reduction() if reduction else self._handle.rounds()
        counts = np.frombuffer(ends, np.int64).copy()
        counts[1:] -= counts[:-1].copy()
        rounds = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return np.column_stack([rounds, np.frombuffer(transfers, np.int32).reshape(-1, 3)])

    @cached_property
    def peak_shards(self) -> float:
        """Most of others' data that a rank holds at a time, in units of what each rank owns.

        A chunk is held from the round that brings it until it was computed with, a step later, and
        sent on for the last time.
        """
        rounds, source, target, chunk = self.table().T
        chunks = self.ranks * self.parts
        first = np.full(self.ranks * chunks, -1, np.int32)  # of [rank, chunk]; -1: never brought
        first[target * chunks + chunk] = rounds
        last = first + 1
        np.maximum.at(last, source * chunks + chunk, rounds)
        (brought,) = np.nonzero(first >= 0)
        steps = int(last.max()) + 2
        row = brought // chunks * steps
        arrived = np.bincount(row + first[brought], minlength=self.ranks * steps)
        gone = np.bincount(row + last[brought] + 1, minlength=self.ranks * steps)
        levels = (arrived - gone).reshape(self.ranks, steps).cumsum(axis=1)
        return float(levels.max()) / self.parts

    def owner(self, chunk: int) -> int:
        """The rank whose data the chunk is."""
        return chunk // self.parts

    def sends(self, rank: int) -> Rounds:
        """What ``rank`` sends in each round."""
        return tuple(tuple(x for x in r if x.source == rank) for r in self.rounds)

    def receives(self, rank: int) -> Rounds:
        """What ``rank`` receives in each round."""
        return tuple(tuple(x for x in r if x.target == rank) for r in self.rounds)

    def reduction_sends(self, rank: int) -> Rounds:
        """What ``rank`` sends in each reduction round."""
        return tuple(tuple(x for x in r if x.source == rank) for r in self.reduction)

    def reduction_receives(self, rank: int) -> Rounds:
        """What ``rank`` receives in each reduction round, in the order of its sums."""
        return tuple(tuple(x for x in r if x.target == rank) for r in self.reduction)

    def verify(self) -> None:
        """Proves that the schedule is right, with code that shares nothing with the generators.

        Every chunk reaches every rank that needs it exactly once and is sent on only after it
        arrived; every transfer has a link, and where each pair has a link of its own none is used
        twice in a round; every contribution comes home exactly once, and leaves only after it could
        be computed.

        Raises:
            ValueError: the first round, rank and chunk at fault.
        """
        _core.schedule_verify(self.topology._handle, self._handle)

    def fingerprint(self) -> bytes:
        """32 bytes that are equal exactly where every transfer and its order are."""
        digest = hashlib.sha256(f"{self.kind} {self.moves} {self.ranks} {self.parts}".encode())
        for ends, transfers in (self._handle.rounds(), self._handle.reduction()):
            digest.update(len(ends).to_bytes(8, "little") + ends + transfers)
        return digest.digest()

    def cost(
        self,
        bytes_per_rank: float,
        *,
        home_bytes_per_rank: float = 0.0,
        flops: float = 0.0,
        flops_per_s: float | None = None,
        topology: Topology | None = None,
    ) -> Cost:
        """The predicted time of one pass, its parts, and what bounds it.

        Args:
            bytes_per_rank: what each owner gives; "kv": the bytes of its keys and values.
            home_bytes_per_rank: of the partial results that come home, for one owner; 0: the
                reduction does not run.
            flops: floating-point operations of one rank, at ``flops_per_s``.
            topology: on which it runs; default: the one it was made for.

        Raises:
            ValueError: a number is negative or not finite, or flops has no rate.
        """
        if flops and not flops_per_s:
            raise ValueError(f"flops_per_s is {flops_per_s}: must be the rate of the {flops} flops")
        seconds = flops / flops_per_s if flops_per_s else 0.0
        what = Pass(bytes_per_rank, bytes_per_rank, home_bytes_per_rank, seconds)
        return cost_of(self, what, topology or self.topology)

    def loads(self, bytes_per_rank: float, *, home_bytes_per_rank: float = 0.0) -> dict[str, Load]:
        """What one pass moves over each link, port, card or bus of the topology, by name."""
        what = Pass(bytes_per_rank, bytes_per_rank, home_bytes_per_rank)
        return loads_of(self, what, self.topology)

    def plot(self, path: str | Path) -> None:
        """Draws the first rounds and each link's load into a file, its format by the ending.

        Raises:
            ImportError: matplotlib is missing.
        """
        from warploom.collectives import plot

        plot.save(self, Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        flat = (*self._handle.rounds(), *self._handle.reduction())
        moves = _MOVES.index(self.moves)
        return _restored, (self.topology, self.kind, self.note, moves, self.parts, *flat)

    def __repr__(self) -> str:
        return (
            f"Schedule(kind={self.kind!r}, moves={self.moves!r}, ranks={self.ranks}, "
            f"parts={self.parts})"
        )


def make(
    topology: Topology, kind: str, *, parts: int | None = None, group: int | None = None
) -> Schedule:
    """``schedule`` of a kind that is not "auto"."""
    if parts is not None and parts < 1:
        raise ValueError(f"parts is {parts}: must be at least 1")
    if group is not None and kind != "hybrid":
        raise ValueError(f"group is {group}: kind {kind!r} has no groups, only 'hybrid' does")
    if group is None and kind == "hybrid":
        raise ValueError("group is missing: how many ranks exchange heads, for kind 'hybrid'")
    return Schedule(topology, _core.schedule(topology._handle, kind, parts or 0, group or 0))


def hamiltonian_cycles(ranks: int) -> tuple[tuple[int, ...], ...]:
    """Directed Hamiltonian cycles of the complete graph of ``ranks`` vertices, no arc in common.

    There are ranks - 1 of them, which use every arc once: for odd numbers Walecki's cycles each way
    round; for even ones those of ranks - 1 vertices, with the last vertex put into each, and the
    path of the arcs that it replaced closed through it. For 4 and 6, alone, no such set exists
    (Tillson 1980): ranks - 2 cycles are returned, and a ``UserWarning`` says so. The same cycles
    every time and everywhere.

    Raises:
        ValueError: ranks is not 2 to 256.
    """
    table, note = _core.hamiltonian_cycles(ranks)
    if note:
        warnings.warn(note, stacklevel=2)
    return tuple(map(tuple, np.frombuffer(table, np.int32).reshape(-1, ranks).tolist()))


def _restored(
    topology: Topology, kind: str, note: str, moves: int, parts: int, *flat: bytes
) -> Schedule:
    handle = _core.schedule_from(kind, note, moves, topology.ranks, parts, *flat)
    return Schedule(topology, handle)


def _flat(rounds: Iterable[Iterable[tuple[int, int, int]]]) -> tuple[bytes, bytes]:
    lists = [list(transfers) for transfers in rounds]
    ends = np.cumsum([len(transfers) for transfers in lists], dtype=np.int64)
    table = np.array([x for transfers in lists for x in transfers], dtype=np.int32)
    return ends.tobytes(), table.tobytes()


def _nested(ends: bytes, transfers: bytes) -> Rounds:
    table = np.frombuffer(transfers, np.int32).reshape(-1, 3)
    parts = np.split(table, np.frombuffer(ends, np.int64))[:-1] if ends else []
    return tuple(tuple(Transfer(*row) for row in part.tolist()) for part in parts)
