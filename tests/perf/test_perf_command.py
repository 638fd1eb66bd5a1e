"""``warploom perf`` from end to end, on tiny shapes; no time is looked at."""

import json

import pytest

pytest.importorskip("torch")

import torch

from warploom.cli import main, perf
from warploom.perf import attention, collectives, kv_cache
from warploom.perf.case import Figure
from warploom.perf.measure import judge_figure

NAMES = [case.name for case in attention.cases("cpu")]


def test_names_are_unique_and_patterns_select(capsys):
    assert len(set(NAMES)) == len(NAMES)
    chosen = perf.select(attention.cases("cpu"), ["decode_*", "forward_bf16"])
    assert [case.name for case in chosen][:2] == ["forward_bf16", "decode_bf16"]
    with pytest.raises(ValueError, match="--cases nothing fits no case: there are forward_bf16"):
        perf.select(attention.cases("cpu"), ["nothing"])
    assert main(["perf", "attention", "--cases", "nosuch*"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warploom perf: --cases nosuch* fits no case: there are forward_bf16")
    assert main(["perf", "attention", "--list", "--cases", "window*"]) == 0
    assert capsys.readouterr().out.split()[0] == "window_bf16"


def test_a_quick_run_of_everything(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows_path, picture = tmp_path / "rows.jsonl", tmp_path / "rows.png"
    threads = torch.get_num_threads()
    words = ["perf", "attention", "--quick", "--threads", "1", "--budget", "1"]
    assert main([*words, "--json", str(rows_path), "--plot", str(picture)]) == 0
    assert torch.get_num_threads() == threads
    rows = [json.loads(line) for line in rows_path.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["ceilings", *NAMES]
    for row in rows:
        assert row["machine"]["cores"] >= 1
        assert row["quick"] is True
        for other in row.get("others", {}).values():
            assert other["ratio"]["median"] > 0
    assert picture.stat().st_size > 0
    shown = capsys.readouterr().out
    assert shown.index("ceilings, 1 thread") < shown.index("forward_bf16")


def test_a_quick_run_of_plans(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    words = ["perf", "memory", "--quick", "--cases", "hard_100,million_training"]
    assert main([*words, "--json", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["hard_100", "million_training"]
    for row in rows:
        figures = {figure["name"]: figure["value"] for figure in row["figures"]}
        assert figures["plan size over maximum load"] == 1
        assert row["goals"] == []
    assert "plan size over maximum load 1\n" in capsys.readouterr().out


def test_a_figure_is_judged_by_its_bound():
    good = judge_figure(Figure("peak memory", 1.5, "GB", at_most=2.0))
    assert good == {
        "goal": "peak memory at most 2 GB", "kind": "figure", "value": 1.5, "met": True
    }  # fmt: skip
    assert judge_figure(Figure("size", 3.0, at_most=2.0))["met"] is False


def test_a_quick_run_of_the_quantized_cache(tmp_path, capsys):
    """Every kind of case; peers that are not installed are noted."""
    kinds = ["decode_16_8k", "decode_4_fast_8k", "decode_2_fast_channels", "decode_8_exact_short"]
    kinds += ["shrink_8_4", "step_4_8k", "ggml_q8_0_8k"]
    words = ["perf", "kv_cache", "--quick", "--threads", "1", "--budget", "1"]
    words += ["--cases", ",".join(kinds), "--json", str(tmp_path / "rows.jsonl")]
    assert main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["case"] for row in rows if row["case"] != "ceilings") == sorted(kinds)
    assert all(row["rate"] > 0 for row in rows if row["case"] != "ceilings")
    assert set(kinds) <= {case.name for case in kv_cache.cases("cpu")}


def test_a_quick_run_of_processes(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    words = ["perf", "collectives", "--quick", "--cases", "attention_direct_4"]
    assert main([*words, "--json", str(path)]) == 0
    (row,) = (json.loads(line) for line in path.read_text().splitlines())
    assert (row["threads"], row["case"]) == (1, "attention_direct_4")
    assert row["others"]["plain ring"]["ratio"]["median"] > 0
    with pytest.raises(ValueError, match="device is cuda"):
        collectives.cases("cuda")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quick", "--record"], "tiny shapes are not recorded"),
        (["--device", "cuda"], "torch finds no GPU"),
        (["--device", "xpu"], "--device xpu: must be cpu, cuda or cuda:<number>"),
        (["--device", "cuda:one"], "--device cuda:one: must be cpu, cuda or cuda:<number>"),
        (["--cases", "nothing"], "--cases nothing fits no case: there are forward_bf16"),
    ],
)
def test_what_cannot_be_done_is_said(words, said, capsys):
    if words[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["perf", "attention", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--threads", "0"], ["--threads", "two"], ["nothing"]])
def test_bad_words_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(["perf", "attention", *words] if words != ["nothing"] else ["perf", *words])
    assert "usage" in capsys.readouterr().err
