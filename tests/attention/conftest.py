"""Kernels as test parameters: every one that this machine runs, forced by name."""

from __future__ import annotations

import pytest
import torch

from warploom import _core
from warploom.kernels import Kernel, list_kernels


def runnable(op: str, device: str = "cpu") -> list[Kernel]:
    return [k for k in list_kernels() if k.op == op and k.device == device and k.available]


def emulated(op: str) -> list[Kernel]:
    """The GPU kernels that the emulator holds; none where it was not built."""
    try:
        _core.emulate(True, 0)
    except NotImplementedError:
        return []
    try:
        return [k for k in list_kernels() if k.op == op and k.device != "cpu" and k.available]
    finally:
        _core.emulate(False, 0)


@pytest.fixture(autouse=True)
def two_threads():
    """Every test starts with two threads and leaves no other number behind."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(2)
