"""Ranks that exchange tensors by a schedule, on torch.distributed or simulated."""

from __future__ import annotations

from warploom.distributed.agreement import RanksDisagreeError
from warploom.distributed.exchange import Arrival, Exchange
from warploom.distributed.failure import RankLostError, RankStalledError
from warploom.distributed.layout import ChunkPool, Layout, Spec
from warploom.distributed.simulated import Fault, SimulatedWorld, run_outcomes, run_ranks
from warploom.distributed.torch_world import TorchWorld
from warploom.distributed.world import World

__all__ = [
    "Arrival",
    "ChunkPool",
    "Exchange",
    "Fault",
    "Layout",
    "RankLostError",
    "RankStalledError",
    "RanksDisagreeError",
    "SimulatedWorld",
    "Spec",
    "TorchWorld",
    "World",
    "run_outcomes",
    "run_ranks",
]
