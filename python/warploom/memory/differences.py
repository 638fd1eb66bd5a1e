"""What grew from one trace to another, by call site."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from warploom.memory.trace import Trace

By = Literal["site", "phase"]
# A line's number and what follows the file: "model.py:12 forward" -> "model.py forward".
_LINE = re.compile(r":\d+(?= |$)")


class Amounts(NamedTuple):
    """What one name has in one trace."""

    at_peak: int  # bytes (padded) held at the trace's peak
    total: int  # bytes (padded) of all its requests
    requests: int


class Change(NamedTuple):
    """What one name has in both."""

    name: str
    before: Amounts
    after: Amounts

    @property
    def growth(self) -> int:
        """Bytes held at the peak, after less before."""
        return self.after.at_peak - self.before.at_peak


@dataclass(frozen=True)
class Difference:
    """Two traces compared.

    Attributes:
        peaks: bytes of each.
        changes: of each name in either, most growth first; of equal growth by growth of the total,
            then by name. What did not change is there too.
    """

    peaks: tuple[int, int]
    changes: tuple[Change, ...]

    @property
    def growth(self) -> int:
        """Bytes that the peak grew by."""
        return self.peaks[1] - self.peaks[0]

    def exceeds(self, *, size: int | None = None, share: float | None = None) -> bool:
        """Whether the peak grew by more than ``size`` bytes, or than that share of it.

        Raises:
            ValueError: not exactly one limit, or a negative one.
        """
        if (size is None) == (share is None):
            raise ValueError(f"size is {size}, share is {share}: exactly one must be given")
        limit = size if size is not None else share * self.peaks[0]  # type: ignore[operator]
        if limit < 0:
            raise ValueError(f"size is {size}, share is {share}: must be at least 0")
        return self.growth > limit


def diff(before: Trace, after: Trace, *, by: By = "site", lines: bool = True) -> Difference:
    """Compares what is held at the peaks of two traces, by who asked for it.

    Args:
        by: "site" or "phase".
        lines: False: sites are the same though their line's number differs.

    Raises:
        ValueError: ``by`` is neither.
    """
    if by not in ("site", "phase"):
        raise ValueError(f"by is {by!r}: must be 'site' or 'phase'")
    amounts = [_amounts(trace, by, lines) for trace in (before, after)]
    none = Amounts(0, 0, 0)
    changes = [
        Change(name, amounts[0].get(name, none), amounts[1].get(name, none))
        for name in amounts[0].keys() | amounts[1].keys()
    ]
    changes.sort(key=lambda c: (-c.growth, c.before.total - c.after.total, c.name))
    return Difference((before.peak, after.peak), tuple(changes))


def _amounts(trace: Trace, by: By, lines: bool) -> dict[str, Amounts]:
    table, column = (trace.sites, trace.site) if by == "site" else (trace.phases, trace.phase)
    names = [name if lines else _LINE.sub("", name) for name in table]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    groups = np.array([numbers[name] for name in names])[column]
    held = _held_at_peak(trace)

    def sums(weights: npt.NDArray[Any]) -> list[int]:
        total = np.zeros(len(numbers), np.int64)
        np.add.at(total, groups, weights)
        return total.tolist()

    columns = sums(trace.padded * held), sums(trace.padded), sums(np.ones(len(trace), np.int64))
    rows = zip(*columns, strict=True)
    return {name: Amounts(*row) for name, row in zip(numbers, rows, strict=True)}


def _held_at_peak(trace: Trace) -> npt.NDArray[np.bool_]:
    """Whether each request is held when the load is largest first, [requests]."""
    times, load = trace.load()
    if not len(times):
        return np.zeros(0, bool)
    moment = times[load.argmax()]
    held: npt.NDArray[np.bool_] = np.logical_and(trace.alloc <= moment, trace.free > moment)
    return held
