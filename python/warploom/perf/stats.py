"""Statistics that a few outliers do not move."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A median with its quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    if not values:
        raise ValueError("values is empty: must hold at least one measurement")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Spread of ours over theirs, round by round: what slows a whole round cancels.

    The median of ratios, not the ratio of medians.
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])
