"""A rank that dies, stops or hangs, at every round: every other rank says which, and gets out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch

from warploom.distributed import (
    Fault,
    Layout,
    RankLostError,
    RanksDisagreeError,
    RankStalledError,
    SimulatedWorld,
    World,
    run_outcomes,
    run_ranks,
)
from warploom.distributed.simulated import Killed

from .plain_schedules import Schedule, direct, heads, ring

SCHEDULES = [ring(2), ring(4), direct(3), direct(4), heads(4)]
AT_ONCE = 16  # scenarios that run beside each other; they sleep
TIMEOUT = 1.0


def run_once(world: World, schedule: Schedule, timeout: float | None = None) -> None:
    layout = Layout.uniform(schedule.ranks * schedule.parts, torch.zeros(3))
    first = world.rank * schedule.parts
    own = {c: [torch.full((3,), float(c))] for c in range(first, first + schedule.parts)}
    with world.exchange(schedule, own, layout, reduce=layout, timeout=timeout) as run:
        for _, chunks in run:
            for chunk in chunks:
                run.give(chunk, [torch.ones(3)])


def run_twice(world: World, schedule: Schedule) -> None:
    run_once(world, schedule)
    run_once(world, schedule)


def run_until_it_fails(world: SimulatedWorld, schedule: Schedule) -> BaseException:
    """A rank that had all it needed before the fault finishes, and learns of it at the next use."""
    with pytest.raises(OSError, match="rank") as first:
        run_twice(world, schedule)
    with pytest.raises(type(first.value), match="an earlier exchange failed") as second:
        run_once(world, schedule)
    assert str(first.value.failure) in str(second.value)
    return first.value


def scenarios(kinds: tuple[str, ...]) -> list[tuple[Schedule, Fault]]:
    """Every round of both phases, and every rank as the victim in the first of them."""
    found = []
    for schedule, kind in product(SCHEDULES, kinds):
        places = [("exchange", r) for r in range(len(schedule.rounds))]
        places += [("reduction", r) for r in range(len(schedule.reduction))]
        for index, (phase, at) in enumerate(places):
            victims = range(schedule.ranks) if index == 0 else [index % schedule.ranks]
            found += [(schedule, Fault(victim, kind, at, 1, phase)) for victim in victims]
    return found


def outcomes_of(schedule: Schedule, fault: Fault) -> list[BaseException]:
    return run_outcomes(
        schedule.ranks,
        lambda world: run_until_it_fails(world, schedule),
        timeout=TIMEOUT,
        limit=30,
        faults=[fault],
    )


@pytest.mark.parametrize(
    ("kind", "error"),
    [("kill", RankLostError), ("stop", RankStalledError), ("hang", RankStalledError)],
)
def test_every_rank_names_the_one_at_fault(kind: str, error: type[Exception]) -> None:
    cases = scenarios((kind,))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        results = list(threads.map(lambda case: outcomes_of(*case), cases))
    wrong = [
        (schedule.kind, fault, rank, outcome)
        for (schedule, fault), outcomes in zip(cases, results, strict=True)
        for rank, outcome in enumerate(outcomes)
        if rank != fault.rank and (type(outcome) is not error or outcome.rank != fault.rank)
    ]
    assert not wrong
    assert all(isinstance(o[f.rank], Killed) for (_, f), o in zip(cases, results, strict=True))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}-{s.ranks}")
def test_a_message_that_is_lost_is_noticed(schedule: Schedule) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        faults = [Fault(1, "lose", at) for at in range(len(schedule.rounds))]
        results = list(threads.map(lambda fault: outcomes_of(schedule, fault), faults))
    for fault, outcomes in zip(faults, results, strict=True):
        for outcome in outcomes:
            assert isinstance(outcome, RankStalledError)
            assert (outcome.rank, outcome.run, outcome.round) == (1, 1, fault.round)


def test_a_rank_that_leaves_an_exchange_is_named() -> None:
    """An error in one rank's computation reaches the others as its name, and itself as it was."""

    def rank(world: World) -> None:
        layout = Layout.uniform(3, torch.zeros(2))
        with world.exchange(ring(3), {world.rank: [torch.zeros(2)]}, layout) as run:
            for step, _ in run:
                if world.rank == 1 and step == 1:
                    raise ZeroDivisionError

    outcomes = run_outcomes(3, rank, timeout=20)
    assert isinstance(outcomes[1], ZeroDivisionError)
    for rank in (0, 2):
        assert isinstance(outcomes[rank], RankLostError)
        assert outcomes[rank].rank == 1
        assert "left the exchange (ZeroDivisionError)" in str(outcomes[rank])


