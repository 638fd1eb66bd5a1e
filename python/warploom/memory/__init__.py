"""Memory planned: who asks for how many bytes and when, and where all of it should live.

A trace (:func:`load`, :func:`record`, :mod:`warploom.memory.synthetic`) is turned into a plan by
:func:`plan`, which knows how far from the smallest it can be at most. :func:`simulate` tells what
PyTorch's caching allocator would take for it, :func:`diff` what grew from one trace to another.
Needs no torch but to record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from warploom.memory import synthetic
from warploom.memory.allocator_options import AllocatorOptions
from warploom.memory.differences import Difference, diff
from warploom.memory.files import load, save
from warploom.memory.planner import plan
from warploom.memory.plans import Arena, Plan, Step
from warploom.memory.simulator import POLICIES, Moment, Policy, Simulation, best_options, simulate
from warploom.memory.snapshot_check import Agreement, check_snapshot
from warploom.memory.trace import Trace, TraceBuilder, concatenated

if TYPE_CHECKING:
    from warploom.memory.recorder import fake_mode, record, recording

__all__ = [
    "POLICIES",
    "Agreement",
    "AllocatorOptions",
    "Arena",
    "Difference",
    "Moment",
    "Plan",
    "Policy",
    "Simulation",
    "Step",
    "Trace",
    "TraceBuilder",
    "best_options",
    "check_snapshot",
    "concatenated",
    "diff",
    "fake_mode",
    "load",
    "plan",
    "record",
    "recording",
    "save",
    "simulate",
    "synthetic",
]


def __getattr__(name: str) -> Any:
    """Imports what records, and torch with it, when it is first asked for."""
    if name not in ("fake_mode", "record", "recording"):
        raise AttributeError(f"module 'warploom.memory' has no attribute {name!r}")
    from warploom.memory import recorder

    return getattr(recorder, name)
