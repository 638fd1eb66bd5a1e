"""One rank's part of a schedule, looked up once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol


class Transfer(Protocol):
    """One chunk's way over one link; a named tuple of a schedule."""

    @property
    def source(self) -> int: ...
    @property
    def target(self) -> int: ...
    @property
    def chunk(self) -> int: ...


Transfers = Sequence[Sequence[Transfer]]


class Schedule(Protocol):
    """What of a schedule an exchange reads; `warploom.collectives.Schedule` has it."""

    @property
    def kind(self) -> str: ...
    @property
    def ranks(self) -> int: ...
    @property
    def parts(self) -> int: ...
    @property
    def rounds(self) -> Transfers: ...
    @property
    def reduction(self) -> Transfers: ...
    def fingerprint(self) -> bytes: ...


class Phase:
    """The rounds one way, there or back, and what of each one rank sends and receives."""

    def __init__(self, name: str, rounds: Transfers, rank: int) -> None:
        self.name, self.rounds = name, rounds
        self.sends = [[t for t in transfers if t.source == rank] for transfers in rounds]
        self.receives = [[t for t in transfers if t.target == rank] for transfers in rounds]

    def owed(self, rank: int, index: int) -> tuple[int, Transfer] | None:
        """What a rank has to send for this one's receives of a round: the latest of it, and when.

        For a rank that this one does not receive from itself, but through others.
        """
        wanted = {t.chunk for t in self.receives[index]}
        for earlier in range(index, -1, -1):
            for t in self.rounds[earlier]:
                if t.source == rank and t.chunk in wanted:
                    return earlier, t
        return None


class Plan:
    """A schedule as one rank sees it."""

    def __init__(self, schedule: Schedule, rank: int) -> None:
        self.parts = schedule.parts
        self.there = Phase("exchange", schedule.rounds, rank)
        self.back = Phase("reduction", schedule.reduction, rank)
        self.text = (
            f"{schedule.kind} of {schedule.ranks} ranks and {schedule.parts} parts, "
            f"fingerprint {schedule.fingerprint().hex()}"
        )
        self.last_sent = {
            t.chunk: index for index, sends in enumerate(self.there.sends) for t in sends
        }

    @cached_property
    def gates(self) -> list[int]:
        """The step after whose computation each reduction round is posted, the same on every rank.

        Reduction round t belongs to step t, beside round t. It is posted later where a source gets
        its chunk later: step 0 has a rank's own chunks, step r + 1 those that arrived in round r.
        """
        arrived = {
            (t.target, t.chunk): index + 1
            for index, transfers in enumerate(self.there.rounds)
            for t in transfers
        }
        steps, latest = [], 0
        for index, transfers in enumerate(self.back.rounds):
            latest = max(latest, index - 1)
            for t in transfers:
                if t.chunk // self.parts != t.source:
                    latest = max(latest, arrived[t.source, t.chunk])
            steps.append(latest)
        return steps
