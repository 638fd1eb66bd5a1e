"""torch.profiler's files: made ones, broken ones, and a real one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from warploom import memory
from warploom.memory.lifetimes import Lifetimes
from warploom.memory.profiles import read_profile


def change(ts: float, address: int, size: int, kind: int = 0, number: int = -1) -> dict[str, Any]:
    arguments = {"Addr": address, "Bytes": size, "Device Type": kind, "Device Id": number}
    return {"ph": "i", "name": "[memory]", "pid": 1, "tid": 1, "ts": ts, "args": arguments}


def span(category: str, name: str, ts: float, dur: float, tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur}


def write(path: Path, events: list[Any]) -> Path:
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    return path


EVENTS = [
    span("user_annotation", "step 0", 0, 100),
    span("cpu_op", "aten::linear", 10, 20),
    span("cpu_op", "aten::addmm", 12, 5),
    span("cpu_op", "aten::other", 0, 90, tid=2),
    change(45, 64, -4096),  # not in the order of time
    change(13, 64, 4096),
    change(20, 128, 100),
    change(200, 999, -7),
]


@pytest.mark.parametrize("compressed", [False, True])
def test_requests_of_a_profile(tmp_path: Path, compressed: bool) -> None:
    path = write(tmp_path / "profile.json", EVENTS)
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    trace = memory.load(path)
    # 999 was there before: it is first, and all others are a tick later.
    assert trace.size.tolist() == [7, 4096, 100]
    assert trace.alloc.tolist() == [0, 1, 2]
    assert trace.free.tolist() == [4, 3, 5]
    assert [trace.sites[s] for s in trace.site] == ["", "aten::addmm", "aten::linear"]
    assert [trace.phases[p] for p in trace.phase] == ["before", "step 0", "step 0"]
    assert trace.notes["device"] == "cpu"


def test_one_of_several_devices_is_chosen_by_name(tmp_path: Path) -> None:
    events = [change(0, 1, 10), change(1, 1, 20, 1, 0), change(2, 1, 30, 1, 3)]
    path = write(tmp_path / "a.json", events)
    with pytest.raises(ValueError, match="device is None: must be one of cpu, cuda:0, cuda:3"):
        memory.load(path)
    assert memory.load(path, device="cuda:3").size.tolist() == [30]


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([], "must be profiled with profile_memory=True"),
        ([change(0, 1, 10), change(1, 1, 10)], "event 1: address 0x1 is allocated: it was held"),
        ([change(0, 1, 10), change(1, 1, -10), change(2, 1, -10)], "is freed twice"),
        ([change(0, 1, 10), change(1, 1, -9)], "9 bytes are freed at 0x1: 10 were allocated"),
        ([{**change(0, 1, 10), "args": 3}], r"traceEvents\[0\]: has no args"),
        ([{**change(0, 1, 10), "ts": "now"}], "ts is 'now': must be a number"),
        ([change(0, 1, "many")], "Bytes is 'many': must be a whole number"),  # type: ignore[arg-type]
        ([change(0, 1, 1 << 70)], "Bytes is '1180591620717411303424'"),
    ],
)
def test_profiles_that_cannot_be(tmp_path: Path, events: list[Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        read_profile(write(tmp_path / "a.json", events))


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", EVENTS)
    whole = path.read_bytes()
    for length in range(1, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is no JSON, or cut off"):
            read_profile(path)
    packed = gzip.compress(whole)
    for length in range(3, len(packed), 11):
        path.write_bytes(packed[:length])
        with pytest.raises(ValueError, match="cut off"):
            read_profile(path)
    for content in ("{}", "[]", '{"traceEvents": 3}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="is no profile"):
            read_profile(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no JSON"):
        read_profile(path)


def test_a_real_profile_is_read_whole(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
        torch.profiler.record_function("a step"),
    ):
        model(torch.ones(32, 64)).sum().backward()
    path = tmp_path / "real.json"
    profile.export_chrome_trace(str(path))
    trace = memory.load(path)
    sizes = trace.size.tolist()
    # The input, the first layer's output and that of its ReLU; the gradient of the first weight.
    assert sizes.count(32 * 64 * 4) >= 1
    assert sizes.count(32 * 96 * 4) >= 2
    assert 64 * 96 * 4 in sizes
    assert "aten::addmm" in trace.sites
    assert "a step" in trace.phases
    assert memory.simulate(trace).fits


def test_sizes_beyond_64_bits_are_told() -> None:
    requests = Lifetimes("some file")
    requests.alloc(0, 1, 1 << 70)
    with pytest.raises(ValueError, match="some file: a size is no number of 64 bits"):
        requests.trace(1, {})
