"""Which keys a run of queries sees: rectangles of attention, each with a mask of its own.

A rank holds a few spans of consecutive positions. What a span of queries sees of a span of keys is,
in each document, a band around a diagonal that need not end in the rectangle's corner, as the masks
of ``warploom.mask`` do. Cut off what is wholly hidden, and it can be said as one of them: with
queries ``[q0, q1)`` and keys ``[k0, k1)`` of a document, a band ``(left, right)`` around the
document's diagonal is ``(left + k1 - q1, right + q1 - k1)`` around the rectangle's own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from warploom.mask import NO_LIMIT, Mask


class Span(NamedTuple):
    """Positions ``first`` to ``last``, the latter not included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first

    def cut(self, part: int, parts: int) -> Span:
        """The ``part``-th of ``parts`` runs, whose lengths differ by one at most."""
        first, last = (self.first + self.length * n // parts for n in (part, part + 1))
        return Span(first, last)


class Rectangle(NamedTuple):
    """Query rows ``[q0, q1)`` and key rows ``[k0, k1)``; the mask stands on the last of both."""

    q0: int
    q1: int
    k0: int
    k1: int
    mask: Mask

    def moved(self, queries: int, keys: int) -> Rectangle:
        """The same rectangle in rows that start elsewhere."""
        return Rectangle(
            self.q0 + queries, self.q1 + queries, self.k0 + keys, self.k1 + keys, self.mask
        )


def rectangles(
    queries: Span, keys: Span, documents: Sequence[int], mask: Mask
) -> Iterator[Rectangle]:
    """What ``queries`` see of ``keys``, in rows of the two spans.

    Args:
        documents: offsets of the documents, from 0 to the whole length.
        mask: applies to each document by itself.
    """
    first = max(bisect_right(documents, max(queries.first, keys.first)) - 1, 0)
    for start, stop in zip(documents[first:], documents[first + 1 :], strict=False):
        if start >= min(queries.last, keys.last):
            break
        q0, q1 = max(queries.first, start), min(queries.last, stop)
        k0, k1 = max(keys.first, start), min(keys.last, stop)
        found = _trimmed(q0, q1, k0, k1, mask)
        if found is not None:
            yield found.moved(-queries.first, -keys.first)


def _trimmed(q0: int, q1: int, k0: int, k1: int, mask: Mask) -> Rectangle | None:
    """Without the rows at its edges that see nothing, and the keys there that nothing sees."""
    left, right = mask.left, mask.right
    if right != NO_LIMIT:
        k1, q0 = min(k1, q1 + right), max(q0, k0 - right)
    if left != NO_LIMIT:
        k0, q1 = max(k0, q0 - left), min(q1, k1 + left)
    if q0 >= q1 or k0 >= k1:
        return None
    # Unlimited where even the outermost query sees the outermost key.
    left = NO_LIMIT if left == NO_LIMIT or q1 - 1 - left <= k0 else left + k1 - q1
    right = NO_LIMIT if right == NO_LIMIT or q0 + right >= k1 - 1 else right + q1 - k1
    return Rectangle(q0, q1, k0, k1, Mask(left, right))
