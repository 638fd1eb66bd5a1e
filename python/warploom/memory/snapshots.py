"""Traces of torch.cuda memory snapshots, the pickles of ``torch.cuda.memory._dump_snapshot``.

A pickle is a program. This one is read without calling anything: only numbers, text, lists, tuples
and dictionaries can come of it, and whatever names a function or class is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from warploom.memory.lifetimes import Lifetimes
from warploom.memory.trace import Trace

_ALIGNMENT = 512
# What says nothing about requests.
_SEGMENT_ACTIONS = {"segment_alloc", "segment_free", "segment_map", "segment_unmap"}
_OTHER_ACTIONS = {"annotate", "oom", "snapshot"}
_HELD = ("active_allocated", "active_awaiting_free", "active_pending_free")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not called")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to data outside")


def is_snapshot(path: Path) -> bool:
    """Whether the file begins as pickles do since protocol 2."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def read_snapshot(path: str | Path, *, device: str | int | None = None) -> Trace:
    """Reads the history of one device.

    Each tick is an entry of the history. A block is free when the allocator says that all streams
    have passed (free_completed); blocks allocated before the history began are held from the start.
    Call sites are the innermost Python frames outside of torch; phases are what
    ``torch.cuda.memory._set_memory_metadata`` said.

    Args:
        device: as "cuda:1" or 1; may be None where the history of only one is not empty.

    Raises:
        ValueError: the file is cut off, no snapshot, has no history, or names what would be called;
            the device is not there, or an entry cannot be.
    """
    return read_history(path, device=device)[0]


def read_history(
    path: str | Path, *, device: str | int | None = None
) -> tuple[Trace, list[dict[str, Any]]]:
    """As ``read_snapshot``, and the entries that the trace is made of; time t of the trace is that
    of entry t, after as many ticks as blocks were held before (``notes["before"]``)."""
    path = Path(path)
    content = _load(path)
    histories = content.get("device_traces") if isinstance(content, dict) else None
    if not isinstance(histories, list) or not all(isinstance(h, list) for h in histories):
        raise ValueError(f"{path}: is no snapshot of torch.cuda's memory: has no device_traces")
    number = _chosen(path, histories, device)
    lifetimes = Lifetimes(f"{path}, cuda:{number}", _ALIGNMENT)
    reader = _Reader(path, number, lifetimes)
    for event, entry in enumerate(histories[number]):
        reader.entry(event, entry)
    reader.segments(content.get("segments", []))
    notes = {"source": "torch.cuda memory snapshot", "device": f"cuda:{number}"}
    return lifetimes.trace(len(histories[number]), notes), histories[number]


def _load(path: Path) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except EOFError as error:
        raise ValueError(f"{path}: the pickle is cut off") from error
    except (pickle.UnpicklingError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path}: the pickle is refused: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: the pickle is damaged: {error}") from error


def _chosen(path: Path, histories: list[list[Any]], device: str | int | None) -> int:
    filled = [number for number, history in enumerate(histories) if history]
    if not filled:
        raise ValueError(
            f"{path}: has no history: torch.cuda.memory._record_memory_history() must be called "
            "before what is to be recorded"
        )
    there = ", ".join(f"cuda:{number}" for number in filled)
    if device is None:
        if len(filled) > 1:
            raise ValueError(f"{path}: device is None: must be one of {there}")
        return filled[0]
    name = str(device).removeprefix("cuda:")
    if not name.isdecimal() or int(name) not in filled:
        raise ValueError(f"{path}: device is {device!r}: must be one of {there}")
    return int(name)


class _Reader:
    """Checks what is read: nothing in a file is trusted to have its type."""

    def __init__(self, path: Path, device: int, lifetimes: Lifetimes) -> None:
        self.path = path
        self.device = device
        self.lifetimes = lifetimes

    def entry(self, event: int, entry: Any) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("action"), str):
            raise self.lifetimes.fail(event, "is no entry of a history: has no action")
        action = entry["action"]
        if action in _SEGMENT_ACTIONS:
            self.number(event, entry, "addr")
        if action in _SEGMENT_ACTIONS or action == "oom":
            self.number(event, entry, "size")
        if action in _SEGMENT_ACTIONS or action in _OTHER_ACTIONS:
            return
        if action not in ("alloc", "free_requested", "free_completed"):
            raise self.lifetimes.fail(event, f"action is {action[:40]!r}, which is none of torch's")
        address, size = self.number(event, entry, "addr"), self.number(event, entry, "size")
        stream, pool = self.number(event, entry, "stream"), self.pool(event, entry.get("pool_id"))
        if action == "free_requested":
            self.lifetimes.let_go(event, address, size, stream=stream, pool=pool)
        elif action == "free_completed":
            self.lifetimes.free(event, address, size, stream=stream, pool=pool)
        else:
            phase = entry.get("user_metadata", "")
            self.lifetimes.alloc(
                event,
                address,
                size,
                stream=stream,
                pool=pool,
                phase=phase if isinstance(phase, str) else "",
                site=_site(entry.get("frames")),
            )

    def number(self, event: int, entry: Mapping[Any, Any], name: str) -> int:
        value = entry.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
            shown = value if isinstance(value, int | None) else f"a {type(value).__name__}"
            raise self.lifetimes.fail(event, f"{name} is {shown}: must be a number, at least 0")
        return value

    def pool(self, event: int, given: Any) -> tuple[int, ...]:
        if given is None:
            return ()
        if not isinstance(given, list | tuple) or not all(isinstance(n, int) for n in given):
            raise self.lifetimes.fail(event, "pool_id is no pair of numbers")
        return tuple(given)

    def segments(self, segments: Any) -> None:
        """Blocks that are held at the end, of which the history may know nothing."""
        if not isinstance(segments, list):
            raise ValueError(f"{self.path}: segments is no list")
        for segment in segments:
            if not isinstance(segment, dict) or not isinstance(segment.get("blocks", []), list):
                raise ValueError(f"{self.path}: a segment is no dictionary with blocks")
            if segment.get("device", 0) != self.device:
                continue
            stream = self.number(-1, segment, "stream")
            pool = self.pool(-1, segment.get("segment_pool_id"))
            address = self.number(-1, segment, "address")
            for block in segment.get("blocks", []):
                if not isinstance(block, dict):
                    raise ValueError(f"{self.path}: a block is no dictionary")
                address = self.number(-1, block, "address") if "address" in block else address
                if block.get("state") in _HELD:
                    named = "requested_size" if "requested_size" in block else "size"
                    self.lifetimes.held_before(
                        address,
                        self.number(-1, block, named),
                        stream=stream,
                        pool=pool,
                        site=_site(block.get("frames")),
                    )
                address += self.number(-1, block, "size")


def _site(frames: Any) -> str:
    """The innermost Python frame outside of torch, else the innermost one in Python, else any."""
    if not isinstance(frames, list):
        return ""
    named = [
        (frame["filename"], frame.get("line"), frame.get("name"))
        for frame in frames
        if isinstance(frame, dict) and isinstance(frame.get("filename"), str)
    ]
    python = [frame for frame in named if frame[0].endswith(".py")]
    users = [frame for frame in python if "torch" not in Path(frame[0]).parts]
    for found in (users, python, named):
        if found:
            name, line, function = found[0]
            words = f"{line} {function}" if isinstance(function, str) else f"{line}"
            return f"{name}:{words}" if isinstance(line, int) else name
    return ""
