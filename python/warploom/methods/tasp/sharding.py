"""A sequence cut over the ranks of a group: this rank's rows of any tensor, and back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from warploom.collectives import Topology
from warploom.distributed import Layout as ChunkLayout
from warploom.distributed import Spec, TorchWorld, World
from warploom.methods.tasp.partition import Layout, Partition
from warploom.methods.tasp.schedules import everybody, links_of
from warploom.methods.tasp.uncompiled import uncompiled


class Sharding:
    """Who holds which positions of a sequence, and the group that they are shared over.

    Args:
        length: positions of the whole sequence, the same on every rank; any number.
        group: a ``torch.distributed`` process group (None: the default one), or a
            ``warploom.distributed`` world, such as a ``TorchWorld`` with options of its own. The
            first sharding over a process group makes a world for it, in which all its ranks take
            part.
        layout: ``"zigzag"`` gives each rank one span from the front and one from the back, which
            balances causal masks; ``"contiguous"`` one span.
        cu_seqlens: ``[documents + 1]`` offsets of documents packed end to end, from 0 to
            ``length``: each attends to itself alone, wherever the ranks' borders fall. Read on
            the host, once.
        topology: links of the group, by which schedules are made and chosen; None: one memory
            that all share where the ranks are processes of one machine on its CPU, else a full
            mesh of equal links.

    Raises:
        ValueError: an argument is wrong; the message names it, and says what it must be.
    """

    def __init__(
        self,
        length: int,
        group: Any = None,
        layout: Layout = "zigzag",
        cu_seqlens: Sequence[int] | torch.Tensor | None = None,
        topology: Topology | None = None,
    ) -> None:
        self.world: World = group if isinstance(group, World) else _world_of(group)
        ranks = self.world.size
        self.partition = Partition(length, ranks, layout, cu_seqlens)
        if not isinstance(topology, Topology | None):
            raise ValueError(f"topology is {topology!r}: must be a warploom.collectives.Topology")
        if topology is not None and topology.ranks != ranks:
            raise ValueError(f"topology has {topology.ranks} ranks: must have the group's {ranks}")
        self.topology = topology or (links_of(self.world) if ranks > 1 else None)

    @property
    def length(self) -> int:
        """Positions of the whole sequence."""
        return self.partition.length

    @property
    def rows(self) -> int:
        """Positions of this rank; ranks differ by two at most."""
        return self.partition.rows(self.world.rank)

    @property
    def indices(self) -> torch.Tensor:
        """``[rows]`` int64: the place of each of this rank's rows in the whole sequence."""
        spans = self.partition.spans[self.world.rank]
        return torch.cat([torch.arange(0), *(torch.arange(*span) for span in spans)])

    @property
    def positions(self) -> torch.Tensor:
        """``[rows]`` int64: the place of each row in its document, as rotary embeddings want it."""
        documents = self.partition.documents
        places = self.indices.tolist()
        return torch.tensor(
            [i - documents[bisect_right(documents, i) - 1] for i in places], dtype=torch.int64
        )

    def shard(self, x: torch.Tensor, dim: int = 1) -> torch.Tensor:
        """This rank's rows of ``x``, whose axis ``dim`` is the whole sequence.

        Differentiable: the gradient of ``x`` is that of these rows, and 0 elsewhere.
        """
        self._check("x", x, dim, self.length)
        spans = self.partition.spans[self.world.rank]
        parts = [x.narrow(dim, span.first, span.length) for span in spans]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, dim) if parts else x.narrow(dim, 0, 0)

    def unshard(self, x: torch.Tensor, dim: int = 1, timeout: float | None = None) -> torch.Tensor:
        """The whole sequence on every rank, from each rank's rows; all ranks take part.

        Differentiable, as the adjoint of :meth:`shard`: what is differentiated is the sum of what
        the ranks compute, so the gradient of ``x`` is the sum of all ranks' gradients for these
        rows. Where every rank computes the same loss of the whole, divide it by their number.

        Raises:
            ValueError: x's axis is not this rank's rows, or ranks disagree.
            TimeoutError, ConnectionError: a rank stalled or is gone.
        """
        self._check("x", x, dim, self.rows)
        return _unshard(x, self, dim, timeout)

    def _check(self, name: str, x: torch.Tensor, dim: int, rows: int) -> None:
        if not -x.dim() <= dim < x.dim():
            raise ValueError(f"dim is {dim}: {name} has {x.dim()} axes")
        if x.shape[dim] != rows:
            whose = "of the whole sequence" if rows == self.length else "of this rank"
            raise ValueError(
                f"{name} has {x.shape[dim]} rows along axis {dim}: must have the {rows} {whose}"
            )

    def __repr__(self) -> str:
        return (
            f"Sharding(length={self.length}, rank {self.world.rank} of {self.world.size}, "
            f"layout={self.partition.layout!r})"
        )


