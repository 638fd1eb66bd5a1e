"""Widths for every layer's keys and values under a byte budget: an exact integer program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd
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
    key/value heads that are stored.

    Args:
        profile: of :func:`sensitivity`.
        budget_bytes: for all layers and sequences.
        max_tokens: positions a sequence.
        batch: sequences of that length.
        widths: to choose from, of 16, 8, 4 and 2.

    Raises:
        ValueError: an argument is wrong, or the budget is below what the smallest widths, the sink
            and the window need: the message says how many bytes that is.
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
    room = budget_bytes - least
    picked = _solve(costs, spent, room)
    chosen = [choices[n] for n in picked]
    layers = tuple(zip(chosen[::2], chosen[1::2], strict=True))
    return Widths(layers, halvings(layers, profile), layout, budget_bytes, max_tokens, batch)


def _choices(widths: Iterable[int]) -> list[int]:
    chosen = sorted(set(widths), reverse=True)
    wrong = [w for w in chosen if w not in WIDTHS]
    if wrong or not chosen:
        raise ValueError(f"widths is {tuple(widths)}: must be some of 16, 8, 4 and 2")
    return chosen


def _solve(costs: list[list[float]], spent: list[int], room: int) -> list[int]:
    """One choice for each row of costs, of least total, whose ``spent`` add up to at most room."""
    import numpy
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, choices = len(costs), len(spent)
    unit = gcd(*spent) or 1  # small whole numbers: the solver's tolerance never decides
    size = numpy.tile([s // unit for s in spent], rows).astype(float)
    once = numpy.kron(numpy.eye(rows), numpy.ones(choices))
    cost = numpy.asarray(costs, dtype=float).ravel()
    largest = cost.max() or 1.0
    found = milp(
        cost / largest,
        integrality=numpy.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(size[None], -numpy.inf, room // unit + 0.5),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if not found.success:
        raise RuntimeError(f"the solver found no widths: {found.message}")
    picked: list[int] = found.x.reshape(rows, choices).argmax(1).tolist()
    return picked


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
