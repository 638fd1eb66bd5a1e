"""Widths for every layer's keys and values under a byte budget: those of least cost, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, lcm
from typing import NamedTuple

from warploom.methods.pm_kvq.layout import KEYS, VALUES, WIDTHS, Layout
from warploom.methods.pm_kvq.sensitivity import Profile


class Halving(NamedTuple):
    """The body of a layer's keys (kind 0) or values (1) goes to this width."""

    layer: int
    kind: int
    to: int


@dataclass(frozen=True)
class Widths:
    """The width that each layer's keys and values end at, and the way there.

    Attributes:
        layers: widths of keys and values, layer by layer.
        order: the halvings from 16 bits to there, in the order in which the budget is to force
            them.
        layout: the cache they are for.
        budget_bytes: what the cache may take in all.
        max_tokens: positions a sequence that fit. batch: how many sequences.
    """

    layers: tuple[tuple[int, int], ...]
    order: tuple[Halving, ...]
    layout: Layout
    budget_bytes: int
    max_tokens: int
    batch: int = 1

    @property
    def nbytes(self) -> int:
        """What the cache takes when it is full."""
        return self.batch * self.layout.nbytes(self.max_tokens, self.layers)

    @property
    def mean(self) -> float:
        """Bits of a code, on average."""
        return sum(map(sum, self.layers)) / (2 * len(self.layers))


def allocate(
    profile: Profile,
    budget_bytes: int,
    max_tokens: int,
    batch: int = 1,
    widths: Sequence[int] = WIDTHS,
) -> Widths:
    """The widths of least total cost whose cache of ``max_tokens`` positions fits the budget.

    Bytes are those of all pages: codes, grids, the pages of sink and window at 16 bits, of the
    key/value heads that are stored. The least is exact however far apart costs are: it is found by
    dynamic programming over bytes, on costs that are added as whole numbers. Of equal costs it is
    the choice with most bytes, then the one whose first layers, keys first, are widest.

    Args:
        profile: of :func:`sensitivity`.
        budget_bytes: for all layers and sequences.
        max_tokens: positions a sequence.
        batch: sequences of that length.
        widths: to choose from, of 16, 8, 4 and 2.

    Raises:
        ValueError: an argument is wrong, a cost is not finite, or the budget is below what the
            smallest widths, the sink and the window need: the message says how many bytes that is.
    """
    layout = profile.layout
    choices = _choices(widths)
    for name, count in (("max_tokens", max_tokens), ("batch", batch)):
        if count < 1:
            raise ValueError(f"{name} is {count}: must be at least 1")
    least = batch * layout.uniform_nbytes(max_tokens, choices[-1])
    if budget_bytes < least:
        raise ValueError(
            f"budget_bytes is {budget_bytes}: must be at least {least} for {batch} x {max_tokens} "
            f"positions with every width at {choices[-1]}, a sink of {layout.sink} and a window of "
            f"{layout.window} at 16 bits"
        )
    items = [(layer, kind) for layer in range(layout.layers) for kind in (KEYS, VALUES)]
    one = [batch * layout.nbytes(max_tokens, [(w, 0)]) for w in choices]
    spent = [size - one[-1] for size in one]
    costs = [[profile.cost[i][kind][WIDTHS.index(w)] for w in choices] for i, kind in items]
    for (layer, kind), row in zip(items, costs, strict=True):
        if not all(map(isfinite, row)):
            name = ("keys", "values")[kind]
            raise ValueError(f"profile.cost of layer {layer}'s {name} is {row}: must be finite")
    picked = _solve(costs, spent, budget_bytes - least)
    chosen = [choices[n] for n in picked]
    layers = tuple(zip(chosen[::2], chosen[1::2], strict=True))
    return Widths(layers, halvings(layers, profile), layout, budget_bytes, max_tokens, batch)


def _choices(widths: Iterable[int]) -> list[int]:
    chosen = sorted(set(widths), reverse=True)
    wrong = [w for w in chosen if w not in WIDTHS]
    if wrong or not chosen:
        raise ValueError(f"widths is {tuple(widths)}: must be some of 16, 8, 4 and 2")
    return chosen


def _solve(costs: Sequence[Sequence[float]], spent: Sequence[int], room: int) -> list[int]:
    """One choice for each row of costs, of least total, whose ``spent`` add up to at most room.

    Of equal totals the one that spends most, then the one whose first rows take earlier choices.
    """
    least = {0: 0}  # what rows from the last one on can spend: the least that they then cost
    choices = []  # by row, from the last one on: what they spend, and the row's choice there
    for row in reversed(_whole(costs)):
        here: dict[int, int] = {}
        choice: dict[int, int] = {}
        for n, (cost, size) in enumerate(zip(row, spent, strict=True)):
            for behind, theirs in least.items():
                used, total = behind + size, theirs + cost
                if used <= room and (used not in here or total < here[used]):
                    here[used], choice[used] = total, n
        least = here
        choices.append(choice)
    left = min(least, key=lambda used: (least[used], -used))
    picked = []
    for choice in reversed(choices):
        picked.append(choice[left])
        left -= spent[picked[-1]]
    return picked


def _whole(costs: Sequence[Sequence[float]]) -> list[list[int]]:
    """The costs as whole numbers of one unit: their sums are not rounded, whatever they span."""
    ratios = [[cost.as_integer_ratio() for cost in row] for row in costs]
    unit = lcm(*(below for row in ratios for _, below in row))
    return [[above * (unit // below) for above, below in row] for row in ratios]


def halvings(layers: Sequence[tuple[int, int]], profile: Profile) -> tuple[Halving, ...]:
    """The way from 16 bits to widths: of halvings that can be next, the cheapest a byte first."""
    waiting = []
    for layer, pair in enumerate(layers):
        for kind, final in enumerate(pair):
            cost, price, before = profile.cost[layer][kind], 0.0, 16
            for to in (w for w in WIDTHS if final <= w < 16):
                more = cost[WIDTHS.index(to)] - cost[WIDTHS.index(before)]
                price = max(price, more / (before - to))  # never before the halving it follows
                waiting.append((price, -to, Halving(layer, kind, to)))
                before = to
    return tuple(entry[-1] for entry in sorted(waiting))
