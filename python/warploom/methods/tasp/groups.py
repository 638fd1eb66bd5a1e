"""Groups of neighbouring ranks: their rows, their heads, and a schedule's stages among them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from warploom.collectives import Schedule, Transfer
from warploom.methods.tasp.partition import Partition, Piece
from warploom.methods.tasp.visibility import Span

Rounds = tuple[tuple[Transfer, ...], ...]
Slices = tuple[tuple[int, ...], ...]  # the heads of each part


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a schedule, run as an exchange of its own."""

    kind: str
    ranks: int
    parts: int
    rounds: Rounds
    reduction: Rounds

    def fingerprint(self) -> bytes:
        return hashlib.sha256(repr(self).encode()).digest()


@lru_cache(maxsize=64)
def known_stages(schedule: Schedule) -> tuple[Stage, Stage | None]:
    """The exchange of heads, and that between groups if there are several.

    In the second a rank is the owner of what it got in the first: one chunk from each of its group.
    """
    parts, ranks, kind = schedule.parts, schedule.ranks, schedule.kind
    heads, *rest = schedule.rounds
    home = tuple(Transfer(x.target, x.source, x.chunk) for x in heads)
    first = Stage(f"{kind}, heads", ranks, parts, (heads,), ((), (), home))
    if not rest:
        return first, None

    def held(x: Transfer) -> Transfer:
        owner, part = divmod(x.chunk, parts)
        holder = owner // parts * parts + part
        return x._replace(chunk=holder * parts + owner % parts)

    between = tuple(tuple(held(x) for x in transfers) for transfers in rest)
    return first, Stage(f"{kind}, between groups", ranks, parts, between, ())


class Grouped(Partition):
    """A partition in which every rank of a group holds all rows of the group."""

    def __init__(self, partition: Partition, group: int) -> None:
        self.length, self.ranks, self.layout = partition.length, partition.ranks, partition.layout
        self.documents = partition.documents
        self.group, self._each = group, partition

    @cached_property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """Those of the group in the order of positions, neighbours joined."""
        owned: list[tuple[Span, ...]] = []
        for first in range(0, self.ranks, self.group):
            joined: list[Span] = []
            for span in sorted(s for r in self._members(first) for s in self._each.spans[r]):
                if joined and joined[-1].last == span.first:
                    joined[-1] = Span(joined[-1].first, span.last)
                else:
                    joined.append(span)
            owned += [tuple(joined)] * self.group
        return tuple(owned)

    def pieces(self, owner: int, part: int, parts: int) -> tuple[Piece, ...]:
        """The rows of one member of the owner's group."""
        member = self._members(owner)[part]
        found = []
        for wanted in self._each.spans[member]:
            row = 0
            for span in self.spans[owner]:
                if span.first <= wanted.first < span.last:
                    found.append(Piece(wanted, row + wanted.first - span.first))
                row += span.length
        return tuple(found)

    def _members(self, rank: int) -> range:
        first = rank // self.group * self.group
        return range(first, first + self.group)

    @property
    def _key(self) -> tuple[Any, ...]:
        return (*self._each._key, self.group)
