"""Which schedule a call runs."""

from __future__ import annotations

from functools import lru_cache

from warploom import collectives
from warploom.collectives import Schedule, Topology, Workload


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
def best_schedule(topology: Topology, workload: Workload) -> Schedule:
    """The schedule with the smallest predicted time; chosen once."""
    return collectives.schedule(topology, "auto", workload=workload)
