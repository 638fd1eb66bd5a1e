"""The one file form of traces and plans: a JSON header, then compressed columns with checksums.

``\\x89WLMEM\\r\\n``, the format's version, the header's length and its CRC-32 (all uint32), the
header, then the columns one after another. The header names the kind of file and of every column
the type, the number of elements, how it is coded, its bytes in the file and their CRC-32. Coded
"delta" means differences of neighbours, which compress better. Numbers are little endian.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

MAGIC = b"\x89WLMEM\r\n"
VERSION = 2
_HEAD = struct.Struct("<8sIII")
_MOST_PACKED = 1032  # bytes that zlib makes one of at most
_TYPES = {"<i8": np.int64, "<i4": np.int32}


class Contents(NamedTuple):
    """What a file holds."""

    header: dict[str, Any]
    columns: dict[str, npt.NDArray[Any]]


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
        file.write(_HEAD.pack(MAGIC, VERSION, len(text), zlib.crc32(text)))
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
        _, version, length, checksum = _HEAD.unpack(head)
        if version != VERSION:
            raise ValueError(f"{path}: is of version {version}: this warploom reads {VERSION}")
        header = _header(path, _exactly(path, file, length, "header"), checksum)
        if header.get("kind") != kind:
            raise ValueError(f"{path}: holds a {header.get('kind')}: must be a {kind}")
        try:
            columns = {d["name"]: _column(path, file, d) for d in header.pop("columns")}
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{path}: the header is damaged: {error!r}") from error
        if file.read(1):
            raise ValueError(f"{path}: goes on after its last column")
    return Contents(header, columns)


def _header(path: Path, text: bytes, checksum: int) -> dict[str, Any]:
    if zlib.crc32(text) != checksum:
        raise ValueError(f"{path}: the header is damaged: its checksum differs")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is damaged: it is no object")
    return header


def _exactly(path: Path, file: BinaryIO, count: int, what: str) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left < count:  # asked for before reading: a count that is a lie takes no memory
        raise ValueError(f"{path}: is cut off: {what} has {left} of {count} bytes")
    return file.read(count)


def _column(path: Path, file: BinaryIO, described: Mapping[str, Any]) -> npt.NDArray[Any]:
    name, count, stored = described["name"], described["count"], described["bytes"]
    if not all(isinstance(n, int) and n >= 0 for n in (count, stored)):
        raise ValueError(f"{path}: column {name} has {count} elements, {stored} bytes")
    if described["type"] not in _TYPES:
        raise ValueError(f"{path}: column {name} has type {described['type']!r}: must be integers")
    if described["coding"] not in ("plain", "delta"):
        raise ValueError(
            f"{path}: column {name} is coded {described['coding']!r}: must be plain or delta"
        )
    packed = _exactly(path, file, stored, f"column {name}")
    if zlib.crc32(packed) != described["crc32"]:
        raise ValueError(f"{path}: column {name} is damaged: its checksum differs")
    dtype = np.dtype(described["type"])
    if count * dtype.itemsize > _MOST_PACKED * stored:
        raise ValueError(f"{path}: column {name} is damaged: {count} numbers in {stored} bytes")
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
