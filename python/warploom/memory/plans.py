"""Plans: where each request of a trace lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from warploom.memory import container
from warploom.memory.trace import Longs, Trace
from warploom.memory.validator import Span, check


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
        alignments, fixed: what single requests were given, int64 [requests]; None: nothing.
    """

    offsets: Longs
    arenas: tuple[Arena, ...]
    trace_digest: str
    seed: int = 0
    seconds: float = 0.0
    trace: Trace | None = None
    alignments: Longs | None = None
    fixed: Longs | None = None

    @property
    def size(self) -> int:
        """Bytes that the plan takes: the end of its last arena."""
        return max((arena.base + arena.size for arena in self.arenas), default=0)

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
        return replace(self, trace=trace)

    def validate(self, trace: Trace | None = None) -> None:
        """Proves by a sweep over time, with code that shares nothing with the planner, that no two
        requests share a byte while both are held, none lies outside of its arena, every offset is
        a multiple of the alignments and where it was given, arenas are as large as what lies in
        them, and lower bounds are at least the maximum load and at most the size.

        Taken on trust: that a lower bound above the maximum load is one (a search says so), and how
        the plan came about (seed, seconds, work, history).

        Raises:
            ValueError: the first request or arena at fault; or there is no trace, or another one.
        """
        trace = self.trace if trace is None else trace
        if trace is None:
            raise ValueError("trace is missing: the plan was read from a file without it")
        plan = self.for_trace(trace)
        spans = [Span(a.pool, a.stream, a.base, a.size, a.lower_bound) for a in plan.arenas]
        check(trace, plan.offsets, spans, plan.alignments, plan.fixed)

    def save(self, path: str | Path) -> None:
        """Writes the plan, without its trace."""
        header = {
            "trace": self.trace_digest,
            "seed": self.seed,
            "seconds": self.seconds,
            "arenas": [{**vars(arena), "history": list(arena.history)} for arena in self.arenas],
        }
        columns = {"offsets": self.offsets, "alignments": self.alignments, "fixed": self.fixed}
        given = {name: column for name, column in columns.items() if column is not None}
        container.write(Path(path), "plan", header, given)

    @classmethod
    def load(cls, path: str | Path, trace: Trace | None = None) -> Plan:
        """Reads a plan; with ``trace`` it must be that one's.

        Raises:
            ValueError: the file is no plan, cut off or damaged, or the plan of another trace.
        """
        path = Path(path)
        header, columns = container.read(path, "plan")
        try:
            arenas = tuple(_read_arena(fields) for fields in header["arenas"])
            plan = cls(
                columns["offsets"],
                arenas,
                header["trace"],
                header["seed"],
                header["seconds"],
                alignments=columns.get("alignments"),
                fixed=columns.get("fixed"),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: the header is damaged: {error!r}") from error
        return plan if trace is None else plan.for_trace(trace)

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.offsets)} requests, size {self.size} bytes, "
            f"lower bound {self.lower_bound}, gap {self.gap:.4%})"
        )


def _read_arena(fields: dict[str, Any]) -> Arena:
    for name, value in fields.items():
        none = name == "stream" and value is None
        if name != "history" and not none and type(value) is not int:
            raise TypeError(f"{name} of an arena is {value!r}: must be an integer")
    return Arena(**{**fields, "history": _steps(fields["history"])})


def _steps(rows: Sequence[Sequence[object]]) -> tuple[Step, ...]:
    return tuple(Step(*row) for row in rows)  # type: ignore[arg-type]
