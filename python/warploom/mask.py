"""Which keys a query sees.

Query row ``i`` of ``sq`` and key ``j`` of ``sk`` are compared on the bottom-right diagonal: with
``c = i + sk - sq``, the last query stands on the last key. ``causal()`` shows the keys ``j <= c``,
``window(left, right)`` the keys ``c - left <= j <= c + right``.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_LIMIT = -1
_MOST = 2**63 - 1  # the core counts keys in 64 bits


@dataclass(frozen=True)
class Mask:
    """A band around the bottom-right diagonal; -1 means no limit on that side.

    Made by :func:`full`, :func:`causal` and :func:`window`.
    """

    left: int = NO_LIMIT
    right: int = NO_LIMIT

    @property
    def is_full(self) -> bool:
        """Whether every query sees every key."""
        return self.left == NO_LIMIT and self.right == NO_LIMIT

    def keys(self, i: int, sq: int, sk: int) -> range:
        """The keys that query row ``i`` of ``sq`` sees among ``sk``."""
        diagonal = i + sk - sq
        begin = 0 if self.left == NO_LIMIT else max(0, diagonal - self.left)
        end = sk if self.right == NO_LIMIT else min(sk, diagonal + self.right + 1)
        return range(begin, max(begin, end))

    def pairs(self, sq: int, sk: int) -> int:
        """How many (query, key) pairs are visible."""
        return sq * sk if self.is_full else sum(len(self.keys(i, sq, sk)) for i in range(sq))

    def __str__(self) -> str:
        if self.is_full:
            return "full"
        if self == _CAUSAL:
            return "causal"
        left, right = ("all" if side == NO_LIMIT else str(side) for side in (self.left, self.right))
        return f"window({left}, {right})"


_FULL = Mask()
_CAUSAL = Mask(NO_LIMIT, 0)


def full() -> Mask:
    """Every query sees every key."""
    return _FULL


def causal() -> Mask:
    """A query sees the keys up to its own position, aligned to the last key."""
    return _CAUSAL


def window(left: int | None, right: int | None) -> Mask:
    """A query sees ``left`` keys before and ``right`` keys after its own, both included.

    ``None`` means no limit on that side: ``window(None, 0)`` is ``causal()``.

    Raises:
        ValueError: a side is negative, not an integer, or 2**63 or more.
    """
    sides = {"left": left, "right": right}
    for name, side in sides.items():
        if side is None:
            continue
        if isinstance(side, bool) or not isinstance(side, int) or side < 0:
            raise ValueError(f"{name} is {side!r}: must be a number of keys, or None for no limit")
        if side > _MOST:
            raise ValueError(f"{name} is {side}: must be less than 2**63, or None for no limit")
    return Mask(*(NO_LIMIT if side is None else side for side in sides.values()))
