"""Every generated schedule carries its chunks and brings every sum home, on 1 to 8 ranks."""

from __future__ import annotations

import pytest

from warploom import collectives as co
from warploom.distributed import run_ranks

from .test_exchange import check_results, name, take_part


def schedules() -> list[co.Schedule]:
    """All kinds that a world of some size has."""
    found = []
    for ranks in range(2, 9):
        mesh = co.Topology.full_mesh(ranks, gbytes_per_s=64, latency_us=3)
        found += [co.schedule(mesh, kind) for kind in co.KINDS if kind not in NODES]
        for nodes in range(2, ranks):
            if ranks % nodes == 0:
                tiers = co.Topology.nodes(nodes, ranks // nodes, 400, 50)
                found.append(co.schedule(tiers, "hierarchical"))
                found.append(co.schedule(mesh, "hybrid", group=nodes))
    return found


NODES = ("hierarchical", "hybrid")


@pytest.mark.filterwarnings("ignore:.*Hamiltonian")
@pytest.mark.parametrize("schedule", schedules(), ids=name)
def test_chunks_arrive_and_sums_come_home(schedule: co.Schedule) -> None:
    schedule.verify()
    for results in run_ranks(
        schedule.ranks,
        lambda world: take_part(world, schedule),
        delay=0.002,
        seed=schedule.ranks,
        limit=60,
    ):
        check_results(schedule, results)
