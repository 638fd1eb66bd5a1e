"""Runs GPU kernels on CPU tensors, in the checking emulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from warploom import _core
from warploom.ops._execution import emulation


@contextmanager
def emulator(seed: int = 0) -> Iterator[None]:
    """While active, ops of this thread that name a GPU kernel (``kernel=...``) run it emulated.

    They take CPU tensors. The emulator finds races, missing barriers, reads of memory that nothing
    wrote and accesses out of bounds; they raise DeviceError. Calls that name no kernel, or a CPU
    one, run as always.

    Args:
        seed: orders the threads of a block; every seed must give the same result.

    Raises:
        NotImplementedError: the emulator's library is not there.
    """
    if emulation.active:
        raise RuntimeError("emulator() is active already: it does not nest")
    _core.emulate(True, seed)
    emulation.active = True
    try:
        yield
    finally:
        emulation.active = False
        _core.emulate(False, 0)
