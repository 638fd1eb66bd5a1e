"""Heads exchanged for sequence: each rank gets some heads of its whole group's rows, and back.

A group is a run of neighbouring ranks. With all ranks in one group this is Ulysses attention; with
several, keys and values of the heads that a rank holds travel on between the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from warploom.distributed import Layout, Spec, World
from warploom.methods.tasp.groups import Grouped, Slices, Stage
from warploom.methods.tasp.partition import Partition

Tensors = list[torch.Tensor]
Contract = Mapping[str, object]


class HeadExchange:
    """The way of tensors ``[b, rows, heads, d]`` to the ranks that hold their heads, and back."""

    def __init__(
        self, world: World, partition: Partition, grouped: Grouped, stage: Stage, timeout: float
    ) -> None:
        self._world, self._partition, self._grouped = world, partition, grouped
        self._stage, self._timeout = stage, timeout
        self._group = stage.parts
        self._place = world.rank % self._group

    def out(
        self, tensors: Sequence[torch.Tensor], heads: Sequence[Slices], contract: Contract
    ) -> Tensors:
        """From all heads of this rank's rows, its heads of all rows of the group.

        heads: for each tensor, the heads that each part gets.
        """
        world, group = self._world, self._group
        gathered = [
            t.new_empty(self._grouped.rows(world.rank), t.shape[0], len(h[self._place]), t.shape[3])
            for t, h in zip(tensors, heads, strict=True)
        ]
        own = {}
        for part in range(group):
            slices = [
                _rows_first(t)[:, :, list(h[part])].contiguous()
                for t, h in zip(tensors, heads, strict=True)
            ]
            own[world.rank * group + part] = [
                rows for t in slices for rows in t.split(self._lengths(world.rank))
            ]
        pool = _Places(self, gathered)
        mine = world.rank * group + self._place
        for place, rows in zip(pool.take(mine), own[mine], strict=True):
            place.copy_(rows)
        with world.exchange(
            self._stage, own, self._layout(tensors, heads), contract=contract, pool=pool,
            timeout=self._timeout,
        ) as run:  # fmt: skip
            for _ in run:
                pass
        return [_rows_first(t) for t in gathered]

    def home(
        self, gathered: Sequence[torch.Tensor], heads: Sequence[Slices], contract: Contract
    ) -> Tensors:
        """The adjoint of :meth:`out`: what several parts have of one head is summed, in order."""
        world, group = self._world, self._group
        places = _Places(self, [_rows_first(t) for t in gathered])
        nothing = Layout([()] * (world.size * group))  # all travels on the way home
        own: dict[int, Tensors] = {world.rank * group + part: [] for part in range(group)}
        with world.exchange(
            self._stage, own, nothing, contract=contract, reduce=self._layout(gathered, heads),
            timeout=self._timeout,
        ) as run:  # fmt: skip
            for _, chunks in run:
                for chunk in chunks:
                    mine = chunk // group == world.rank
                    run.give(chunk, None if mine else [t.contiguous() for t in places.take(chunk)])
        parts = [run.results[chunk] for chunk in sorted(run.results)]
        parts[self._place] = places.take(world.rank * group + self._place)
        return [
            _rows_first(self._whole(t, slices, [self._of_tensor(part, n) for part in parts]))
            for n, (t, slices) in enumerate(zip(gathered, heads, strict=True))
        ]

    def _of_tensor(self, part: Tensors, index: int) -> Tensors:
        """Its spans among those of all tensors."""
        spans = len(self._lengths(self._world.rank))
        return part[index * spans : (index + 1) * spans]

    def _whole(self, like: torch.Tensor, heads: Slices, parts: list[Tensors]) -> torch.Tensor:
        """``[rows, b, all heads, d]`` from the spans of each part's heads."""
        count = len({head for part in heads for head in part})
        shared = sum(map(len, heads)) > count
        shape = (self._partition.rows(self._world.rank), like.shape[0], count, like.shape[3])
        total = like.new_zeros(shape, dtype=torch.float32 if shared else like.dtype)
        spans = total.split(self._lengths(self._world.rank))
        for slices, part in zip(heads, parts, strict=True):
            for span, rows in zip(spans, part, strict=True):
                if not shared:
                    span[:, :, list(slices)] = rows
                    continue
                for column, head in enumerate(slices):
                    span[:, :, head] += rows[:, :, column]
        return total.to(like.dtype)

    def _lengths(self, rank: int) -> list[int]:
        return [span.length for span in self._partition.spans[rank]]

    def _layout(self, tensors: Sequence[torch.Tensor], heads: Sequence[Slices]) -> Layout:
        sizes = tuple((t.shape[0], t.shape[3], t.dtype) for t in tensors)
        return _known_layout(self._partition, self._group, tuple(heads), sizes)


class _Places:
    """Each member's rows in tensors ``[rows of the group, b, heads, d]``."""

    def __init__(self, exchange: HeadExchange, gathered: Tensors) -> None:
        self._exchange, self._gathered = exchange, gathered

    def take(self, chunk: int) -> Tensors:
        grouped, group = self._exchange._grouped, self._exchange._group
        owner = chunk // group
        pieces = grouped.pieces(owner, owner % group, group)
        return [t[p.row : p.row + p.span.length] for t in self._gathered for p in pieces]

    def give_back(self, chunk: int, tensors: Tensors) -> None:
        """It stays where it is."""


@lru_cache(maxsize=64)
def _known_layout(
    partition: Partition,
    group: int,
    heads: tuple[Slices, ...],
    sizes: tuple[tuple[int, int, torch.dtype], ...],
) -> Layout:
    """Every owner's rows of every part's heads, tensor by tensor, span by span."""
    return Layout(
        [
            Spec((span.length, b, len(slices[part]), d), dtype)
            for slices, (b, d, dtype) in zip(heads, sizes, strict=True)
            for span in partition.spans[owner]
        ]
        for owner in range(partition.ranks)
        for part in range(group)
    )


class ToHeads(torch.autograd.Function):
    """``HeadExchange.out``, with gradients on the way home."""

    @staticmethod
    def forward(
        ctx: Any,
        exchange: HeadExchange,
        heads: Sequence[Slices],
        contract: Contract,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.call = exchange, heads, contract
        return tuple(exchange.out(tensors, heads, contract))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        exchange, heads, contract = ctx.call
        return None, None, None, *exchange.home(grads, heads, _backward(contract))


class ToRows(torch.autograd.Function):
    """``HeadExchange.home``, with gradients on the way out."""

    @staticmethod
    def forward(
        ctx: Any,
        exchange: HeadExchange,
        heads: Sequence[Slices],
        contract: Contract,
        *gathered: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.call = exchange, heads, contract
        return tuple(exchange.home(gathered, heads, contract))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        exchange, heads, contract = ctx.call
        return None, None, None, *exchange.out(grads, heads, _backward(contract))


def _backward(contract: Contract) -> Contract:
    return {"call": f"gradient of {contract['call']}"}


def _rows_first(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(0, 1)
