"""Which schedule a call runs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from warploom import collectives
from warploom.collectives import Schedule, Topology

if TYPE_CHECKING:
    from warploom.methods.tasp.sharding import Sharding


@lru_cache(maxsize=64)
def full_mesh(ranks: int) -> Topology:
    """Equal links between all ranks; what they carry does not matter to the comparison."""
    return Topology.full_mesh(ranks, gbytes_per_s=50, latency_us=5)


@lru_cache(maxsize=64)
def everybody(ranks: int) -> Schedule:
    """Each rank's data to all others at once."""
    return collectives.schedule(full_mesh(ranks), "direct", parts=1)


@lru_cache(maxsize=64)
def _made(topology: Topology, kind: str) -> Schedule:
    return collectives.schedule(topology, kind)


def choose(sharding: Sharding, schedule: str | Schedule) -> Schedule | None:
    """The schedule of a call; None where there is no other rank."""
    if sharding.topology is None:
        return None
    if isinstance(schedule, str):
        return _made(sharding.topology, "direct" if schedule == "auto" else schedule)
    return schedule
