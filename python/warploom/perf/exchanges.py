"""What ranks do when exchanges are measured; every function here is called on each rank.

Times are those of ``time.monotonic``, which all processes of a machine share.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist

from warploom.collectives import Schedule, Topology, schedule
from warploom.distributed import Layout, Spec, World
from warploom.mask import Mask
from warploom.methods import tasp


@dataclass(frozen=True)
class Links:
    """A topology in words, as processes can be told it: a class method and its arguments."""

    shape: str
    arguments: tuple[Any, ...]

    def topology(self) -> Topology:
        made: Topology = getattr(Topology, self.shape)(*self.arguments)
        return made


@dataclass(frozen=True)
class Gather:
    """An all-gather of keys and values: so many rows a rank, [rows, width] of bfloat16 each."""

    links: Links
    kind: str
    rows: int
    width: int
    parts: int | None = None

    @property
    def bytes_per_rank(self) -> int:
        return 2 * self.rows * self.width * 2

    def schedule(self) -> Schedule:
        return schedule(self.links.topology(), self.kind, parts=self.parts)


@dataclass
class Span:
    """When a rank began and ended, and how long it computed."""

    begin: float = 0.0
    end: float = 0.0
    cpu: float = 0.0


@contextmanager
def timed() -> Iterator[Span]:
    """All ranks begin together; the end is each rank's own."""
    dist.barrier()
    span = Span()
    cpu, span.begin = time.process_time(), time.monotonic()
    yield span
    span.end, span.cpu = time.monotonic(), time.process_time() - cpu


def makespan(spans: list[Span]) -> float:
    """Seconds from the first rank's begin to the last one's end."""
    return max(s.end for s in spans) - min(s.begin for s in spans)


def layout_of(what: Gather, plan: Schedule) -> Layout:
    """Each owner's rows cut into parts, as even as whole rows allow."""
    edges = [part * what.rows // plan.parts for part in range(plan.parts + 1)]
    cut = [b - a for a, b in pairwise(edges)]
    chunks = [[Spec((rows, what.width), torch.bfloat16)] * 2 for rows in cut]
    return Layout(chunks * plan.ranks)


def content(chunk: int, specs: tuple[Spec, ...]) -> list[torch.Tensor]:
    """What a chunk holds: different in every chunk, tensor and place."""
    made = []
    for index, spec in enumerate(specs):
        generator = torch.Generator().manual_seed(2 * chunk + index)
        made.append(torch.randn(spec.shape, generator=generator).to(spec.dtype))
    return made


def gather(world: World, what: Gather, check: bool = False, timeout: float = 60.0) -> Span:
    """Exchanges keys and values by a schedule, without any computation.

    check: compare every byte that arrives, and that every chunk does; the time is then of no use.

    Raises:
        ValueError: what arrived is not what was sent.
    """
    plan = what.schedule()
    layout = layout_of(what, plan)
    first = world.rank * plan.parts
    own = {chunk: content(chunk, layout[chunk]) for chunk in range(first, first + plan.parts)}
    plan.rounds  # noqa: B018  made once, outside of the time
    seen = set()
    with timed() as span, world.exchange(plan, own, layout, timeout=timeout) as run:
        for _, chunks in run:
            seen |= set(chunks)
            if check:
                for chunk, tensors in chunks.items():
                    _must_equal(world.rank, chunk, tensors, content(chunk, layout[chunk]))
    if len(seen) != len(layout):
        absent = sorted(set(range(len(layout))) - seen)
        raise ValueError(f"chunks {absent} did not come to rank {world.rank}")
    return span


def _must_equal(
    rank: int, chunk: int, tensors: list[torch.Tensor], expected: list[torch.Tensor]
) -> None:
    for index, (tensor, right) in enumerate(zip(tensors, expected, strict=True)):
        if not torch.equal(tensor.view(torch.uint8), right.view(torch.uint8)):
            raise ValueError(
                f"tensor {index} of chunk {chunk} came to rank {rank} with other bytes"
            )


def gather_by_gloo(world: World, what: Gather) -> Span:
    """The same by gloo's own all-gather."""
    own = torch.cat(content(world.rank, (Spec((what.rows, what.width), torch.bfloat16),) * 2))
    whole = [torch.empty_like(own) for _ in range(world.size)]
    with timed() as span:
        dist.all_gather(whole, own)
    return span


@dataclass(frozen=True)
class Attention:
    """A forward and a backward pass of attention over a sequence cut over the ranks, bfloat16.

    links: None are those that a sharding takes by itself.
    """

    links: Links | None
    kind: str
    length: int
    heads: int
    head_dim: int
    mask: Mask
    passes: int = 1  # one after another, in one measurement

    @property
    def flops(self) -> float:
        """Of all ranks together, for one forward and backward pass."""
        pairs = self.mask.pairs(self.length, self.length)
        return 3.5 * 4 * pairs * self.heads * self.head_dim


@lru_cache(maxsize=1)
def _shard(world: World, length: int, heads: int, d: int, links: Links | None) -> tuple[Any, ...]:
    """This rank's rows of q, k, v and o's gradient, and how they are cut."""
    part = tasp.Sharding(length, world, topology=links.topology() if links else None)
    generator = torch.Generator().manual_seed(world.rank)
    shape = (1, part.rows, heads, d)
    made = [torch.randn(shape, generator=generator).bfloat16() for _ in range(4)]
    return (part, *(t.requires_grad_() for t in made[:3]), made[3])


def attend(world: World, what: Attention) -> Span:
    """Forward and backward; the seconds are those of all passes."""
    shared = (what.length, what.heads, what.head_dim, what.links)
    part, q, k, v, grad = _shard(world, *shared)
    with timed() as span:
        for _ in range(what.passes):
            o = tasp.ring_attention(q, k, v, sharding=part, mask=what.mask, schedule=what.kind)
            torch.autograd.grad(o, (q, k, v), grad)
    return span
