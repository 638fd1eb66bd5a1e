"""The ops on pages as torch sees them, and what the cache's page of documentation prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import warploom as wl
from warploom.ops.kv_writers import pages_parts
from warploom.testing.pages import make_pages

ROOT = Path(__file__).parents[2]
HEADS, SIZE, D = 2, 16, 32


def pages_of(width: int) -> wl.KVPages:
    k, v = (torch.randn(3, SIZE, HEADS, D) for _ in range(2))
    return make_pages(k, v, torch.full((3, HEADS, 2), width))


CALLS = {
    "kv_append": (16, (torch.randn(2, HEADS, D), torch.randn(2, HEADS, D), torch.tensor([0, 20]))),
    "kv_quantize_pages": (16, (torch.tensor([0, 3]).int(), torch.tensor([8, 2]).int())),
    "kv_shrink_pages": (8, (torch.tensor([0, 3]).int(), torch.tensor([4, 2]).int())),
    "kv_gather": (4, (torch.tensor([0, 20]), torch.float32)),
    "kv_rotate": (4, (torch.tensor([1]).int(), torch.tensor(3.0).double(), torch.ones(4), False)),
}


@pytest.mark.parametrize("name", CALLS)
def test_torch_knows_what_an_op_writes_and_makes(name):
    width, arguments = CALLS[name]
    op = getattr(torch.ops.warploom, name).default
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, (*pages_parts(pages_of(width)), *arguments), test_utils=tests)


def test_gradients_are_refused():
    pages = pages_of(16)
    x = torch.randn(1, HEADS, D, requires_grad=True)
    with pytest.raises(ValueError, match="k requires grad: kv_append has no gradient"):
        wl.kv_append(pages, x, x, torch.tensor([0]))


def test_the_example_runs_as_printed(capsys):
    page = (ROOT / "docs/kv_cache.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["o"].shape == (2, 1, 9, 64)
    assert "max_bytes" in capsys.readouterr().out
