"""``warploom demo ring``: its table, and all of it on a short text."""

import importlib.util
import json

import pytest
import torch

from warploom.cli import demo, demo_ring, main
from warploom.testing.compare import PEER_ULPS

COLUMN = {
    "perplexity": 12.3456, "next_token_agreement": 0.75, "largest_logit_difference": 2e-5,
    "largest_logit": 30.0, "seconds": 1.5,
}  # fmt: skip
SUMMARY = {
    "model": "A model", "text": "a text", "dtype": "float32", "tokens": 9, "ranks": 2,
    "tokens_of_a_rank": [5, 4], "columns": {"one process": COLUMN, "ring": COLUMN},
}  # fmt: skip


def test_the_table_says_everything():
    lines = [" ".join(line.split()) for line in demo_ring.table(SUMMARY).splitlines()]
    for line in (
        "A model, float32",
        "9 tokens of a text",
        "2 processes, of which each holds 4 to 5 tokens",
        "one process ring",
        "perplexity 12.3456 12.3456",
        "same likeliest next token 75.00% 75.00%",
        "largest difference of a logit 2.0e-05 2.0e-05",
        "seconds 1.50 1.50",
    ):
        assert line in lines


@pytest.mark.parametrize("ranks", [1, 10])
def test_a_number_of_processes_that_cannot_be_is_refused(ranks):
    with pytest.raises(ValueError, match=f"--ranks {ranks}: must be 2 to 9"):
        demo_ring.run(tokens=64, ranks=ranks, dtype="float32", out=None)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in demo._NEEDED),
    reason="the demo's packages are not installed",
)
def test_the_demo_on_a_short_text(tmp_path, capsys):
    words = ["--tokens", "67", "--ranks", "3", "--out", str(tmp_path)]
    assert main(["demo", "ring", *words]) == 0
    summary = json.loads((tmp_path / "ring.json").read_text())
    assert summary["tokens_of_a_rank"] == [23, 22, 22]
    alone = summary["columns"].pop("one process")
    assert 1 < alone["perplexity"] < 1000
    allowed = PEER_ULPS[torch.float32] * torch.finfo(torch.float32).eps * alone["largest_logit"]
    for column in summary["columns"].values():
        assert column["next_token_agreement"] == 1
        assert column["largest_logit_difference"] <= allowed
    assert "perplexity" in capsys.readouterr().out
