"""Rows as text, files and pictures."""

import json

import pytest

from warploom.perf import plots, report


def spread(median):
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def row(case="forward", threads=1, value=2.2, met=True, name="a-cpu-2-cores", **changes):
    machine = {
        "name": name, "cpu": "A CPU", "cores": 2, "memory_gib": 24.0, "torch": "2.13.0",
        "python": "3.11.2", "date": "2026-01-02T03:04:05+00:00", "commit": "abc", "load": 0.5,
    }  # fmt: skip
    made = {
        "schema": 1, "family": "attention", "case": case, "text": "b1 s4096", "device": "cpu",
        "threads": threads, "quick": False, "rounds": 5, "seconds": spread(0.25),
        "unit": "GFLOP/s", "rate": 200.0, "refused": {"FlexAttention": "no compiler"},
        "others": {
            "torch SDPA": {"role": "peer", "rate": 90.0, "ratio": spread(value)},
            "torch GEMM": {"role": "ceiling", "rate": 210.0, "ratio": spread(0.95)},
            "full": {"role": "reference", "rate": 200.0, "ratio": spread(1.0)},
        },
        "goals": [{"goal": "at least 2.1x", "kind": "ratio", "value": value, "met": met}],
        "machine": machine,
    }  # fmt: skip
    return {**made, **changes}


def ceilings(threads=1):
    rates = {"read bandwidth": {"unit": "GB/s", "rate": spread(30.0)}}
    kept = ("schema", "family", "device", "threads", "quick", "machine")
    made = {key: value for key, value in row(threads=threads).items() if key in kept}
    return {**made, "case": "ceilings", "ceilings": rates, "refused": {"peak": "no"}}


def test_case_lines_say_everything():
    text = "\n".join(report.case_lines(row(threads=2)))
    for words in (
        "forward, 2 threads: b1 s4096",
        "250 ms [225 ms .. 275 ms], 200 GFLOP/s, 5 rounds",
        "2.20x as fast as torch SDPA [1.98 .. 2.42]",
        "95% of torch GEMM [86% .. 104%]",
        "1.00x the rate of full [0.90 .. 1.10]",
        "FlexAttention cannot run: no compiler",
        "goal: at least 2.1x: 2.20x met",
    ):
        assert words in text
    assert "1.00x NOT met" in "\n".join(report.case_lines(row(value=1.0, met=False)))
    unjudged = {"goal": "at least 1x", "kind": "ratio", "value": None, "met": None}
    assert "not judged" in "\n".join(report.case_lines(row(goals=[unjudged])))


def test_ceiling_lines():
    lines = report.ceiling_lines(ceilings())
    assert lines[0] == "ceilings, 1 thread"
    assert lines[1].split() == ["read", "bandwidth", "30.0", "GB/s", "[27.0", "..", "33.0]"]
    assert lines[2].endswith("cannot run: no")


def test_records_add_up_and_replace(tmp_path):
    report.record(tmp_path, [ceilings(), row("forward"), row("decode")])
    written = report.record(tmp_path, [row("forward", value=3.0), row("forward", threads=2)])
    results, page = written
    assert results == tmp_path / "results" / "a-cpu-2-cores.jsonl"
    kept = report.read_json_lines(results)
    assert [(r["case"], r["threads"]) for r in kept] == [
        ("ceilings", 1), ("forward", 1), ("decode", 1), ("forward", 2),
    ]  # fmt: skip
    assert kept[1]["goals"][0]["value"] == 3.0
    text = page.read_text()
    assert "## a-cpu-2-cores" in text
    assert "3 of 3 goals met" in text
    assert "| `decode`<br>b1 s4096 | 1 | 250 ms |" in text
    assert "30.0 GB/s" in text
    assert "load before measuring 0.5 to 0.5" in text


def test_machines_keep_apart(tmp_path):
    report.record(tmp_path, [row(), row(name="other", met=False)])
    text = (tmp_path / "README.md").read_text()
    assert text.index("## a-cpu-2-cores") < text.index("1 of 1 goals met")
    assert text.index("## other") < text.index("NOT met") < text.index("0 of 1 goals met")


def test_quick_rows_are_not_recorded(tmp_path):
    with pytest.raises(ValueError, match="quick"):
        report.record(tmp_path, [row(quick=True)])
    assert list(tmp_path.iterdir()) == []


def test_json_lines_hold_no_nan(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    report.write_json_lines(path, [row(), row("decode")])
    assert [json.loads(line)["case"] for line in path.read_text().splitlines()] == [
        "forward", "decode",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_json_lines(path, [row(value=float("nan"))])


def test_a_picture_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    plots.save(tmp_path / "made" / "rows.png", [ceilings(), row(), row("decode", 2)], "title")
    assert (tmp_path / "made" / "rows.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to plot"):
        plots.save(tmp_path / "none.png", [ceilings()], "title")
