"""Kernels as test parameters, forced by name.

A kernel of this kind of processor that this one lacks a feature for is a skipped test, which names
the target and the feature. One that is not there for another reason, as a library that was not
built, runs and fails.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

import pytest
from attention_cases import in_dtype

from warploom import _core
from warploom.kernels import Kernel, list_kernels

ARM = platform.machine() in ("aarch64", "arm64")


def cpu_kernels(op: str) -> list[Kernel]:
    """Every kernel for this kind of processor, whether or not this one runs it."""
    kernels = [k for k in list_kernels() if k.op == op and k.device == "cpu"]
    return [k for k in kernels if (k.target == "cpu_aarch64") == ARM]


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


def marks(kernel: Kernel) -> list[pytest.MarkDecorator]:
    if kernel.available or "this processor lacks" not in kernel.reason:
        return []
    return [pytest.mark.skip(reason=f"{kernel.target}: {kernel.reason}")]


def names(kernels: Iterable[Kernel]):
    return [pytest.param(k, id=k.name, marks=marks(k)) for k in kernels]


def each(kernels: Iterable[Kernel], cases):
    """(name, case) for every kernel, in its precision, and every case that fits it."""
    return [
        pytest.param(k.name, case, id=f"{k.name}-{case}", marks=marks(k))
        for k in kernels
        for case in in_dtype(cases, k.dtype)
        if max(case.d, case.value_dim) <= k.max_head_dim
    ]
