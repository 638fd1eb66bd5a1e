"""What the tests on this machine's GPU share.

Kernels are listed whether or not they run here, so that without a GPU each test is skipped with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import warploom as wl
from warploom.kernels import Kernel, list_kernels

KIND = "hip" if torch.version.hip else "cuda"
DEVICE = "cuda:0"  # torch's name for both


def kernels(op: str) -> list[Kernel]:
    return [kernel for kernel in list_kernels() if kernel.op == op and kernel.device == KIND]


def _missing() -> str:
    """Why no test can run here; "" where the library must serve the GPU."""
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    reason = kernels("prefill")[0].reason
    if "this build of the library has no" in reason:
        return f"{reason}: make build PRESET={KIND}"
    return ""


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    """Skips where there is no GPU or no library for it; a GPU that the library refuses, as one that
    fails the layout probe, is an error. No test may leave a report behind."""
    if reason := _missing():
        pytest.skip(reason)
    for kernel in kernels("prefill"):
        assert kernel.available, f"{kernel.name}: {kernel.reason}"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    yield
    wl.check()
