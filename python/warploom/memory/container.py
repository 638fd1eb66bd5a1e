"""The one file form of traces and plans: a JSON header, then compressed columns with checksums.

``\\x89WLMEM\\r\\n``, the format's version and the header's length (both uint32, little endian), the
header, then the columns one after another. The header names the kind of file and of every column
the type, the number of elements, how it is coded and its bytes in the file. Coded "delta" means
differences of neighbours, which compress better. Numbers are little endian.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

MAGIC = b"\x89WLMEM\r\n"
VERSION = 1
_HEAD = struct.Struct("<8sII")
_MOST_HEADER = 1 << 30
_TYPES = {"<i8": np.int64, "<i4": np.int32}


class Contents(NamedTuple):
    """What a file holds."""

    header: dict[str, Any]
    columns: dict[str, npt.NDArray[Any]]


def is_container(path: Path) -> bool:
    """Whether the file begins as ours do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def write(
    path: Path,
    kind: str,
    header: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
    delta: frozenset[str] = frozenset(),
) -> None:
    """Writes a file of some kind; columns in ``delta`` are coded as differences."""
    described, packed = [], []
    for name, column in columns.items():
        coded = np.diff(column, prepend=column.dtype.type(0)) if name in delta else column
        little = np.ascontiguousarray(coded).astype(coded.dtype.newbyteorder("<"))
        packed.append(zlib.compress(little.tobytes(), 1))
        described.append(
            {
                "name": name,
                "type": little.dtype.str,
                "count": len(column),
                "coding": "delta" if name in delta else "plain",
                "bytes": len(packed[-1]),
                "crc32": zlib.crc32(packed[-1]),
            }
        )
    text = json.dumps({"kind": kind, **header, "columns": described}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(_HEAD.pack(MAGIC, VERSION, len(text)))
        file.write(text)
        file.writelines(packed)


def read(path: Path, kind: str) -> Contents:
    """Reads a file of that kind.

    Raises:
        ValueError: it is another program's, another version's or kind's, cut off or damaged.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if head[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{path}: is not a {kind} of warploom: begins with {head[:8]!r}")
        if len(head) < _HEAD.size:
            raise ValueError(f"{path}: is cut off in its first {_HEAD.size} bytes")
        _, version, length = _HEAD.unpack(head)
        if version != VERSION:
            raise ValueError(f"{path}: is of version {version}: this warploom reads {VERSION}")
        header = _header(path, _exactly(path, file, min(length, _MOST_HEADER), "header"))
        if header.get("kind") != kind:
            raise ValueError(f"{path}: holds a {header.get('kind')}: must be a {kind}")
        try:
            columns = {d["name"]: _column(path, file, d) for d in header.pop("columns")}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: the header is damaged: {error!r}") from error
        if file.read(1):
            raise ValueError(f"{path}: goes on after its last column")
    return Contents(header, columns)


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is damaged: it is no object")
    return header


def _exactly(path: Path, file: BinaryIO, count: int, what: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError(f"{path}: is cut off: {what} has {len(data)} of {count} bytes")
    return data


def _column(path: Path, file: BinaryIO, described: Mapping[str, Any]) -> npt.NDArray[Any]:
    name, count, stored = described["name"], described["count"], described["bytes"]
    if not all(isinstance(n, int) and n >= 0 for n in (count, stored)):
        raise ValueError(f"{path}: column {name} has {count} elements, {stored} bytes")
    if described["type"] not in _TYPES:
        raise ValueError(f"{path}: column {name} has type {described['type']!r}: must be integers")
    packed = _exactly(path, file, stored, f"column {name}")
    if zlib.crc32(packed) != described["crc32"]:
        raise ValueError(f"{path}: column {name} is damaged: its checksum differs")
    dtype = np.dtype(described["type"])
    stream = zlib.decompressobj()
    try:  # one byte more than promised is enough to tell, whatever the file holds
        data = stream.decompress(packed, count * dtype.itemsize + 1)
    except zlib.error as error:
        raise ValueError(f"{path}: column {name} is damaged: {error}") from error
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{path}: column {name} is damaged: {len(data)} bytes for {count} numbers")
    column = np.frombuffer(data, dtype).astype(_TYPES[described["type"]])
    if described["coding"] == "delta":
        np.cumsum(column, out=column)
    return column
