"""Traces: who asked for how many bytes, from when to when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

# Times and the sum of all sizes stay below it, so that no sum or difference of two wraps.
MOST = 1 << 62
# Columns in the order of files and digests, with their types.
COLUMNS: dict[str, type[np.generic]] = {
    "size": np.int64,
    "alloc": np.int64,
    "free": np.int64,
    "stream": np.int32,
    "pool": np.int32,
    "phase": np.int32,
    "site": np.int32,
}


def _zeros() -> Ints:
    """A column that is left out: zeros, as many as needed."""
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests of memory as columns of one length, in the order in which they were made.

    Time is any integer clock, most often the number of the event. A request holds its bytes in
    ``[alloc, free)``: what is freed at t may be given away again at t. On which streams a block was
    used is the maker's to respect: ``free`` is when all of them had passed.

    Attributes:
        size: bytes, int64 [requests], at least 0.
        alloc, free: int64 [requests], ``alloc < free``.
        stream: int32 [requests], the stream a request was made for.
        pool: int32 [requests], the pool it was made in; pools share no memory.
        phase: int32 [requests], place in ``phases``: during which it was made.
        site: int32 [requests], place in ``sites``: who made it.
        phases, sites: names.
        ids: what a file called the requests; None: their numbers.
        alignment: bytes of which every address must be a multiple.
        notes: facts for people and programs, plain JSON values, not part of the digest.
    """

    size: Longs
    alloc: Longs
    free: Longs
    stream: Ints = field(default_factory=_zeros)
    pool: Ints = field(default_factory=_zeros)
    phase: Ints = field(default_factory=_zeros)
    site: Ints = field(default_factory=_zeros)
    phases: tuple[str, ...] = ("",)
    sites: tuple[str, ...] = ("",)
    ids: tuple[str, ...] | None = None
    alignment: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            column = _integers(name, getattr(self, name), dtype)
            if name not in ("size", "alloc", "free") and column.size == 0:
                column = np.zeros(len(self.size), dtype)
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        for name in COLUMNS:
            if getattr(self, name).shape != self.size.shape or self.size.ndim != 1:
                raise ValueError(
                    f"{name} has shape {getattr(self, name).shape}: must be that of size, "
                    f"{self.size.shape}, of one axis"
                )
        self._check_values()

    def _check_values(self) -> None:
        self._none(self.size < 0, "size", "at least 0")
        for name in ("alloc", "free"):
            times = getattr(self, name)
            self._none((times <= -MOST) | (times >= MOST), name, "between -2**62 and 2**62")
        self._none(self.alloc >= self.free, "free", "after its alloc, {alloc}")
        for column, table in (("phase", self.phases), ("site", self.sites)):
            values = getattr(self, column)
            bounds = f"a place in {column}s, below {len(table)}"
            self._none((values < 0) | (values >= len(table)), column, bounds)
        if self.ids is not None and len(self.ids) != len(self):
            raise ValueError(f"ids has {len(self.ids)} names: must have one for each request")
        if self.alignment < 1:
            raise ValueError(f"alignment is {self.alignment}: must be at least 1 byte")
        # In floating point, which does not wrap: its error is far below the room to 2**63.
        total = (np.ceil(self.size / float(self.alignment)) * float(self.alignment)).sum()
        if self.alignment >= MOST or total >= MOST:
            raise ValueError(
                f"size: all {len(self)} requests, rounded up to {self.alignment} bytes, are "
                f"{total:.3g}: must be less than 2**62"
            )

    def _none(self, wrong: npt.NDArray[np.bool_], column: str, must: str) -> None:
        if not wrong.any():
            return
        at = int(np.flatnonzero(wrong)[0])
        must = must.format(alloc=self.alloc[at])
        raise ValueError(
            f"{column} of request {self.name(at)} is {getattr(self, column)[at]}: must be {must}"
        )

    def __len__(self) -> int:
        return len(self.size)

    def name(self, request: int) -> str:
        """What the request is called in files."""
        return str(request) if self.ids is None else self.ids[request]

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that are equal where columns, tables and alignment are."""
        digest = hashlib.sha256(repr((self.alignment, self.phases, self.sites, self.ids)).encode())
        for name in COLUMNS:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()[:32]

    @cached_property
    def padded(self) -> Longs:
        """Sizes rounded up to the alignment, [requests]: what a request keeps others from."""
        return -(-self.size // self.alignment) * self.alignment

    def load(self) -> tuple[Longs, Longs]:
        """Bytes held (padded) from each time on: times, ascending, and bytes, [times]."""
        times, places = np.unique(np.concatenate([self.alloc, self.free]), return_inverse=True)
        change = np.zeros(len(times), np.int64)
        np.add.at(change, places[: len(self)], self.padded)
        np.add.at(change, places[len(self) :], -self.padded)
        return times, np.cumsum(change)

    @property
    def peak(self) -> int:
        """The most bytes (padded) held at a time."""
        return int(self.load()[1].max(initial=0))

    def phase_at_free(self) -> Ints:
        """The phase that each request ends in: that of the last request made before, [requests]."""
        order = np.argsort(self.alloc, kind="stable")
        last = np.searchsorted(self.alloc[order], self.free, side="left") - 1
        return self.phase[order[last]]

    def take(self, requests: npt.ArrayLike) -> Trace:
        """A trace of some requests, by number or by a mask; times stay."""
        chosen = np.arange(len(self))[np.asarray(requests)]
        columns: dict[str, Any] = {name: getattr(self, name)[chosen] for name in COLUMNS}
        ids = None if self.ids is None else tuple(self.ids[i] for i in chosen)
        return replace(self, **columns, ids=ids)

    def __repr__(self) -> str:
        return f"Trace({len(self)} requests, peak {self.peak} bytes, {self.digest[:8]})"


def _integers(name: str, values: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A copy with that dtype, which must hold every value as it is."""
    column = np.asarray(values)
    if column.size and column.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {column.dtype}: must be integers")
    if column.size:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        for value in (int(column.min()), int(column.max())):
            if not limits.min <= value <= limits.max:
                raise ValueError(f"{name} has {value}: must be a number of {limits.bits} bits")
    return np.array(column, dtype=dtype)


