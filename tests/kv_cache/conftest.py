"""What holds for every test of the cache's format."""

from __future__ import annotations

import pytest
import torch
from kv_targets import EMULATED, TARGETS, running

import warploom.ops  # noqa: F401  registers torch.ops.warploom


def pytest_generate_tests(metafunc):
    """A test that takes ``target`` runs on every CPU target, and on every GPU's in the emulator."""
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", [*TARGETS, *EMULATED], indirect=True)


@pytest.fixture
def target(request):
    with running(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def two_threads():
    """Every test starts with the same numbers and two threads, and leaves two behind."""
    torch.manual_seed(3)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(2)
