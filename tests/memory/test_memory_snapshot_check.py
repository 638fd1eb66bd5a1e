"""Histories of the slow model, whose device puts segments anywhere, written as snapshots."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from warploom import memory
from warploom.memory.allocator_options import AllocatorOptions

from .slow_allocator import MIB, SlowAllocator

EXPANDABLE = "expandable_segments:True"


class Device(SlowAllocator):
    """Writes a history as torch does; new segments lie at random places."""

    def __init__(self, options: str, capacity: int | None, seed: int) -> None:
        super().__init__(AllocatorOptions.of(options), capacity)
        self.random = random.Random(seed)
        places = range(1 << 44, 1 << 45, 1 << 37)
        self.places = self.random.sample(places, len(places))
        self.history: list[dict[str, Any]] = []
        self.stream = 0

    def new_addresses(self, size: int, unit: int) -> int:
        if unit == 2 * MIB and size < 1 << 37:
            return self.places.pop()
        return super().new_addresses(size, unit)

    def note(self, action: str, address: int, size: int) -> None:
        super().note(action, address, size)
        self.history.append(
            {"action": action, "addr": address, "size": size, "stream": self.stream, "frames": []}
        )


def history(options: str, capacity: int | None, seed: int) -> list[dict[str, Any]]:
    """Random requests on two streams, some frees delayed, the cache emptied once."""
    device = Device(options, capacity, seed)
    generator = device.random
    streams: dict[int, int] = {}
    waiting: list[int] = []
    for number in range(300):
        if number == 150 and capacity is None:
            device.empty_cache()
        while len(streams) > 20 or (streams and generator.random() < 0.45):
            request = generator.choice(sorted(streams))
            device.stream = streams.pop(request)
            device.let_go(request)
            if generator.random() < 0.2:
                waiting.append(request)
            else:
                device.complete(request)
        if waiting and generator.random() < 0.3:
            device.complete(waiting.pop())
        device.stream = streams[number] = generator.choice([0, 0, 5])
        size = generator.choice(
            [700, MIB, 3 * MIB, 3 * MIB, 12 * MIB, generator.randrange(50 * MIB)]
        )
        if not device.allocate(number, size or 1, device.stream, 0):
            break
    return device.history


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [entries]}))
    return path


@pytest.mark.parametrize(
    ("options", "capacity"),
    [("", None), (EXPANDABLE, None), ("max_split_size_mb:24", None), ("", 300)],
)
def test_a_history_is_followed_event_by_event(
    tmp_path: Path, options: str, capacity: int | None
) -> None:
    for seed in range(4):
        entries = history(options, capacity and capacity * MIB, seed)
        path = write(tmp_path / "a.pickle", entries)
        agreement = memory.check_snapshot(path, options=options)
        assert agreement.complete, agreement
        assert agreement.events > 150
        assert (agreement.events == len(entries)) == (entries[-1]["action"] != "oom")
    other = "" if options else EXPANDABLE
    assert not memory.check_snapshot(path, options=other).complete


def test_the_first_difference_is_shown(tmp_path: Path) -> None:
    entries = history("", None, 1)
    place = [n for n, e in enumerate(entries) if e["action"] == "segment_alloc"][3]
    entries[place] = {**entries[place], "size": entries[place]["size"] + 2 * MIB}
    agreement = memory.check_snapshot(write(tmp_path / "a.pickle", entries))
    assert (agreement.agreed, agreement.complete) == (place, False)
    assert agreement.recorded.size == agreement.simulated.size + 2 * MIB
    moved = history("", None, 1)
    place = [n for n, e in enumerate(moved) if e["action"] == "alloc"][-1]
    moved[place] = {**moved[place], "addr": moved[place]["addr"] + 512}
    agreement = memory.check_snapshot(write(tmp_path / "a.pickle", moved[: place + 1]))
    assert (agreement.agreed, agreement.complete) == (place, False)


def test_a_history_that_begins_late_is_refused(tmp_path: Path) -> None:
    entries = history("", None, 1)
    first = next(n for n, e in enumerate(entries) if e["action"] == "free_requested")
    with pytest.raises(ValueError, match="1 blocks were held before the history begins"):
        memory.check_snapshot(write(tmp_path / "a.pickle", entries[first : first + 2]))
