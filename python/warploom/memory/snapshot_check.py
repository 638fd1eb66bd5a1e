"""The simulated allocator against what a real one did: a snapshot's history, event by event."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from warploom.memory.allocator_options import MIB
from warploom.memory.simulator import ACTIONS, Options, simulate
from warploom.memory.snapshots import read_history

_PAGE = 2 * MIB  # segments and pages lie at multiples of it
_BACK = ("segment_free", "segment_unmap")
_AT_ONCE = ("free_completed", *_BACK)


class Event(NamedTuple):
    """What an allocator did: its action, an address and bytes."""

    action: str
    address: int
    size: int


@dataclass(frozen=True)
class Agreement:
    """How far the simulated allocator did what the real one did.

    Attributes:
        events: in the history, of requests and segments.
        agreed: of them, from the beginning on, the same in the simulation.
        recorded, simulated: the first that differ; None where one has come to its end.
    """

    events: int
    agreed: int
    recorded: Event | None
    simulated: Event | None

    @property
    def complete(self) -> bool:
        """Whether all events are the same."""
        return self.agreed == self.events and self.simulated is None


def check_snapshot(
    path: str | Path,
    *,
    device: str | int | None = None,
    options: Options = None,
) -> Agreement:
    """Simulates the requests of a memory snapshot and compares what is done, event by event.

    The segments' addresses, which the device chose, are taken from the history. Calls of
    empty_cache are not in it: segments that go back are taken for one, also where a request found
    no memory, for which all of the cache goes back as well. Not followed is what goes back in
    part, for oversize requests or by garbage collection, and an expandable segment that grew in
    part before memory ran out. The comparison ends where a request got no memory.

    Args:
        device: as "cuda:1" or 1.
        options: what PYTORCH_ALLOC_CONF was.

    Raises:
        ValueError: the file or its history cannot be read, or begins when blocks were held already.
    """
    trace, history = read_history(path, device=device)
    if trace.notes["before"]:
        raise ValueError(
            f"{path}: {trace.notes['before']} blocks were held before the history begins: it must "
            "begin before the first request"
        )
    compared = _until_failure(history)
    recorded = [_event(entry) for entry in compared if entry["action"] in ACTIONS]
    result = simulate(
        trace,
        policy="caching+options",
        options=options or "",
        empty_cache=_emptied(history),
        segments=[event.address for event in recorded if event.action == "segment_alloc"],
        log=True,
    )
    assert result.log is not None
    # What is held to the end of the history is freed there, in the simulation alone.
    simulated = _events(result.log[result.log["time"] < len(compared)], recorded)
    return _compared(_ordered(recorded), _ordered(simulated))


def _until_failure(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries before the first request that got no memory began to make room."""
    end = next((n for n, e in enumerate(history) if e["action"] == "oom"), len(history))
    if end < len(history):
        while end and history[end - 1]["action"] in (*_AT_ONCE, "segment_map"):
            end -= 1
    return history[:end]


def _event(entry: dict[str, Any]) -> Event:
    address = 0 if entry["action"] == "oom" else entry["addr"]
    return Event(entry["action"], address, entry["size"])


def _emptied(history: list[dict[str, Any]]) -> list[int]:
    """Numbers of the entries with which segments begin to go back."""
    back = [entry["action"] in _BACK for entry in history]
    return [n for n, now in enumerate(back) if now and not (n and back[n - 1])]


def _events(log: Any, recorded: list[Event]) -> list[Event]:
    """What was simulated, at the addresses of the history: expandable segments have others."""
    moved: dict[int, int] = {}  # by how much, of each page
    events = []
    for number, e in enumerate(log):
        event = Event(ACTIONS[e["action"]], int(e["address"]), int(e["size"]))
        if event.action in ("segment_alloc", "segment_map") and number < len(recorded):
            pages = range(event.address // _PAGE, (event.address + event.size) // _PAGE)
            moved.update(dict.fromkeys(pages, recorded[number].address - event.address))
        shift = 0 if event.action == "oom" else moved.get(event.address // _PAGE, 0)
        events.append(event._replace(address=event.address + shift))
    return events


def _ordered(events: list[Event]) -> list[Event]:
    """Runs of what happens at once, in whatever order, by address."""

    def kind(item: tuple[int, Event]) -> str:
        number, event = item
        return event.action if event.action in _AT_ONCE else f"event {number}"

    return [
        event
        for _, run in groupby(enumerate(events), kind)
        for event in sorted(event for _, event in run)
    ]


def _compared(recorded: list[Event], simulated: list[Event]) -> Agreement:
    for number, (real, ours) in enumerate(zip_longest(recorded, simulated)):
        if real != ours:
            return Agreement(len(recorded), number, real, ours)
    return Agreement(len(recorded), len(recorded), None, None)
