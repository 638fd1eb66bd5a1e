"""Who sends what to whom, and when: topologies, schedules of an exchange, proofs and predictions.

Needs no torch. A schedule says only where chunks go; :mod:`warploom.distributed` runs it.
"""

from warploom.collectives.choice import Prediction, predictions, schedule
from warploom.collectives.cost import Cost, Load, Sample, calibrate
from warploom.collectives.schedule import KINDS, Schedule, Transfer, hamiltonian_cycles
from warploom.collectives.topology import Topology
from warploom.collectives.workload import Pass, Workload, head_slices

__all__ = [
    "KINDS",
    "Cost",
    "Load",
    "Pass",
    "Prediction",
    "Sample",
    "Schedule",
    "Topology",
    "Transfer",
    "Workload",
    "calibrate",
    "hamiltonian_cycles",
    "head_slices",
    "predictions",
    "schedule",
]
