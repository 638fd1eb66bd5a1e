"""Plans: where each request of a trace lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from warploom.memory import container
from warploom.memory.trace import Longs, Trace
from warploom.memory.validator import check


class Step(NamedTuple):
    """A plan that was better than all before it."""

    seconds: float
    work: int
    size: int
    strategy: str


@dataclass(frozen=True)
class Arena:
    """Memory of its own: one pool's, and one stream's unless streams share."""

    pool: int
    stream: int | None
    base: int  # where in the plan it begins
    size: int
    lower_bound: int
    peak_time: int
    work: int  # units in which the planner counts; with the seed they repeat the plan
    parts: int  # problems that it was cut into
    folded: int  # of them, repetitions of another
    history: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Offsets of all requests of a trace, in bytes from the plan's beginning.

    Attributes:
        offsets: int64 [requests], in the trace's order.
        arenas: pieces of the plan one after another; no memory is shared between them.
        trace_digest: of the trace that it is for.
        seed, seconds: what it was made with, and how long it took.
        trace: the trace, where the plan was made or given it; not in files.
    """

    offsets: Longs
    arenas: tuple[Arena, ...]
    trace_digest: str
    seed: int = 0
    seconds: float = 0.0
    trace: Trace | None = None

    @property
    def size(self) -> int:
        """Bytes that the plan takes."""
        return sum(arena.size for arena in self.arenas)

    @property
    def lower_bound(self) -> int:
        """No plan takes less: the maximum load of each arena, or what a search has proven."""
        return sum(arena.lower_bound for arena in self.arenas)

    @property
    def gap(self) -> float:
        """By how much of the lower bound the plan is larger; 0: it is proven the smallest."""
        return self.size / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def work(self) -> int:
        """Units of work of all arenas."""
        return sum(arena.work for arena in self.arenas)

    @property
    def history(self) -> tuple[Step, ...]:
        """The plans that each became the best of the largest arena."""
        return max(self.arenas, key=lambda arena: arena.size).history if self.arenas else ()

    def for_trace(self, trace: Trace) -> Plan:
        """This plan with the trace that it is for.

        Raises:
            ValueError: it is for another trace.
        """
        if trace.digest != self.trace_digest:
            raise ValueError(
                f"the plan is for trace {self.trace_digest}: this one is {trace.digest}"
            )
        return Plan(self.offsets, self.arenas, self.trace_digest, self.seed, self.seconds, trace)

    def validate(self, trace: Trace | None = None) -> None:
        """Proves by a sweep over time, with code that shares nothing with the planner, that no two
        requests share a byte while both are held, none lies outside of its arena, and every offset
        is a multiple of the alignment.

        Raises:
            ValueError: the first request at fault; or there is no trace, or it is another one.
        """
        trace = trace or self.trace
        if trace is None:
            raise ValueError("trace is missing: the plan was read from a file without it")
        plan = self.for_trace(trace)
        spans = [(a.pool, a.stream, a.base, a.base + a.size) for a in plan.arenas]
        check(trace, plan.offsets, spans)

    def save(self, path: str | Path) -> None:
        """Writes the plan, without its trace."""
        header = {
            "trace": self.trace_digest,
            "seed": self.seed,
            "seconds": self.seconds,
            "arenas": [{**vars(arena), "history": list(arena.history)} for arena in self.arenas],
        }
        container.write(Path(path), "plan", header, {"offsets": self.offsets})

    @classmethod
    def load(cls, path: str | Path, trace: Trace | None = None) -> Plan:
        """Reads a plan; with ``trace`` it must be that one's.

        Raises:
            ValueError: the file is no plan, cut off or damaged, or the plan of another trace.
        """
        path = Path(path)
        header, columns = container.read(path, "plan")
        try:
            arenas = tuple(
                Arena(**{**fields, "history": _steps(fields["history"])})
                for fields in header["arenas"]
            )
            plan = cls(
                columns["offsets"], arenas, header["trace"], header["seed"], header["seconds"]
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: the header is damaged: {error!r}") from error
        return plan if trace is None else plan.for_trace(trace)

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.offsets)} requests, size {self.size} bytes, "
            f"lower bound {self.lower_bound}, gap {self.gap:.4%})"
        )


def _steps(rows: Sequence[Sequence[object]]) -> tuple[Step, ...]:
    return tuple(Step(*row) for row in rows)  # type: ignore[arg-type]
