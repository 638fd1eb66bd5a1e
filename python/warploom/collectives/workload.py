"""What an attention call moves and computes on each rank, whatever the schedule moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warploom.collectives.schedule import Schedule

_BACKWARD_WORK = 2.5  # products of matrices in a backward pass, over those in a forward: 5 to 2
FORWARD_ONLY = ("hybrid", "token_ring")


Slices = tuple[tuple[int, ...], ...]  # for each part, its heads


def head_slices(heads: int, kv_heads: int, parts: int) -> tuple[Slices, Slices]:
    """For each part its query heads, and the key/value heads that they read.

    Query heads are dealt out as evenly as they can be; with fewer heads than parts some parts get
    none. Where a part's query heads do not read its key/value heads in equal numbers, each query
    head gets its key/value head to itself.

    Raises:
        ValueError: ``heads`` is no multiple of ``kv_heads``.
    """
    if heads and (kv_heads < 1 or heads % kv_heads != 0):
        raise ValueError(f"heads is {heads}: must be a multiple of the {kv_heads} kv heads")
    edges = [heads * part // parts for part in range(parts + 1)]
    queries = [tuple(range(first, last)) for first, last in pairwise(edges)]
    keys = []
    for mine in queries:
        read = tuple(head // (heads // kv_heads) for head in mine)
        once = tuple(dict.fromkeys(read))
        keys.append(once if len({read.count(head) for head in once}) <= 1 else read)
    return tuple(queries), tuple(keys)


@dataclass(frozen=True)
class Pass:
    """What one pass over a schedule moves and computes, of each rank.

    Attributes:
        out_bytes: of all of an owner's parts on their way out.
        relay_bytes: of the same where a hybrid passes it on to other groups, without q.
        home_bytes: of a partial result for all parts; 0: nothing comes home.
        compute_seconds: of the rank's whole computation.
        shares: of each part in the bytes, 1 together; with heads also in the computation; empty:
            equal ones.
    """

    out_bytes: float
    relay_bytes: float = 0.0
    home_bytes: float = 0.0
    compute_seconds: float = 0.0
    shares: Sequence[float] = field(default=())


@dataclass(frozen=True)
class Workload:
    """One attention call over sequences that are split evenly over the ranks.

    Attributes:
        queries, keys: lengths of the whole sequence, sq and sk; keys 0: as queries.
        heads, kv_heads: h and hk; kv_heads 0: as heads.
        head_dim, value_dim: d and dv; value_dim 0: as head_dim.
        batch: b.
        element_bytes: bytes of an element of q, k, v and o.
        causal: half of the work, evenly divided over the ranks (the zigzag layout does that).
        backward: the forward pass and the backward one.
        flops_per_s: floating-point operations that each rank does a second while nothing is in its
            way; None: computation is left out, and only communication compared.
    """

    queries: int
    heads: int
    head_dim: int
    keys: int = 0
    kv_heads: int = 0
    value_dim: int = 0
    batch: int = 1
    element_bytes: int = 2
    causal: bool = True
    backward: bool = False
    flops_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "heads", "head_dim", "batch", "element_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least 1")
        for name in ("keys", "kv_heads", "value_dim"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least 1, or 0")
        if self.heads % (self.kv_heads or self.heads) != 0:
            raise ValueError(
                f"heads is {self.heads}: must be a multiple of the {self.kv_heads} kv heads"
            )
        if self.flops_per_s is not None and not self.flops_per_s > 0:
            raise ValueError(f"flops_per_s is {self.flops_per_s}: must be above 0, or None")

    def flops(self, ranks: int) -> float:
        """Of one rank's forward pass."""
        pairs = self.batch * self.queries * (self.keys or self.queries) / ranks
        work = 2 * pairs * self.heads * (self.head_dim + (self.value_dim or self.head_dim))
        return work / 2 if self.causal else work

    def passes(self, schedule: Schedule) -> tuple[Pass, ...]:
        """The passes over a schedule: the forward one, then the backward one if there is one.

        Raises:
            ValueError: the schedule is of the forward pass alone and ``backward`` is set; or it
                divides the heads and there are too few.
        """
        if self.backward and schedule.kind in FORWARD_ONLY:
            raise ValueError(f"kind {schedule.kind!r} is of the forward pass alone")
        n = schedule.ranks
        dv = self.value_dim or self.head_dim
        query_rows = self.batch * self.queries / n
        key_rows = self.batch * (self.keys or self.queries) / n
        q, o = query_rows * self.heads * self.head_dim, query_rows * self.heads * dv
        kv_width = self.head_dim + dv
        kv = key_rows * (self.kv_heads or self.heads) * kv_width
        lse = query_rows * self.heads
        size = self.element_bytes
        forward = self.flops(n) / self.flops_per_s if self.flops_per_s else 0.0
        backward = forward * _BACKWARD_WORK
        if schedule.moves == "kv":
            passes = [Pass(kv * size, compute_seconds=forward)]
            if self.backward:  # keys and values again; their gradients in float32
                passes.append(Pass(kv * size, home_bytes=kv * 4, compute_seconds=backward))
        elif schedule.moves == "q":
            passes = [Pass(q * size, home_bytes=o * 4 + lse * 8, compute_seconds=forward)]
        else:
            kv_heads = self.kv_heads or self.heads
            if self.heads < schedule.parts:
                raise ValueError(
                    f"heads is {self.heads}: without one for each of the {schedule.parts} ranks "
                    "that exchange them some would have no work"
                )
            queries, keys = head_slices(self.heads, kv_heads, schedule.parts)
            kv = key_rows * sum(map(len, keys)) * kv_width  # copies counted
            shares = tuple(len(mine) / self.heads for mine in queries)
            results = o * size + lse * 4
            passes = [Pass((q + kv) * size, kv * size, results, forward, shares)]
            if self.backward:  # gradients of o and lse out; those of q, k and v back
                passes.append(Pass(results, 0.0, (q + kv) * size, backward, shares))
        return tuple(passes)
