"""Traces of torch.profiler's JSON files, profiled with ``profile_memory=True``."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from warploom.memory.lifetimes import Lifetimes
from warploom.memory.trace import Trace

_GZIP = b"\x1f\x8b"
_DEVICES = {0: "cpu", 1: "cuda", 6: "hip", 12: "xpu", 13: "mps", 20: "privateuseone"}


class _Change(NamedTuple):
    """Bytes allocated at an address, or, below 0, freed."""

    time: float
    number: int  # decides among equal times
    address: int
    size: int
    thread: Any


def is_profile(path: Path) -> bool:
    """Whether the file begins as JSON, perhaps compressed by gzip."""
    with path.open("rb") as file:
        head = file.read(64)
    return head.startswith(_GZIP) or head.lstrip()[:1] == b"{"


def read_profile(path: str | Path, *, device: str | None = None) -> Trace:
    """Reads the memory events ("[memory]") of one device.

    Each tick is such an event. Sizes are the allocator's, of CUDA devices rounded by it; streams
    are not told, a block is free when its owner frees it. What is freed first was allocated before
    the profile began. Sites are the innermost operators, phases the outermost annotations
    (``record_function``, profiler steps).

    Args:
        device: as "cpu" or "cuda:0"; may be None where the file has events of only one.

    Raises:
        ValueError: the file is cut off, no profile, without memory events or without the device's,
            or an event cannot be.
    """
    path = Path(path)
    events = _events(path)
    changes = _changes(path, events)
    if not changes:
        raise ValueError(f"{path}: has no memory events: must be profiled with profile_memory=True")
    name = _chosen(path, sorted(changes), device)
    ordered = sorted(changes[name], key=lambda change: change[:2])
    places = _places(events, ordered)
    lifetimes = Lifetimes(f"{path}, {name}")
    for number, (change, (phase, site)) in enumerate(zip(ordered, places, strict=True)):
        if change.size >= 0:
            lifetimes.alloc(number, change.address, change.size, phase=phase, site=site)
        else:
            lifetimes.free(number, change.address, -change.size)
    return lifetimes.trace(len(ordered), {"source": "torch.profiler", "device": name})


def _events(path: Path) -> list[Any]:
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        content = json.loads(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: is cut off or damaged: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON, or cut off: {error}") from error
    events = content.get("traceEvents") if isinstance(content, dict) else None
    if not isinstance(events, list):
        raise ValueError(f"{path}: is no profile: has no list of traceEvents")
    return events


def _changes(path: Path, events: list[Any]) -> dict[str, list[_Change]]:
    """The memory events of each device."""
    changes: dict[str, list[_Change]] = defaultdict(list)
    for number, event in enumerate(events):
        if not isinstance(event, dict) or event.get("name") != "[memory]":
            continue
        where = f"{path}, traceEvents[{number}]"
        arguments = event.get("args")
        if not isinstance(arguments, dict):
            raise ValueError(f"{where}: has no args")
        kind, place = _whole(where, arguments, "Device Type"), _whole(where, arguments, "Device Id")
        name = _DEVICES.get(kind, f"type{kind}")
        changes[name if place < 0 else f"{name}:{place}"].append(
            _Change(
                _time(where, event, "ts"),
                _whole(where, arguments, "Ev Idx") if "Ev Idx" in arguments else number,
                _whole(where, arguments, "Addr"),
                _whole(where, arguments, "Bytes"),
                (str(event.get("pid")), str(event.get("tid"))),
            )
        )
    return changes


def _whole(where: str, arguments: dict[str, Any], name: str) -> int:
    value = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) < value < 1 << 63:
        raise ValueError(f"{where}: {name} is {str(value)[:40]!r}: must be a whole number")
    return value


def _time(where: str, event: dict[str, Any], name: str) -> float:
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"{where}: {name} is {str(value)[:40]!r}: must be a number")
    return value


def _chosen(path: Path, there: list[str], device: str | None) -> str:
    if device is None and len(there) == 1:
        return there[0]
    if device not in there:
        raise ValueError(f"{path}: device is {device!r}: must be one of {', '.join(there)}")
    return device


class _Span(NamedTuple):
    begin: float
    end: float
    category: str
    name: str


def _places(events: list[Any], changes: list[_Change]) -> Iterator[tuple[str, str]]:
    """Phase and site of each change, by what ran around it on its thread."""
    spans: dict[Any, list[_Span]] = defaultdict(list)
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        category, begin, length = event.get("cat"), event.get("ts"), event.get("dur")
        if category not in ("cpu_op", "user_annotation"):
            continue
        if isinstance(begin, int | float) and isinstance(length, int | float):
            thread = (str(event.get("pid")), str(event.get("tid")))
            spans[thread].append(_Span(begin, begin + length, category, str(event.get("name"))))
    for own in spans.values():
        own.sort(key=lambda span: (span.begin, -span.end))
    reached = dict.fromkeys(spans, 0)
    open_spans: dict[Any, list[_Span]] = defaultdict(list)
    for change in changes:
        stack = open_spans[change.thread]
        own, at = spans.get(change.thread, []), reached.get(change.thread, 0)
        while at < len(own) and own[at].begin <= change.time:
            while stack and stack[-1].end < own[at].begin:
                stack.pop()
            stack.append(own[at])
            at += 1
        reached[change.thread] = at
        while stack and stack[-1].end < change.time:
            stack.pop()
        phases = [span.name for span in stack if span.category == "user_annotation"]
        sites = [span.name for span in stack if span.category == "cpu_op"]
        yield phases[0] if phases else "", sites[-1] if sites else ""
