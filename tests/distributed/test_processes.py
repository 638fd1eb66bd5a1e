"""The same exchanges between processes, over gloo; and what happens when one of them dies."""

from __future__ import annotations

import atexit
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from warploom.distributed import (
    Layout,
    RankLostError,
    RanksDisagreeError,
    RankStalledError,
    TorchWorld,
    World,
)

from .plain_schedules import Schedule, direct, every, ring
from .processes import Outcome, die, run_processes
from .test_exchange import check_results, take_part


def take_part_in_all(world: World) -> int:
    schedules = every(world.size)
    for schedule in schedules:
        check_results(schedule, take_part(world, schedule))
    return len(schedules)


def test_chunks_arrive_and_sums_come_home() -> None:
    outcomes = run_processes(4, take_part_in_all)
    assert [(o.result, o.error, o.exit_code) for o in outcomes] == [(5, None, 0)] * 4


def run_and_die(world: World, schedule: Schedule, victim: int, step: int, how: str) -> list[str]:
    """Fails in the first exchange or the one after it, then at every use; says with what."""
    said = []
    for _ in range(3):
        try:
            layout = Layout.uniform(schedule.ranks * schedule.parts, torch.zeros(200_000))
            first = world.rank * schedule.parts
            own = {c: [torch.zeros(200_000)] for c in range(first, first + schedule.parts)}
            with world.exchange(schedule, own, layout, reduce=layout) as run:
                for at, chunks in run:
                    if (world.rank, at) == (victim, step):
                        die(how)
                    for chunk in chunks:
                        run.give(chunk, None)
        except (RankLostError, RankStalledError) as error:
            said.append(f"{type(error).__name__} {error.rank}: {error}")
    return said


SCENARIOS = [
    (ring(3), 2, 0, "kill"),
    (ring(4), 0, 1, "kill"),
    (direct(4), 1, 2, "kill"),
    (ring(4), 1, 0, "stop"),
    (ring(4), 0, 2, "stop"),
    (direct(3), 2, 1, "stop"),
    (ring(4), 3, 1, "hang"),
]


def test_a_process_that_dies_or_stops_is_named_and_all_others_end_in_order() -> None:
    """All at once: the processes mostly wait."""

    def play(scenario: tuple[Schedule, int, int, str]) -> list[Outcome]:
        schedule, victim, _, _ = scenario
        return run_processes(
            schedule.ranks, run_and_die, *scenario, timeout=4.0, limit=60, gone=(victim,)
        )

    with ThreadPoolExecutor(len(SCENARIOS)) as threads:
        results = list(threads.map(play, SCENARIOS))
    for (_, victim, _, how), outcomes in zip(SCENARIOS, results, strict=True):
        named = f"{'RankLostError' if how == 'kill' else 'RankStalledError'} {victim}:"
        for rank, outcome in enumerate(outcomes):
            if rank != victim:
                assert (outcome.error, outcome.exit_code) == (None, 0)
                assert 2 <= len(outcome.result) <= 3, outcome.result
                assert all(said.startswith(named) for said in outcome.result)
                assert "an earlier exchange failed" in outcome.result[-1]


def run_until_struck(world: World, victim: int, how: str) -> str:
    """Large messages one after the other, so that the fault comes in the middle of some."""
    size = 2_000_000
    schedule = direct(world.size)
    layout = Layout.uniform(schedule.ranks * schedule.parts, torch.zeros(size))
    first = world.rank * schedule.parts
    own = {c: [torch.zeros(size)] for c in range(first, first + schedule.parts)}
    try:
        for delay in (None, 0.004, None):
            with world.exchange(schedule, own, layout, reduce=layout) as run:
                for step, chunks in run:
                    if world.rank == victim and delay and step == 1:
                        threading.Timer(delay, die, [how]).start()
                    for chunk in chunks:
                        run.give(chunk, [torch.ones(size)])
    except (RankLostError, RankStalledError) as error:
        return f"{type(error).__name__} {error.rank}"
    return "nothing happened"