class TraceBuilder:
    """Makes a trace of events as they come; a handle is what a free names (an address, an id).

    Every event takes one tick of the clock. What is never freed lives to the end. Streams and pools
    may be any numbers, as the 64 bits of a stream's handle. In the trace they are counted in the
    order of their first use, 0 being 0; the notes "streams" and "pools" hold what they were.
    """

    def __init__(self, *, alignment: int = 1) -> None:
        self.alignment = alignment
        self.now = 0
        self._rows: list[list[int]] = []  # size, alloc, free (-1: still held), stream, pool, ...
        self._held: dict[Any, int] = {}
        self._freed: dict[Any, int] = {}
        self._streams = {0: 0}
        self._pools = {0: 0}
        self._phases: dict[str, int] = {}
        self._sites: dict[str, int] = {}

    def alloc(
        self,
        handle: Any,
        size: int,
        *,
        stream: int = 0,
        pool: int = 0,
        phase: str = "",
        site: str = "",
    ) -> int:
        """A request; returns its number.

        Raises:
            ValueError: a size that is negative or 2**62 or more, or the handle is held.
        """
        if not 0 <= size < MOST:
            self._fail(f"size is {size}", "must be at least 0 and less than 2**62")
        if handle in self._held:
            self._fail(f"{handle!r} is allocated", "it is held since before: must be freed first")
        row = [size, self.now, -1]
        row.append(self._streams.setdefault(stream, len(self._streams)))
        row.append(self._pools.setdefault(pool, len(self._pools)))
        row.append(self._phases.setdefault(phase, len(self._phases)))
        row.append(self._sites.setdefault(site, len(self._sites)))
        self._held[handle] = len(self._rows)
        self._freed.pop(handle, None)
        self._rows.append(row)
        self.now += 1
        return len(self._rows) - 1

    def free(self, handle: Any) -> None:
        """The end of a request.

        Raises:
            ValueError: the handle was never allocated, or was freed already.
        """
        number = self._held.pop(handle, None)
        if number is None:
            if handle in self._freed:
                self._fail(f"{handle!r} is freed twice", f"it was at event {self._freed[handle]}")
            self._fail(f"{handle!r} is freed", "it was not allocated before")
        self._rows[number][2] = self.now
        self._freed[handle] = self.now
        self.now += 1

    def _fail(self, what: str, why: str) -> NoReturn:
        raise ValueError(f"event {self.now}: {what}: {why}")

    def finish(self, notes: Mapping[str, Any] | None = None) -> Trace:
        """The trace of all events so far."""
        table = np.array(self._rows, np.int64).reshape(-1, len(COLUMNS))
        table[table[:, 2] < 0, 2] = self.now
        columns: dict[str, Any] = dict(zip(COLUMNS, table.T, strict=True))
        return Trace(
            **columns,
            phases=tuple(self._phases) or ("",),
            sites=tuple(self._sites) or ("",),
            alignment=self.alignment,
            notes={"streams": list(self._streams), "pools": list(self._pools), **(notes or {})},
        )


def concatenated(traces: Sequence[Trace]) -> Trace:
    """Traces one after another in time, names joined; all of one alignment.

    Raises:
        ValueError: no trace, alignments differ, or the times reach 2**62.
    """
    if len({trace.alignment for trace in traces}) != 1:
        raise ValueError("traces: must be at least one, all of one alignment")
    columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in COLUMNS}
    phases: dict[str, int] = {}
    sites: dict[str, int] = {}
    start = 0
    for trace in traces:
        shift = start - int(trace.alloc.min(initial=0))
        start = shift + int(trace.free.max(initial=0))
        if start >= MOST:
            raise ValueError(f"traces: end at {start} one after another: must be before 2**62")
        for name in ("size", "stream", "pool"):
            columns[name].append(getattr(trace, name))
        for name in ("alloc", "free"):
            columns[name].append(getattr(trace, name) + shift)
        for name, table, names in (
            ("phase", phases, trace.phases),
            ("site", sites, trace.sites),
        ):
            places = np.array([table.setdefault(word, len(table)) for word in names])
            columns[name].append(places[getattr(trace, name)])
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Trace(
        **joined,
        phases=tuple(phases),
        sites=tuple(sites),
        alignment=traces[0].alignment,
    )
