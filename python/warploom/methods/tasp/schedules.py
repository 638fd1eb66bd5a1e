"""Which schedule a call runs."""

from __future__ import annotations

from functools import lru_cache

from warploom import collectives
from warploom.collectives import Schedule, Topology, Workload
from warploom.distributed import World


def links_of(world: World) -> Topology:
    """The links of a world of several ranks that nobody described."""
    if world.one_machine and world.device.type == "cpu":
        return one_memory(world.size)
    return full_mesh(world.size)


@lru_cache(maxsize=64)
def one_memory(ranks: int) -> Topology:
    """Processes that share a machine's memory: there messages cost more than their bytes do.

    GB/s of all together, the latency of a step and the time of a message, about as gloo has them.
    """
    return Topology.bus(ranks, gbytes_per_s=10, latency_us=100, overhead_us=150)


@lru_cache(maxsize=64)
def full_mesh(ranks: int) -> Topology:
    """Equal links between all ranks; what they carry does not matter to the comparison."""
    return Topology.full_mesh(ranks, gbytes_per_s=50, latency_us=5)


@lru_cache(maxsize=64)
def everybody(ranks: int) -> Schedule:
    """Each rank's data to all others at once."""
    return collectives.schedule(full_mesh(ranks), "direct", parts=1)


@lru_cache(maxsize=64)
def known_schedule(topology: Topology, kind: str) -> Schedule:
    """The schedule of a kind; made once."""
    return collectives.schedule(topology, kind)


@lru_cache(maxsize=64)
def proven(schedule: Schedule) -> Schedule:
    """The schedule itself, verified once: what it gets wrong would end the group.

    Raises:
        ValueError: the first step at fault.
    """
    schedule.verify()
    return schedule


@lru_cache(maxsize=64)
def best_schedule(topology: Topology, workload: Workload) -> Schedule:
    """The one that "auto" takes; chosen once."""
    return collectives.schedule(topology, "auto", workload=workload)
