"""Who sends what to whom, and when: topologies, schedules of an exchange, proofs and predictions.

Needs no torch. A schedule says only where chunks go; :mod:`warploom.distributed` runs it.
"""

from warploom.collectives.schedule import (
    KINDS,
    Schedule,
    Transfer,
    hamiltonian_cycles,
    schedule,
)
from warploom.collectives.topology import Topology

__all__ = ["KINDS", "Schedule", "Topology", "Transfer", "hamiltonian_cycles", "schedule"]
