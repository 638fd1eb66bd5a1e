"""Requests from others' records of events, which may begin when much is held already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warploom.memory.trace import COLUMNS, Trace

# The phase of what was allocated before the record began.
BEFORE = "before"
# The note in which blocks stand that other streams still used when their owner let go: [alloc,
# requested] of each. Alloc times are all different here.
FREE_REQUESTED = "free_requested"


@dataclass(slots=True)
class _Request:
    size: int
    alloc: int
    stream: int
    pool: int
    phase: int
    site: int
    requested: int = -1
    free: int = -1


@dataclass
class Lifetimes:
    """Takes events in order, each with its number, and makes a trace of them.

    An address that is freed first was allocated before the record. Errors begin with ``where``.
    """

    where: str
    alignment: int = 1
    _requests: list[_Request] = field(default_factory=list)
    _before: list[_Request] = field(default_factory=list)
    _held: dict[int, _Request] = field(default_factory=dict)
    _freed: dict[int, int] = field(default_factory=dict)
    _streams: dict[int, int] = field(default_factory=lambda: {0: 0})
    _pools: dict[tuple[int, ...], int] = field(default_factory=dict)
    _phases: dict[str, int] = field(default_factory=dict)
    _sites: dict[str, int] = field(default_factory=dict)

    def fail(self, event: int, what: str) -> ValueError:
        return ValueError(f"{self.where}, event {event}: {what}")

    def _request(
        self, size: int, alloc: int, stream: int, pool: tuple[int, ...], phase: str, site: str
    ) -> _Request:
        default = not any(pool)
        return _Request(
            size,
            alloc,
            self._streams.setdefault(stream, len(self._streams)),
            0 if default else self._pools.setdefault(pool, len(self._pools) + 1),
            self._phases.setdefault(phase, len(self._phases)),
            self._sites.setdefault(site, len(self._sites)),
        )

    def alloc(
        self,
        event: int,
        address: int,
        size: int,
        *,
        stream: int = 0,
        pool: tuple[int, ...] = (),
        phase: str = "",
        site: str = "",
    ) -> None:
        """A request.

        Raises:
            ValueError: its address is held.
        """
        if address in self._held:
            raise self.fail(event, f"address {address:#x} is allocated: it was held already")
        self._freed.pop(address, None)
        request = self._request(size, event, stream, pool, phase, site)
        self._held[address] = request
        self._requests.append(request)

    def held_before(
        self,
        address: int,
        size: int,
        *,
        stream: int = 0,
        pool: tuple[int, ...] = (),
        site: str = "",
    ) -> None:
        """A block of which the record has no event, held from its beginning to its end."""
        if address not in self._held:
            self._held[address] = self._request(size, -1, stream, pool, BEFORE, site)
            self._before.append(self._held[address])

    def _find(self, event: int, address: int, size: int, stream: int, pool: Any) -> _Request:
        if address in self._freed:
            raise self.fail(
                event,
                f"address {address:#x} is freed twice: it was at event {self._freed[address]}",
            )
        if address not in self._held:
            self.held_before(address, size, stream=stream, pool=pool)
        request = self._held[address]
        if request.size != size:
            raise self.fail(
                event, f"{size} bytes are freed at {address:#x}: {request.size} were allocated"
            )
        return request

    def let_go(
        self, event: int, address: int, size: int, *, stream: int = 0, pool: tuple[int, ...] = ()
    ) -> None:
        """The owner lets go; other streams may still be at work.

        Raises:
            ValueError: it was freed before, or has another size.
        """
        request = self._find(event, address, size, stream, pool)
        if request.requested >= 0:
            raise self.fail(
                event, f"address {address:#x} is freed twice: it was at event {request.requested}"
            )
        request.requested = event

    def free(
        self, event: int, address: int, size: int, *, stream: int = 0, pool: tuple[int, ...] = ()
    ) -> None:
        """The bytes may be given away again.

        Raises:
            ValueError: it was freed before, or has another size.
        """
        self._find(event, address, size, stream, pool).free = event
        del self._held[address]
        self._freed[address] = event

    def trace(self, end: int, notes: Mapping[str, Any]) -> Trace:
        """All requests; what is held lives to ``end``, one above the last event's number. Requests
        from before are first, one for each tick of the clock."""
        shift = len(self._before)
        rows, waits = [], []
        for number, request in enumerate(self._before + self._requests):
            alloc = number if number < shift else request.alloc + shift
            free = (end if request.free < 0 else request.free) + shift
            # Two events one after the other are one call: nothing was waited for.
            if 0 <= request.requested < free - shift - 1:
                waits.append([alloc, request.requested + shift])
            rows.append(
                (
                    *(request.size, alloc, free, request.stream),
                    *(request.pool, request.phase, request.site),
                )
            )
        try:
            table = np.array(rows, np.int64).reshape(-1, len(COLUMNS))
        except OverflowError as error:
            raise ValueError(f"{self.where}: a size is no number of 64 bits: {error}") from error
        columns: dict[str, Any] = dict(zip(COLUMNS, table.T, strict=True))
        return Trace(
            **columns,
            phases=tuple(self._phases) or ("",),
            sites=tuple(self._sites) or ("",),
            alignment=self.alignment,
            notes={
                **notes,
                "before": shift,
                "streams": list(self._streams),
                "pools": [list(pool) for pool in self._pools],
                FREE_REQUESTED: waits,
            },
        )
