"""Which positions each rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from warploom.methods.tasp.visibility import Span

Layout = Literal["zigzag", "contiguous"]


class Piece(NamedTuple):
    """Consecutive positions of a chunk, and where they lie among their owner's rows."""

    span: Span
    row: int


class Partition:
    """A sequence cut over ranks, in runs whose lengths differ by one at most.

    ``contiguous`` gives each rank one span. ``zigzag`` cuts twice as many and gives rank r the
    r-th from the front and the r-th from the back, so that under a causal mask every rank sees
    about as many keys. No length needs padding: shards differ by two rows at most.
    """

    def __init__(
        self,
        length: int,
        ranks: int,
        layout: Layout = "zigzag",
        cu_seqlens: Sequence[int] | Any | None = None,
    ) -> None:
        """``cu_seqlens``: offsets of documents packed end to end, from 0 to ``length``.

        Raises:
            ValueError: an argument is wrong; the message names it, and says what it must be.
        """
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            raise ValueError(f"length is {length!r}: must be a number of positions")
        if layout not in get_args(Layout):
            raise ValueError(f"layout is {layout!r}: must be one of {', '.join(get_args(Layout))}")
        self.length, self.ranks, self.layout = length, ranks, layout
        self.documents = (0, length) if cu_seqlens is None else _offsets(cu_seqlens, length)

    @cached_property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """For each rank, its spans in the order of its rows; none is empty."""
        whole = Span(0, self.length)
        owned: list[tuple[Span, ...]] = []
        for rank in range(self.ranks):
            if self.layout == "contiguous":
                cuts: tuple[Span, ...] = (whole.cut(rank, self.ranks),)
            else:
                cuts = (
                    whole.cut(rank, 2 * self.ranks),
                    whole.cut(2 * self.ranks - 1 - rank, 2 * self.ranks),
                )
            owned.append(tuple(span for span in cuts if span.length))
        return tuple(owned)

    def rows(self, rank: int) -> int:
        """How many positions the rank holds."""
        return sum(span.length for span in self.spans[rank])

    def pieces(self, owner: int, part: int, parts: int) -> tuple[Piece, ...]:
        """The ``part``-th of ``parts`` chunks of the owner's rows: a cut of each of its spans."""
        found, row = [], 0
        for span in self.spans[owner]:
            cut = span.cut(part, parts)
            if cut.length:
                found.append(Piece(cut, row + cut.first - span.first))
            row += span.length
        return tuple(found)

    def local_documents(self, spans: Sequence[Span]) -> tuple[int, ...]:
        """Offsets of the documents among the rows of ``spans``; a gap in one does not part it."""
        offsets, row = [0], 0
        previous = -1
        for span in spans:
            for n, (start, stop) in enumerate(pairwise(self.documents)):
                rows = min(stop, span.last) - max(start, span.first)
                if rows <= 0:
                    continue
                row += rows
                if n == previous:
                    offsets[-1] = row
                else:
                    offsets.append(row)
                previous = n
        return tuple(offsets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Partition) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.length, self.ranks, self.layout, self.documents


def _offsets(cu_seqlens: Sequence[int] | Any, length: int) -> tuple[int, ...]:
    values = cu_seqlens.tolist() if hasattr(cu_seqlens, "tolist") else list(cu_seqlens)
    if len(values) < 2 or values[0] != 0 or values[-1] != length:
        raise ValueError(f"cu_seqlens is {_shown(values)}: must go from 0 to the length, {length}")
    for n, (start, stop) in enumerate(pairwise(values)):
        if stop < start:
            raise ValueError(
                f"cu_seqlens[{n + 1}] is {stop} after {start}: offsets must not decrease"
            )
    kept = dict.fromkeys(int(value) for value in values)
    return tuple(kept) if len(kept) > 1 else (0, length)


def _shown(values: list[int]) -> str:
    return str(values if len(values) <= 8 else [*values[:3], "...", *values[-3:]])
