"""Which pages halve next: as few as the budget asks for, in the order of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from warploom.methods.pm_kvq.allocation import Halving
from warploom.methods.pm_kvq.layout import Layout

_PAGES = 4  # of each sequence, that halve at a time


class Store(Protocol):
    """What is needed of a paged cache."""

    def length(self, layer: int, sequence: int, /) -> int: ...
    def free_bytes(self) -> int: ...
    def set_bits(self, layer: int, bits: tuple[int, int], /) -> None: ...
    def shrink(self, layer: int, sequence: int, bits: tuple[int, int], pages: range, /) -> Any: ...


class Shrinking:
    """Goes through halvings, each from the oldest pages on, and stops as soon as there is room.

    A halving that has begun also holds for pages that leave the window from then on: they go to
    their width at once.
    """

    def __init__(self, order: Sequence[Halving], layout: Layout, store: Store) -> None:
        self._order, self._layout, self._store = order, layout, store
        self._at = 0  # the halving under way
        self._done = 0  # pages of it, from the first of the body on
        self.widths = [[16, 16] for _ in range(layout.layers)]

    def make_room(self, wanted: int, sequences: Sequence[int]) -> bool:
        """Halves until ``wanted`` bytes are free; False where nothing is left to halve."""
        while self._store.free_bytes() < wanted:
            if not self.halve(sequences):
                return False
        return True

    def halve(self, sequences: Sequence[int]) -> bool:
        """The next few pages; False where none are left."""
        if self._at == len(self._order):
            return False
        layer, kind, to = self._order[self._at]
        if self._done == 0:
            self.widths[layer][kind] = to
            self._store.set_bits(layer, self._pair(layer))
        bits = (to, 16) if kind == 0 else (16, to)
        last = 0
        for sequence in sequences:
            body = self._layout.body(self._store.length(layer, sequence))
            pages = body[self._done : self._done + _PAGES]
            if pages:
                self._store.shrink(layer, sequence, bits, pages)
            last = max(last, len(body))
        self._done += _PAGES
        if self._done >= last:
            self._at, self._done = self._at + 1, 0
        return True

    def _pair(self, layer: int) -> tuple[int, int]:
        keys, values = self.widths[layer]
        return keys, values
