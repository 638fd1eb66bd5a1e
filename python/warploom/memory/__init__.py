"""Memory planned: who asks for how many bytes and when, and where all of it should live.

A trace (:func:`load`, :func:`record`, :mod:`warploom.memory.synthetic`) is turned into a plan by
:func:`plan`, which knows how far from the smallest it can be at most. Needs no torch but to record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from warploom.memory import synthetic
from warploom.memory.files import load, save
from warploom.memory.planner import plan
from warploom.memory.plans import Arena, Plan, Step
from warploom.memory.trace import Trace, TraceBuilder, concatenated

if TYPE_CHECKING:
    from warploom.memory.recorder import fake_mode, record, recording

__all__ = [
    "Arena",
    "Plan",
    "Step",
    "Trace",
    "TraceBuilder",
    "concatenated",
    "fake_mode",
    "load",
    "plan",
    "record",
    "recording",
    "save",
    "synthetic",
]


def __getattr__(name: str) -> Any:
    """Imports what records, and torch with it, when it is first asked for."""
    if name not in ("fake_mode", "record", "recording"):
        raise AttributeError(f"module 'warploom.memory' has no attribute {name!r}")
    from warploom.memory import recorder

    return getattr(recorder, name)
