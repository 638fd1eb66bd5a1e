"""The CPU targets that this machine can run."""

from __future__ import annotations

from warploom.kernels import list_kernels

TARGETS = sorted({k.target for k in list_kernels() if k.device == "cpu" and k.available})