_worlds: dict[dist.ProcessGroup, TorchWorld] = {}


def _world_of(group: dist.ProcessGroup | None) -> TorchWorld:
    """One world for each group: joining one takes all ranks."""
    group = dist.group.WORLD if group is None else group
    if group is None:
        raise ValueError(
            "group is None and there is no default process group: call "
            "torch.distributed.init_process_group first, in a program that torchrun starts"
        )
    if group not in _worlds:
        _worlds[group] = TorchWorld(group)
    return _worlds[group]


@uncompiled
def _unshard(x: torch.Tensor, sharding: Sharding, dim: int, timeout: float | None) -> torch.Tensor:
    result: torch.Tensor = _Unshard.apply(x, sharding, dim, timeout)  # type: ignore[no-untyped-call]
    return result


class _Unshard(torch.autograd.Function):
    """Everybody's rows to everybody; gradients of the rows home, summed."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, sharding: Sharding, dim: int, timeout: float | None
    ) -> torch.Tensor:
        ctx.call = sharding, dim, timeout, x.dtype
        world, partition = sharding.world, sharding.partition
        mine = x.movedim(dim, 0)
        whole = x.new_empty((sharding.length, *mine.shape[1:]))
        for piece in partition.pieces(world.rank, 0, 1):
            whole[slice(*piece.span)] = mine[piece.row : piece.row + piece.span.length]
        if world.size > 1:
            contract = {"call": "unshard", "gradients": x.requires_grad}
            pool = _InPlace(partition, whole)
            with world.exchange(
                everybody(world.size), {world.rank: pool.take(world.rank)}, pool.layout(),
                contract=contract, pool=pool, timeout=timeout,
            ) as run:  # fmt: skip
                for _ in run:
                    pass
        return whole.movedim(0, dim).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        sharding, dim, timeout, dtype = ctx.call
        world, partition = sharding.world, sharding.partition
        # A new tensor: sums are made in place.
        wide = torch.promote_types(dtype, torch.float32)
        whole = torch.empty_like(grad.movedim(dim, 0), dtype=wide).contiguous()
        whole.copy_(grad.movedim(dim, 0))
        pool = _InPlace(partition, whole)
        mine = pool.take(world.rank)
        if world.size > 1:
            nothing = ChunkLayout([()] * world.size)  # only sums travel
            with world.exchange(
                everybody(world.size), {world.rank: []}, nothing,
                contract={"call": "gradient of unshard"}, reduce=pool.layout(), timeout=timeout,
            ) as run:  # fmt: skip
                for _, chunks in run:
                    for owner in chunks:
                        run.give(owner, pool.take(owner))
            mine = run.results[world.rank]
        rows = torch.cat(mine) if mine else whole[:0]
        return rows.to(dtype).movedim(0, dim), None, None, None


class _InPlace:
    """Each rank's rows (a chunk) at their place in the whole sequence, its first axis."""

    def __init__(self, partition: Partition, whole: torch.Tensor) -> None:
        self._partition, self._whole = partition, whole

    def layout(self) -> ChunkLayout:
        return ChunkLayout(
            [Spec.of(rows) for rows in self.take(rank)] for rank in range(self._partition.ranks)
        )

    def take(self, chunk: int) -> list[torch.Tensor]:
        return [self._whole[slice(*span)] for span in self._partition.spans[chunk]]

    def give_back(self, chunk: int, tensors: list[torch.Tensor]) -> None:
        """It stays where it is."""
