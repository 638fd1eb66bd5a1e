"""What grew from one trace to another, and the commands that simulate and compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warploom import memory
from warploom.cli import main
from warploom.memory import Trace, TraceBuilder, synthetic
from warploom.memory.differences import Amounts

MIB = 1 << 20


def trace_of(*requests: tuple[str, int], freed: str = "", alignment: int = 1) -> Trace:
    """Sites and sizes in the order in which they come; those of one site are freed before the last
    comes."""
    builder = TraceBuilder(alignment=alignment)
    for number, (site, size) in enumerate(requests):
        if number == len(requests) - 1:
            for other in range(number):
                if requests[other][0] == freed:
                    builder.free(other)
        builder.alloc(number, size, site=site, phase=site[:1])
    return builder.finish()


BEFORE = trace_of(("a.py:1 f", 100), ("b.py:2 g", 50), ("b.py:2 g", 50), ("c.py:3 h", 10))
AFTER = trace_of(("a.py:1 f", 130), ("b.py:7 g", 90), ("t", 500), ("d", 20), freed="t")


def test_growth_by_site() -> None:
    # Peaks: 210 of all four; 720 before t goes, then 240.
    difference = memory.diff(BEFORE, AFTER)
    assert difference.peaks == (210, 720)
    assert difference.growth == 510
    rows = {c.name: (c.growth, c.before, c.after) for c in difference.changes}
    none = Amounts(0, 0, 0)
    assert rows == {
        "t": (500, none, Amounts(500, 500, 1)),
        "b.py:7 g": (90, none, Amounts(90, 90, 1)),
        "a.py:1 f": (30, Amounts(100, 100, 1), Amounts(130, 130, 1)),
        "d": (0, none, Amounts(0, 20, 1)),  # comes after the peak
        "c.py:3 h": (-10, Amounts(10, 10, 1), none),
        "b.py:2 g": (-100, Amounts(100, 100, 2), none),
    }
    assert [c.growth for c in difference.changes] == [500, 90, 30, 0, -10, -100]


def test_lines_that_moved() -> None:
    rows = {c.name: c.growth for c in memory.diff(BEFORE, AFTER, lines=False).changes}
    assert rows["b.py g"] == -10
    assert "b.py:7 g" not in rows


def test_growth_by_phase_and_with_alignment() -> None:
    rows = {c.name: c.growth for c in memory.diff(BEFORE, AFTER, by="phase").changes}
    assert rows == {"t": 500, "a": 30, "d": 0, "b": -10, "c": -10}
    padded = memory.diff(trace_of(("x", 1)), trace_of(("x", 1), alignment=512))
    assert padded.growth == padded.changes[0].growth == 511


def test_equal_traces_and_empty_ones() -> None:
    same = memory.diff(BEFORE, BEFORE)
    assert same.growth == 0
    assert all(c.before == c.after for c in same.changes)
    nothing = Trace([], [], [])
    assert memory.diff(nothing, AFTER).growth == 720
    assert memory.diff(AFTER, nothing).growth == -720


def test_limits() -> None:
    difference = memory.diff(BEFORE, AFTER)
    assert difference.exceeds(size=509)
    assert not difference.exceeds(size=510)
    assert difference.exceeds(share=2.42)
    assert not difference.exceeds(share=2.43)
    with pytest.raises(ValueError, match="exactly one must be given"):
        difference.exceeds()
    with pytest.raises(ValueError, match="must be at least 0"):
        difference.exceeds(share=-0.1)
    with pytest.raises(ValueError, match="by is 'size'"):
        memory.diff(BEFORE, AFTER, by="size")  # type: ignore[arg-type]


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    memory.save(BEFORE, before)
    memory.save(AFTER, after)
    words = ["memory", "diff", str(before), str(after)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "peak 210 bytes -> 720 bytes: +510 bytes (+242.86%)" in shown
    assert shown.index("  t\n") < shown.index("b.py:7 g") < shown.index("b.py:2 g")
    assert main([*words, "--limit", "242%"]) == 1
    assert main([*words, "--limit", "243%"]) == 0
    assert main([*words, "--limit", "509"]) == 1
    assert main([*words, "--limit", "1K"]) == 0
    assert main(["memory", "diff", str(after), str(before), "--limit", "0"]) == 0
    capsys.readouterr()
    assert main([*words, "--json", "--without-lines"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["peaks"], document["growth"]) == ([210, 720], 510)
    assert document["changes"][0]["after"] == {"at_peak": 500, "total": 500, "requests": 1}
    assert main(["memory", "diff", str(before), str(before)]) == 0
    assert "nothing changed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--limit", "many"])


def test_the_command_simulates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.trace"
    trace = synthetic.training(4, steps=2)
    memory.save(trace, path)
    words = ["memory", "simulate", str(path), "--time", "1"]
    assert main([*words, "--capacity", "80G"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.endswith("fits")}
    assert tuple(rows) == memory.POLICIES
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    reserved = {row["policy"]: row["reserved_peak"] for row in document["policies"]}
    assert reserved["caching"] == memory.simulate(trace).reserved_peak
    assert reserved["caching+options"] <= reserved["caching"]
    assert reserved["planned"] == -(-trace.peak // (2 * MIB)) * 2 * MIB


def test_the_command_says_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.trace"
    builder = TraceBuilder()
    builder.alloc("a", 3 * MIB)
    builder.alloc("b", 30 * MIB)
    memory.save(builder.finish(), path)
    words = ["memory", "simulate", str(path)]
    assert main([*words, "--policy", "caching", "--capacity", "49M"]) == 1
    assert "out of memory at request 1" in capsys.readouterr().out
    assert main([*words, "--capacity", "20M"]) == 1
    assert "the plan alone is larger than the device" in capsys.readouterr().out
    assert main([*words, "--capacity", "34M"]) == 0  # planned alone fits
    shown = capsys.readouterr().out
    assert shown.count("fits") == 1
    assert shown.count("out of memory at request 1") == 3
    options = ["--policy", "caching+options", "--options", "max_split_size_mb:64"]
    assert main([*words, *options]) == 0
    assert "caching+options with max_split_size_mb:64" in capsys.readouterr().out
    assert main([*words, "--policy", "caching", "--options", "max_split_size_mb:64"]) == 2
    assert "policy caching has none" in capsys.readouterr().err


def test_the_command_takes_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, planned = tmp_path / "some.trace", tmp_path / "some.plan"
    trace = synthetic.training(3, steps=1)
    memory.save(trace, path)
    memory.plan(trace, time_limit=None, work_limit=1000).save(planned)
    words = ["memory", "simulate", str(path), "--policy", "planned", "--plan", str(planned)]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["policies"][0]["in_plan"] == len(trace)
