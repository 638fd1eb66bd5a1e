"""The same exchanges between processes, over gloo; and what happens when one of them dies."""

from __future__ import annotations

from warploom.distributed import World

from .plain_schedules import every
from .processes import run_processes
from .test_exchange import check_results, take_part


def take_part_in_all(world: World) -> int:
    schedules = every(world.size)
    for schedule in schedules:
        check_results(schedule, take_part(world, schedule))
    return len(schedules)


def test_chunks_arrive_and_sums_come_home() -> None:
    outcomes = run_processes(4, take_part_in_all)
    assert [(o.result, o.error, o.exit_code) for o in outcomes] == [(5, None, 0)] * 4
