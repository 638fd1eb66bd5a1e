"""Every chunk arrives where the schedule says, and every sum comes home in its order."""

from __future__ import annotations

import pytest
import torch

from warploom.distributed import Layout, Spec, World, run_ranks
from warploom.distributed.plan import Plan

from .plain_schedules import Schedule, direct, every, ring

CASES = [s for n in range(1, 9) for s in every(n)]


def name(schedule: Schedule) -> str:
    return f"{schedule.kind}-{schedule.ranks}x{schedule.parts}"


def layout_of(schedule: Schedule) -> Layout:
    """Two tensors a chunk, of lengths that differ, some of them empty."""
    return Layout(
        [Spec((2, c % 4, 3), torch.float32), Spec((c % 3 + 1,), torch.bfloat16)]
        for c in range(schedule.ranks * schedule.parts)
    )


def content(layout: Layout, chunk: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(chunk)
    return [torch.randn(s.shape, generator=generator).to(s.dtype) for s in layout[chunk]]


def contribution(layout: Layout, chunk: int, rank: int) -> list[torch.Tensor]:
    """Numbers of which sums depend on their order."""
    generator = torch.Generator().manual_seed(1000 * rank + chunk)
    return [torch.randn(s.shape, generator=generator) ** 5 for s in layout[chunk]]


def expected_sum(schedule: Schedule, layout: Layout, chunk: int) -> list[torch.Tensor]:
    """The reduction carried out in one place, as the schedule lists it."""
    holders = {chunk // schedule.parts}
    holders |= {t.target for transfers in schedule.rounds for t in transfers if t.chunk == chunk}
    sums = {rank: contribution(layout, chunk, rank) for rank in holders}
    for transfers in schedule.reduction:
        moving = [(t.target, sums.pop(t.source)) for t in transfers if t.chunk == chunk]
        for target, partial in moving:
            sums[target] = [a + b for a, b in zip(sums[target], partial, strict=True)]
    owner = chunk // schedule.parts
    assert schedule.kind == "hybrid" or list(sums) == [owner]  # there only a group's own come home
    return sums[owner]


def take_part(world: World, schedule: Schedule) -> dict[int, list[torch.Tensor]]:
    """One rank's exchange: checks what arrives, and returns what comes home."""
    layout = layout_of(schedule)
    first = world.rank * schedule.parts
    own = {c: content(layout, c) for c in range(first, first + schedule.parts)}
    results = layout.with_dtype(torch.float32)
    arrived: list[int] = []
    with world.exchange(schedule, own, layout, reduce=results, timeout=30) as run:
        for step, chunks in run:
            arrivals = schedule.rounds[step - 1] if step else ()
            at = [t.chunk for t in arrivals if t.target == world.rank]
            assert list(chunks) == (at if step else list(own))
            for chunk, tensors in chunks.items():
                assert all(map(torch.equal, tensors, content(layout, chunk)))
                run.give(chunk, contribution(layout, chunk, world.rank))
                arrived.append(chunk)
    assert len(arrived) == len(set(arrived))
    return run.results


def check_results(schedule: Schedule, results: dict[int, list[torch.Tensor]]) -> None:
    """Bit for bit: the order of the sums is the schedule's."""
    for chunk, sums in results.items():
        expected = expected_sum(schedule, layout_of(schedule), chunk)
        assert all(map(torch.equal, sums, expected))


@pytest.mark.parametrize("schedule", CASES, ids=name)
def test_chunks_arrive_and_sums_come_home(schedule: Schedule) -> None:
    for results in run_ranks(schedule.ranks, lambda world: take_part(world, schedule), limit=60):
        check_results(schedule, results)


def test_results_leave_as_soon_as_they_are_computed() -> None:
    """Reduction round t after the computation of step t - 1, beside round t."""
    assert Plan(ring(4), 0).gates == Plan(direct(4), 0).gates == [0, 0, 1, 2, 3]
    assert Plan(direct(4, 1), 0).gates == [0, 0, 1]