@pytest.mark.parametrize(("how", "error"), [("kill", RankLostError), ("stop", RankStalledError)])
def test_a_fault_amid_large_messages(how: str, error: type[Exception]) -> None:
    """Some are half received, which gloo would wait for without end."""
    with ThreadPoolExecutor(3) as threads:
        results = threads.map(
            lambda victim: run_processes(
                3, run_until_struck, victim, how, timeout=4.0, limit=60, gone=(victim,)
            ),
            range(3),
        )
    for victim, outcomes in enumerate(results):
        for rank, outcome in enumerate(outcomes):
            if rank != victim:
                assert (outcome.error, outcome.exit_code) == (None, 0)
                assert outcome.result == f"{error.__name__} {victim}"


def test_a_process_that_was_stopped_and_goes_on_learns_of_it() -> None:
    outcomes = run_processes(3, run_and_die, ring(3), 1, 1, "stop", timeout=2.0, resumed=1)
    for outcome in outcomes:
        assert (outcome.error, outcome.exit_code) == (None, 0)
        assert all(said.startswith("RankStalledError 1:") for said in outcome.result)
        assert "an earlier exchange failed" in outcome.result[-1]


def use_groups(world: World) -> list[str]:
    """Worlds of some of the ranks, and a second one of all, beside the first."""
    said = []
    pairs = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    with TorchWorld(pairs[world.rank % 2], timeout=20) as half, TorchWorld(timeout=20) as second:
        assert (half.rank, half.size) == (world.rank // 2, 2)
        assert half.one_machine
        for each, schedule in ((half, ring(2)), (world, direct(4)), (second, ring(4))):
            check_results(schedule, take_part(each, schedule))
    with pytest.raises(ValueError, match=r"for cuda:0 it must have nccl"):
        TorchWorld(device="cuda:0")
    with pytest.raises(RuntimeError, match="the world is closed"):
        take_part(second, ring(4))
    take_part(world, ring(4))
    if world.rank != 3:  # who does not come is named, by its number in the group
        with pytest.raises(TimeoutError, match=r"ranks \[3\] did not make their world") as error:
            TorchWorld(timeout=0.5)
        said.append(str(error.value))
    return said


def test_worlds_of_groups() -> None:
    for rank, outcome in enumerate(run_processes(4, use_groups)):
        assert (outcome.error, outcome.exit_code) == (None, 0)
        assert len(outcome.result) == (rank != 3)


def differ(world: World) -> str:
    layout = Layout.uniform(3, torch.zeros(5 + (world.rank == 1)))
    own = {world.rank: [torch.zeros(layout[0][0].shape)]}
    try:
        with world.exchange(ring(3), own, layout, contract={"scale": 2}):
            return "the exchange began"
    except RanksDisagreeError as error:
        take_part(world, ring(3))
        return str(error)


def test_processes_that_differ_are_named_before_data_moves() -> None:
    for outcome in run_processes(3, differ):
        assert (outcome.error, outcome.exit_code) == (None, 0)
        assert "disagree on layout" in outcome.result
        assert "rank 1 has chunks 0-2: float32[6]" in outcome.result


def end_unasked(world: World, how: str) -> str:
    """Rank 1 goes between two exchanges. Who is first to miss it ends the others' first one too."""
    if world.rank == 1:
        take_part(world, ring(3))
        if how == "exit":
            atexit._run_exitfuncs()  # as an interpreter does at its end, a forked process does not
            os._exit(0)
        die("kill")
    try:
        take_part(world, ring(3))
        take_part(world, ring(3))
    except RankLostError as error:
        return str(error)
    return "nothing happened"


@pytest.mark.parametrize(("how", "words"), [("exit", "closed its world"), ("kill", "is gone")])
def test_a_process_that_ends_between_exchanges_is_named(how: str, words: str) -> None:
    for rank, outcome in enumerate(run_processes(3, end_unasked, how, gone=(1,))):
        if rank != 1:
            assert (outcome.error, outcome.exit_code) == (None, 0)
            assert f"rank 1 {words}" in outcome.result
