"""What holds for every test of attention."""

from __future__ import annotations

import pytest
import torch

import warploom.ops  # noqa: F401  registers torch.ops.warploom


@pytest.fixture(autouse=True)
def two_threads():
    """Every test starts with two threads and leaves no other number behind."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(2)
