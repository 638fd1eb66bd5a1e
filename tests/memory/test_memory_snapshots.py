"""Snapshots of torch.cuda's memory: what is read, and that nothing in a pickle is ever called."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from warploom import memory
from warploom.cli import main
from warploom.memory.simulator import FREE_REQUESTED
from warploom.memory.snapshots import read_snapshot

MIB = 1 << 20
TORCH = {
    "filename": "/lib/python3/site-packages/torch/nn/functional.py",
    "line": 9,
    "name": "linear",
}
MODEL = {"filename": "project/model.py", "line": 12, "name": "forward"}
NATIVE = {"filename": "??", "line": 0, "name": "torch::unwind()"}


def entry(action: str, addr: int, size: int, stream: int = 0, **more: Any) -> dict[str, Any]:
    return {"action": action, "addr": addr, "size": size, "stream": stream, "frames": [], **more}


def free(addr: int, size: int) -> list[dict[str, Any]]:
    return [entry("free_requested", addr, size), entry("free_completed", addr, size)]


def write(path: Path, *histories: list[Any], segments: Any = ()) -> Path:
    """As ``torch.cuda.memory._dump_snapshot`` does."""
    content = {"segments": list(segments), "device_traces": list(histories)}
    path.write_bytes(pickle.dumps(content))
    return path


HISTORY = [
    entry("segment_alloc", 0x100, 20 * MIB),
    entry("alloc", 0x100, 5 * MIB, frames=[NATIVE, TORCH, MODEL], user_metadata="forward"),
    entry("alloc", 0x900, 3 * MIB, 77, pool_id=(0, 4)),
    *free(0x100, 5 * MIB),
    entry("alloc", 0x100, 2 * MIB),
    entry("snapshot", 0, 0),
]


def test_requests_of_a_history(tmp_path: Path) -> None:
    trace = memory.load(write(tmp_path / "a.pickle", [], HISTORY))
    assert trace.size.tolist() == [5 * MIB, 3 * MIB, 2 * MIB]
    assert trace.alloc.tolist() == [1, 2, 5]
    assert trace.free.tolist() == [4, 7, 7]
    assert trace.stream.tolist() == [0, 1, 0]
    assert trace.pool.tolist() == [0, 1, 0]
    assert trace.sites[trace.site[0]] == "project/model.py:12 forward"
    assert [trace.phases[p] for p in trace.phase] == ["forward", "", ""]
    assert trace.alignment == 512
    assert trace.notes["device"] == "cuda:1"
    assert (trace.notes["streams"], trace.notes[FREE_REQUESTED]) == ([0, 77], [])


def test_a_block_is_free_when_all_streams_have_passed(tmp_path: Path) -> None:
    history = [
        entry("alloc", 0x100, 512),
        entry("free_requested", 0x100, 512),
        entry("alloc", 0x300, 512),
        entry("free_completed", 0x100, 512),
        entry("alloc", 0x100, 512),
    ]
    trace = read_snapshot(write(tmp_path / "a.pickle", history))
    assert trace.free.tolist() == [3, 5, 5]
    assert trace.notes[FREE_REQUESTED] == [[0, 1]]
    path = tmp_path / "ours"
    memory.save(trace, path)
    kept = memory.load(path)
    result = memory.simulate(kept, log=True)
    assert result.allocated_peak == 1024
    # 0 alloc, 1 let go, 2 alloc elsewhere, 3 idle, 4 the same address again.
    first, second, third = (e["address"] for e in result.log if e["action"] == 0)
    assert first == third != second


def test_what_was_held_before_the_history_begins_with_it(tmp_path: Path) -> None:
    # 0x900 is only freed; 0x500 is in the segments alone; 0x100 is in both.
    history = [entry("alloc", 0x100, 512), *free(0x900, 2048)]
    blocks = [
        {"address": 0x100, "size": 512, "requested_size": 512, "state": "active_allocated"},
        {"address": 0x300, "size": 512, "requested_size": 0, "state": "inactive"},
        {"address": 0x500, "size": 1024, "requested_size": 700, "state": "active_awaiting_free"},
    ]
    segment = {"device": 0, "address": 0x100, "total_size": 2048, "stream": 3, "blocks": blocks}
    other = {**segment, "device": 1}
    trace = read_snapshot(write(tmp_path / "a.pickle", history, segments=[segment, other]))
    assert trace.size.tolist() == [2048, 700, 512]
    assert trace.alloc.tolist() == [0, 1, 2]
    assert trace.free.tolist() == [4, 5, 5]
    assert [trace.phases[p] for p in trace.phase] == ["before", "before", ""]
    assert (trace.notes["before"], trace.stream.tolist()) == (2, [0, 1, 0])


def test_one_of_several_devices_is_chosen_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pickle", HISTORY, [], [entry("alloc", 0x100, 1)])
    with pytest.raises(ValueError, match="device is None: must be one of cuda:0, cuda:2"):
        memory.load(path)
    with pytest.raises(ValueError, match="device is 'cuda:1': must be one of"):
        memory.load(path, device="cuda:1")
    assert len(memory.load(path, device="cuda:2")) == 1
    assert len(read_snapshot(path, device=0)) == 3


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", ["system", "eval", "mkdir"])
def test_a_pickle_that_calls_is_refused_and_nothing_is_executed(
    tmp_path: Path, function: str, protocol: int
) -> None:
    mark = tmp_path / "executed"
    hostile = {
        "system": Hostile(os.system, f"touch {mark}"),
        "eval": Hostile(eval, f"open({str(mark)!r}, 'w')"),
        "mkdir": Hostile(os.mkdir, str(mark)),
    }[function]
    content = {"segments": [], "device_traces": [HISTORY], "more": hostile}
    path = tmp_path / "hostile.pickle"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"the pickle is refused: it names \w+\.\w+"):
        read_snapshot(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the control: the file would have done it
    assert mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x82\x01.",  # a class by its number in copyreg's registry
        b"\x80\x04\x8c\x01aQ.",  # what the reader is to fetch by a name
        b"\x80\x04(ibuiltins\ndict\n.",  # an instance
        b"\x80\x04}}b.",  # a state for something
        b"\x80\x05\x97.",  # a buffer from outside
        b"\x80\x63.",  # a protocol that is none
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 2^63 bytes that are not there
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x00.",
        b"\x80\x04h\x05.",  # what was never stored
        b"\x80\x04.",
    ],
)
def test_programs_that_are_no_data_are_refused(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "hostile.pickle"
    path.write_bytes(program)
    with pytest.raises(ValueError, match=r"hostile\.pickle: "):
        read_snapshot(path)


def test_every_truncation_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pickle", HISTORY)
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pickle: "):
            read_snapshot(path)


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pickle", HISTORY)
    whole = path.read_bytes()
    generator = random.Random(1)
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            memory.simulate(read_snapshot(path))
        except ValueError:
            refused += 1
    assert 100 < refused < 600


@pytest.mark.parametrize("content", [[], {}, {"device_traces": 3}, {"device_traces": [3]}, 7, None])
def test_other_pickles_are_no_snapshots(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"is no snapshot of torch\.cuda's memory"):
        read_snapshot(path)


def test_a_snapshot_without_history_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="_record_memory_history"):
        read_snapshot(write(tmp_path / "a.pickle", [], []))


@pytest.mark.parametrize(
    ("history", "error"),
    [
        ([entry("alloc", 1, -5)], r"event 0: size is -5: must be a number, at least 0"),
        ([entry("alloc", 1, 1 << 64)], "size is 18446744073709551616"),
        ([{**entry("alloc", 1, 1), "addr": "0x1"}], "addr is a str"),
        ([{"action": "alloc", "size": 1, "stream": 0}], "addr is None"),
        ([{**entry("alloc", 1, 1), "size": True}], "size is True"),
        ([7], "event 0: is no entry of a history"),
        ([entry("explode", 1, 1)], "action is 'explode', which is none of torch's"),
        ([entry("alloc", 1, 1, pool_id="x")], "pool_id is no pair"),
        ([entry("alloc", 16, 1), entry("alloc", 16, 1)], "event 1: address 0x10 is allocated: it"),
        ([entry("alloc", 16, 1), *free(16, 1), *free(16, 1)], "freed twice: it was at event 2"),
        ([entry("alloc", 16, 1), *free(16, 1)[:1] * 2], "freed twice: it was at event 1"),
        ([entry("alloc", 16, 1), *free(16, 9)], "9 bytes are freed at 0x10: 1 were allocated"),
    ],
)
def test_entries_that_cannot_be(tmp_path: Path, history: list[Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        read_snapshot(write(tmp_path / "a.pickle", history))


def test_shared_lists_inside_lists_cost_nothing(tmp_path: Path) -> None:
    # Each list holds the one before it twice: 2^60 elements, if anyone were to count or print them.
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested, nested]
    with pytest.raises(ValueError, match="addr is a list"):
        read_snapshot(write(tmp_path / "a.pickle", [{**entry("alloc", 1, 1), "addr": nested}]))


def test_devices_of_files_that_know_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    memory.save(memory.Trace([1], [0], [1]), path)
    with pytest.raises(ValueError, match="the file knows no devices"):
        memory.load(path, device="cuda:0")


def test_commands_take_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "a.pickle", HISTORY, [entry("alloc", 0x100, 3 * MIB)]))
    assert main(["memory", "plan", path, "--device", "cuda:1", "--time", "1"]) == 0
    assert "1 requests, held at most 3.0000 MiB" in capsys.readouterr().out
    assert main(["memory", "plan", path]) == 2
    assert "must be one of cuda:0, cuda:1" in capsys.readouterr().err
