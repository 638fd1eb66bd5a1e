"""What an exchange allocates, and that no buffer is used again too early."""

from __future__ import annotations

import pytest
import torch

from warploom.distributed import ChunkPool, Layout, World, run_ranks
from warploom.distributed.layout import Buffers

from .plain_schedules import Schedule, direct, heads, ring
from .test_exchange import CASES, check_results, content, layout_of, name, take_part

SIZE = 120  # numbers in a rank's keys and values together


class PoisonedPool(ChunkPool):
    """Buffers that are given back turn into NaN at once."""

    def give_back(self, chunk: int, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.fill_(torch.nan)
        super().give_back(chunk, tensors)


@pytest.mark.parametrize("schedule", [s for s in CASES if s.ranks in (3, 4)], ids=name)
def test_late_messages_find_their_data_as_it_was(schedule: Schedule) -> None:
    """Messages are copied when they are delivered: an early reuse would send or show NaN."""

    def rank(world: World) -> None:
        layout = layout_of(schedule)
        first = world.rank * schedule.parts
        own = {c: content(layout, c) for c in range(first, first + schedule.parts)}
        pool = PoisonedPool(layout, world.device)
        with world.exchange(schedule, own, layout, pool=pool) as run:
            for _, chunks in run:
                for chunk, tensors in chunks.items():
                    assert all(map(torch.equal, tensors, content(layout, chunk)))

    run_ranks(schedule.ranks, rank, delay=0.01, seed=schedule.parts, limit=60)


def test_a_pool_that_gives_buffers_out_too_early_is_noticed() -> None:
    """The control of the test above: a pool with one buffer for all."""

    class OneBuffer(ChunkPool):
        def take(self, chunk: int) -> list[torch.Tensor]:
            tensors = super().take(chunk)
            super().give_back(chunk, tensors)
            return tensors

    def rank(world: World) -> bool:
        layout = Layout.uniform(4, torch.zeros(2))
        pool = OneBuffer(layout, world.device)
        right = True
        own = {world.rank: [torch.full((2,), float(world.rank))]}
        with world.exchange(ring(4), own, layout, pool=pool) as run:
            for _, chunks in run:
                for chunk, (tensor,) in chunks.items():
                    right = right and tensor.eq(chunk).all().item()
        return right

    assert not all(run_ranks(4, rank, limit=60))


@pytest.mark.parametrize("ranks", range(2, 9))
@pytest.mark.parametrize("make", [ring, direct])
def test_at_most_two_chunk_sets_are_held(make, ranks: int) -> None:
    """Two for what arrives; for the gradients, two beside the rank's own sums."""
    schedule = make(ranks)

    def rank(world: World) -> tuple[int, int]:
        shape = (SIZE // schedule.parts,)
        layout = Layout.uniform(ranks * schedule.parts, torch.zeros(shape))
        first = world.rank * schedule.parts
        own = {c: [torch.zeros(shape)] for c in range(first, first + schedule.parts)}
        with world.exchange(schedule, own, layout, reduce=layout) as run:
            for _, chunks in run:
                for chunk in chunks:
                    run.give(chunk, [torch.ones(shape)])
        assert all(total.eq(ranks).all() for (total,) in run.results.values())
        return run.pool.bytes, run.results_pool.bytes

    most = 2 * SIZE * torch.float32.itemsize
    for arriving, results in run_ranks(ranks, rank, limit=60):
        assert arriving <= most
        assert results <= most


def test_a_pool_serves_exchange_after_exchange() -> None:
    def rank(world: World) -> int:
        layout = Layout.uniform(4, torch.zeros(8))
        pool = ChunkPool(layout, world.device)
        for _ in range(5):
            run_ring(world, layout, pool)
        return pool.allocated

    assert run_ranks(4, rank, limit=60) == [2] * 4


def test_exchanges_use_the_memory_of_earlier_ones_for_a_while() -> None:
    def rank(world: World) -> tuple[set[int], set[int], int]:
        layout, other = Layout.uniform(4, torch.zeros(8)), Layout.uniform(4, torch.zeros(9))
        first = run_ring(world, layout)
        again = run_ring(world, layout)
        for _ in range(Buffers.KEPT + 1):
            run_ring(world, other)
        return first, again, len(world.buffers(world.device)._free)

    for first, again, kinds in run_ranks(4, rank, limit=60):
        assert again == first
        assert kinds == 1


def run_ring(world: World, layout: Layout, pool: ChunkPool | None = None) -> set[int]:
    """Where in memory the chunks arrived."""
    own = {world.rank: [torch.zeros(layout[0][0].shape)]}
    places: set[int] = set()
    with world.exchange(ring(4), own, layout, pool=pool) as run:
        for step, chunks in run:
            places |= {t.data_ptr() for ts in chunks.values() for t in ts if step}
    return places


@pytest.mark.parametrize("schedule", [ring(5), direct(5), heads(5)], ids=name)
def test_results_do_not_depend_on_when_messages_arrive(schedule: Schedule) -> None:
    for seed in range(4):
        for results in run_ranks(
            schedule.ranks, lambda world: take_part(world, schedule), delay=0.01, seed=seed
        ):
            check_results(schedule, results)
