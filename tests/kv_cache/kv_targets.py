"""The targets that this machine can run: its CPU's, and the GPU targets that the emulator holds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from warploom import _core
from warploom.kernels import list_kernels
from warploom.testing.emulator import emulator


def _emulated() -> list[str]:
    try:
        _core.emulate(True, 0)
    except NotImplementedError:
        return []
    try:
        return sorted({k.target for k in _of_this_family() if k.device != "cpu" and k.available})
    finally:
        _core.emulate(False, 0)


def _of_this_family():
    return [k for k in list_kernels() if k.name.startswith("kv_")]


TARGETS = sorted({k.target for k in _of_this_family() if k.device == "cpu" and k.available})
EMULATED = _emulated()


def running(target: str, seed: int = 1) -> AbstractContextManager[None]:
    """Where kernels of the target run on CPU tensors: in the emulator if they are a GPU's."""
    return emulator(seed) if target in EMULATED else nullcontext()
