"""Traces in files: our own form, CSV as other planners read it, and what torch writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from warploom.memory import container, profiles, snapshots
from warploom.memory.trace import COLUMNS, MOST, Trace

_DELTA = frozenset({"alloc", "phase"})
# What a CSV file may call a column.
_NAMES = {
    "id": ("id", "buffer"),
    "lower": ("lower", "start"),
    "upper": ("upper", "end"),
    "size": ("size",),
}


def save(trace: Trace, path: str | Path) -> None:
    """Writes a trace: CSV (which keeps times and sizes only) where the name ends so, else ours."""
    path = Path(path)
    if path.suffix == ".csv":
        write_csv(trace, path)
        return
    columns = {name: getattr(trace, name) for name in COLUMNS if name != "free"}
    columns["held"] = trace.free - trace.alloc  # short lives are small numbers
    header = {
        "phases": trace.phases,
        "sites": trace.sites,
        "ids": trace.ids,
        "alignment": trace.alignment,
        "notes": dict(trace.notes),
    }
    container.write(path, "trace", header, columns, _DELTA)


def load(path: str | Path, *, device: str | None = None) -> Trace:
    """Reads a trace of ours, a torch.cuda memory snapshot, a torch.profiler file (told apart by
    what they begin with), or CSV where the name ends so.

    Args:
        device: whose events are read of a snapshot or profile of several, as "cuda:1".

    Raises:
        ValueError: the file is another program's, another version's, cut off or damaged, or its
            requests cannot be; or a device is given for a file that is of none.
    """
    path = Path(path)
    if path.suffix != ".csv" and snapshots.is_snapshot(path):
        return snapshots.read_snapshot(path, device=device)
    if path.suffix != ".csv" and profiles.is_profile(path):
        return profiles.read_profile(path, device=device)
    if device is not None:
        raise ValueError(f"{path}: device is {device!r}: must be None, the file knows no devices")
    if path.suffix == ".csv":
        return read_csv(path)
    header, columns = container.read(path, "trace")
    try:
        columns["free"] = columns["alloc"] + columns.pop("held")
        return Trace(
            **{name: columns[name] for name in COLUMNS},
            phases=tuple(header["phases"]),
            sites=tuple(header["sites"]),
            ids=None if header["ids"] is None else tuple(header["ids"]),
            alignment=header["alignment"],
            notes=header["notes"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: the header is damaged: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_csv(path: str | Path) -> Trace:
    """Reads a table with a header and the columns id, lower, upper (exclusive) and size.

    ``buffer``, ``start`` and ``end`` are other names of the first three; more columns are ignored.

    Raises:
        ValueError: a column is missing, a field is no integer, an id comes twice, or a lifetime or
            size cannot be; the line is named.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8") as file:
        try:
            reader = csv.reader(file)
            header = [word.strip().lower() for word in next(reader, [])]
            places = [_place(path, header, names) for names in _NAMES.values()]
            rows = [_row(path, reader.line_num, row, places) for row in reader if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: is no CSV text: {error}") from error
    names = [row[0] for row in rows]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: id {twice} comes twice")
    table = np.array([row[1:] for row in rows], np.int64).reshape(-1, 3)
    numbered = names == [str(number) for number in range(len(names))]
    try:
        lower, upper, size = table.T
        return Trace(size, lower, upper, ids=None if numbered else tuple(names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _place(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise ValueError(f"{path}: has no column {' or '.join(names)}: the columns are {header}")


def _row(path: Path, line: int, row: list[str], places: list[int]) -> tuple[Any, ...]:
    if len(row) <= max(places):
        raise ValueError(f"{path}, line {line}: has {len(row)} fields: is the file cut off?")
    try:
        numbers = [int(row[place]) for place in places[1:]]
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error
    for number in numbers:
        if abs(number) >= MOST:
            raise ValueError(f"{path}, line {line}: {number} must be between -2**62 and 2**62")
    return (row[places[0]], *numbers)


def write_csv(trace: Trace, path: str | Path, offsets: np.ndarray | None = None) -> None:
    """Writes id, lower, upper and size, and each request's offset where they are given."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [trace.alloc.tolist(), trace.free.tolist(), trace.size.tolist()]
    header = ["id", "lower", "upper", "size"]
    if offsets is not None:
        columns.append(offsets.tolist())
        header.append("offset")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip((trace.name(i) for i in range(len(trace))), *columns, strict=True))