def test_an_exchange_that_is_broken_off_is_an_error_everywhere() -> None:
    def rank(world: World) -> None:
        layout = Layout.uniform(3, torch.zeros(2))
        with world.exchange(ring(3), {world.rank: [torch.zeros(2)]}, layout) as run:
            for step, _ in run:
                if world.rank == 1 and step == 1:
                    break

    outcomes = run_outcomes(3, rank, timeout=20)
    assert isinstance(outcomes[1], RuntimeError)
    assert "before its last arrival" in str(outcomes[1])
    assert [o.rank for o in (outcomes[0], outcomes[2])] == [1, 1]


def test_a_rank_that_closed_its_world_is_missed_at_once() -> None:
    def rank(world: World) -> None:
        run_once(world, ring(3))
        if world.rank == 2:
            world.close()
        else:
            run_once(world, ring(3), timeout=60)

    outcomes = run_outcomes(3, rank)
    assert outcomes[2] is None
    for outcome in outcomes[:2]:
        assert isinstance(outcome, RankLostError)
        assert "rank 2 closed its world" in str(outcome)


def test_a_rank_that_ends_early_does_not_fail_those_that_still_finish() -> None:
    """Its last messages are on their way when it says goodbye."""
    for seed in range(5):
        run_ranks(4, lambda world: run_once(world, direct(4)), delay=0.02, seed=seed, limit=30)


DIFFERENCES = {
    "schedule": lambda world: ring(4) if world.rank != 2 else direct(4, 1),
    "layout": lambda world: (3, torch.float32) if world.rank != 2 else (4, torch.float32),
    "dtype": lambda world: (3, torch.float32) if world.rank != 2 else (3, torch.float16),
    "mask": lambda world: {"mask": "causal"} if world.rank != 2 else {"mask": "full"},
    "window": lambda world: {"mask": "full"} if world.rank != 2 else {"mask": "full", "window": 8},
    "results": lambda world: world.rank != 2,
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_ranks_that_differ_are_named_before_data_moves(what: str) -> None:
    def rank(world: World) -> None:
        own = DIFFERENCES[what](world)
        schedule = own if what == "schedule" else ring(4)
        shape, dtype = own if what in ("layout", "dtype") else (3, torch.float32)
        tensor = torch.zeros(shape, dtype=dtype)
        layout = Layout.uniform(4, tensor)
        contract = own if what in ("mask", "window") else {}
        reduce = layout if what == "results" and own else None
        run = world.exchange(
            schedule, {world.rank: [tensor]}, layout, contract=contract, reduce=reduce
        )
        with pytest.raises(RanksDisagreeError) as error, run:
            raise AssertionError("the exchange began")
        assert error.value.key == {"dtype": "layout"}.get(what, what)
        assert "rank 2 has" in str(error.value)
        assert "the others have" in str(error.value)
        run_once(world, ring(4))  # nothing is broken

    run_ranks(4, rank, timeout=20, limit=60)


def test_two_ranks_that_differ_are_both_shown() -> None:
    def rank(world: World) -> None:
        layout = Layout.uniform(2, torch.zeros(1))
        own, contract = {world.rank: [torch.zeros(1)]}, {"scale": 0.5 + world.rank}
        with world.exchange(ring(2), own, layout, contract=contract):
            raise AssertionError("the exchange began")

    for outcome in run_outcomes(2, rank, timeout=20):
        assert isinstance(outcome, RanksDisagreeError)
        assert "disagree on scale in exchange 1: rank 0 has 0.5, rank 1 has 1.5" in str(outcome)


def test_a_rank_that_never_comes_is_named() -> None:
    def rank(world: World) -> None:
        if world.rank != 1:
            run_once(world, ring(3), timeout=0.5)
        else:
            world.network.over.wait(1.5)

    outcomes = run_outcomes(3, rank, limit=20)
    for at in (0, 2):
        assert isinstance(outcomes[at], RankStalledError)
        assert outcomes[at].rank == 1
        assert "the start of exchange 1" in str(outcomes[at])


def test_run_ranks_raises_the_cause() -> None:
    """Not what rank 0 says of the rank that failed."""

    def rank(world: SimulatedWorld) -> None:
        if world.rank == 1:
            raise ZeroDivisionError
        run_once(world, ring(3))

    with pytest.raises(ZeroDivisionError) as error:
        run_ranks(3, rank, timeout=20)
    assert error.value.__notes__ == ["raised by rank 1 of 3"]
