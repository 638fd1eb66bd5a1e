"""Files of traces and plans: they come back as they went, and damage is told."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from warploom import memory
from warploom.memory import Trace, container, files, synthetic


def labelled() -> Trace:
    return Trace(
        [1, 2**40, 3],
        [5, -7, 11],
        [9, 12, 13],
        stream=[0, 1, 2],
        pool=[3, 0, 0],
        phase=[1, 0, 1],
        site=[0, 0, 1],
        phases=("forward", "backward"),
        sites=("a: b", "ü"),
        ids=("x", "y", "z"),
        alignment=512,
        notes={"warmup": 1},
    )


@pytest.mark.parametrize("trace", [labelled(), synthetic.training(3), Trace([], [], [])])
def test_a_trace_comes_back(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "some.trace"
    memory.save(trace, path)
    back = memory.load(path)
    assert back.digest == trace.digest
    assert (back.ids, back.notes, back.phases) == (trace.ids, trace.notes, trace.phases)


def test_a_request_takes_a_few_bytes(tmp_path: Path) -> None:
    trace = synthetic.random(20_000)
    memory.save(trace, tmp_path / "some.trace")
    assert (tmp_path / "some.trace").stat().st_size < 20 * len(trace)


def test_every_cut_and_every_flipped_byte_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some.trace"
    memory.save(labelled(), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"some.trace: (is|the header|holds|column)"):
            memory.load(path)
    for place in range(len(whole)):
        for flip in (1, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=r"some\.trace: "):
                memory.load(path)


def reheaded(path: Path, old: bytes, new: bytes) -> None:
    """Replaces a text of the header, of which length and checksum become right again."""
    data = path.read_bytes()
    magic, version, length, _ = struct.unpack_from("<8sIII", data)
    text = data[20 : 20 + length]
    assert old in text
    text = text.replace(old, new)
    head = struct.pack("<8sIII", magic, version, len(text), zlib.crc32(text))
    path.write_bytes(head + text + data[20 + length :])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"count": 3', b'"count": 1%0100d' % 0, "column size is damaged: 10+ numbers in"),
        (b'"bytes": ', b'"bytes": 1%0100d' % 0, "is cut off: column size has"),
        (b'"coding": "delta"', b'"coding": "gamma"', "is coded 'gamma': must be plain or delta"),
        (b'"alignment": 512', b'"alignment": 1%0100d' % 0, "must be less than 2"),
        (b'"crc32": ', b'"crc32": -', "column size is damaged: its checksum differs"),
    ],
)
def test_headers_that_lie_are_told(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.trace"
    memory.save(labelled(), path)
    reheaded(path, old, new)
    with pytest.raises(ValueError, match=message):
        memory.load(path)


def test_other_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "some.trace"
    path.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ValueError, match=r"is not a trace of warploom: begins with b'PK"):
        memory.load(path)
    container.write(path, "plan", {}, {"offsets": np.zeros(1, np.int64)})
    with pytest.raises(ValueError, match="holds a plan: must be a trace"):
        memory.load(path)
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is of version 9: this warploom reads 2"):
        memory.load(path)
    memory.save(labelled(), path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match="goes on after its last column"):
        memory.load(path)


def test_a_column_never_grows_past_its_promise(tmp_path: Path) -> None:
    path = tmp_path / "some.trace"
    memory.save(synthetic.random(1000), path)
    reheaded(path, b'"count": 1000', b'"count": 10')
    with pytest.raises(ValueError, match="column size is damaged: 81 bytes for 10 numbers"):
        memory.load(path)


def test_csv_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    memory.save(labelled(), path)
    assert path.read_text().splitlines()[:2] == ["id,lower,upper,size", "x,5,9,1"]
    back = memory.load(path)
    assert back.ids == ("x", "y", "z")
    assert back.size.tolist() == labelled().size.tolist()
    files.write_csv(back, path, np.array([7, 8, 9]))
    assert path.read_text().splitlines()[2] == f"y,-7,12,{2**40},8"


def test_csv_with_other_names_and_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("size,buffer,start,end,hint\n4,0,1,3,9\n\n5,1,2,8,9\n")
    trace = memory.load(path)
    assert (trace.size.tolist(), trace.free.tolist(), trace.ids) == ([4, 5], [3, 8], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column id or buffer"),
        ("id,lower,size\n", "has no column upper or end"),
        ("id,lower,upper,size\n1,2,3\n", "line 2: has 3 fields"),
        ("id,lower,upper,size\n1,2,3,x\n", "line 2: invalid literal"),
        ("id,lower,upper,size\n1,2,3,4\n1,2,3,4\n", "id 1 comes twice"),
        ("id,lower,upper,size\na,2,2,4\n", "free of request a is 2: must be after"),
        ("id,lower,upper,size\na,2,3,-4\n", "size of request a is -4: must be at least 0"),
        (f"id,lower,upper,size\na,2,3,{1 << 70}\n", f"line 2: {1 << 70} must be between"),
        (f"id,lower,upper,size\na,{-(1 << 62)},3,4\n", f"line 2: {-(1 << 62)} must be between"),
        (f"id,lower,upper,size\na,0,3,{3 << 60}\nb,0,3,{3 << 60}\n", "size: all 2 requests"),
    ],
)
def test_bad_csv_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        memory.load(path)


def test_text_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no CSV text"):
        memory.load(path)
