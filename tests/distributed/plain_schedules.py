"""Small schedules written down here, so that these tests need no generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple


class Transfer(NamedTuple):
    source: int
    target: int
    chunk: int


Rounds = tuple[tuple[Transfer, ...], ...]


@dataclass(frozen=True)
class Schedule:
    kind: str
    ranks: int
    parts: int
    rounds: Rounds
    reduction: Rounds

    def fingerprint(self) -> bytes:
        return hashlib.sha256(repr(self).encode()).digest()


def ring(n: int) -> Schedule:
    """Chunks go round; sums ride behind them, and home in the last round."""
    rounds = [[Transfer(r, (r + 1) % n, (r - t) % n) for r in range(n)] for t in range(n - 1)]
    home: list[list[Transfer]] = [[], []] if n > 1 else []
    for t in range(n - 1):
        home.append([Transfer(r, (r + 1) % n, (r - t - 1) % n) for r in range(n)])
    return build("ring", n, 1, rounds, home)


def direct(n: int, parts: int | None = None) -> Schedule:
    """In round t every owner sends its part t to everybody; sums go straight home."""
    parts = max(n - 1, 1) if parts is None else parts
    others = [(a, b) for a in range(n) for b in range(n) if a != b]
    rounds = [[Transfer(a, b, a * parts + t) for a, b in others] for t in range(parts)]
    home = [[Transfer(b, a, a * parts + t) for a, b in others] for t in range(parts)]
    return build("direct", n, parts, rounds, [[], [], *home])


def heads(n: int) -> Schedule:
    """Part p of every owner goes to rank p and its result comes back."""
    there = [Transfer(a, b, a * n + b) for a in range(n) for b in range(n) if a != b]
    back = [Transfer(b, a, a * n + b) for a in range(n) for b in range(n) if a != b]
    return build("heads", n, n, [there], [[], [], back])


def build(
    kind: str, n: int, parts: int, rounds: list[list[Transfer]], home: list[list[Transfer]]
) -> Schedule:
    return Schedule(kind, n, parts, tuple(map(tuple, rounds)), tuple(map(tuple, home)))


def every(n: int) -> list[Schedule]:
    return [ring(n), direct(n), direct(n, 1), direct(n, 3), heads(n)]
