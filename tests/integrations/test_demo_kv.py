"""``warploom demo kv``: its parts, and all of it on a short text."""

import importlib.util
import json

import pytest
import torch

from warploom.cli import demo, demo_kv, demo_kv_report, main


def found(**changes):
    return {
        "budget": 2**20, "nbytes": 2**19, "peak": 2**20, "perplexity": 11.0, "last": 9.0,
        "divergence": 0.5, "step_ms": 81.25, "slowest_ms": 99.0,
        "widths": [[(16.0, 16.0)] * 2, [(8.0, 2.0)] * 2],
    } | changes  # fmt: skip


SUMMARY = {
    "model": "A model", "text": "a text", "dtype": "float32", "threads": 2, "tokens": 1024,
    "scored_from": 512, "new_tokens": 4,
    "methods": {
        "16 bits": found(budget=None, perplexity=10.0, divergence=0.0),
        "quanto 4": found(peak=2**21, widths=[]),
        "PM-KVQ at 4": found(),
    },
}  # fmt: skip


def test_the_table_says_everything():
    lines = [" ".join(line.split()) for line in demo_kv_report.table(SUMMARY).splitlines()]
    for line in (
        "A model, float32, 2 threads",
        "1024 tokens of a text, scored from 512 on, then 4 generated",
        "16 bits 0.50 MiB 10.0000 9.0000 0.00000 81.2 99.0",
        "at most 1.00 MiB",
        "PM-KVQ at 4 0.50 MiB 11.0000 +10.00% 9.0000 +0.00% 0.50000 81.2 99.0",
        "above the budget at their peak: quanto 4",
    ):
        assert line in lines


def test_the_picture_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    demo_kv_report.plot(tmp_path / "made" / "kv.png", SUMMARY)
    assert (tmp_path / "made" / "kv.png").read_bytes().startswith(b"\x89PNG")


def test_bytes_of_a_cache_are_those_of_its_tensors():
    transformers = pytest.importorskip("transformers", minversion="5")
    from warploom.cli.demo_kv_peers import cache_bytes

    cache = transformers.DynamicCache()
    cache.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    assert cache_bytes(cache) == 2 * 24 * 4


def test_bytes_of_quanto_count_codes_and_grids():
    transformers = pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("optimum.quanto")
    from warploom.cli.demo_kv_peers import cache_bytes, quanto

    config = transformers.LlamaConfig(num_hidden_layers=1)
    assert quanto(config, 8) is None
    cache = quanto(config, 4)()
    rows = torch.randn(1, 2, 128, 64, dtype=torch.bfloat16)
    cache.update(rows, rows, 0)
    codes, groups = rows.numel() // 2, rows.numel() // 64
    assert cache_bytes(cache) == 2 * (codes + groups * 2 * 2)  # a scale and a shift each


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(demo, "_found", lambda module: module != "gguf")
    assert main(["demo", "kv"]) == 1
    assert capsys.readouterr().err.splitlines() == ["the demo needs:", "  pip install gguf"]


needs_everything = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in demo._NEEDED),
    reason="the demo's packages are not installed",
)


@needs_everything
def test_too_few_tokens_are_refused(capsys):
    assert main(["demo", "kv", "--tokens", "600"]) == 2
    assert "--tokens 600: must be at least 1024" in capsys.readouterr().err
    assert main(["demo", "kv", "--new-tokens", "0"]) == 2
    assert "--new-tokens 0: must be at least 1" in capsys.readouterr().err


@needs_everything
def test_the_demo_on_a_short_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_kv, "_WARM", 192)
    monkeypatch.setattr(demo_kv, "_PIECE", 64)
    monkeypatch.setattr(demo_kv, "_CALIBRATION", (1, 192))
    words = ["--tokens", "448", "--new-tokens", "2", "--out", str(tmp_path)]
    assert main(["demo", "kv", *words]) == 0
    methods = json.loads((tmp_path / "kv.json").read_text())["methods"]
    exact = methods["16 bits"]
    assert 1 < exact["perplexity"] < 1000
    for name, entry in methods.items():
        assert 0 < entry["step_ms"] <= entry["slowest_ms"]
        if name.startswith("PM-KVQ"):
            assert entry["peak"] <= entry["budget"]
    assert methods["PM-KVQ at 2"]["divergence"] < 0.2 * methods["uniform 2"]["divergence"]
    assert methods["uniform 8"]["perplexity"] == pytest.approx(exact["perplexity"], rel=5e-3)
    assert (tmp_path / "kv.png").stat().st_size > 0
    assert "divergence" in capsys.readouterr().out
