"""Messages over gloo, whose waits can neither be polled nor be told to stop.

So threads of their own wait, for sends and for receives, in the order in which they were posted.
The rank's thread waits for these, and leaves when the monitor says so. A message that was half
received when its connection broke is one that gloo never reports: its thread stays behind, a daemon
that holds on to that message alone.
"""

from __future__ import annotations

import datetime
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from warploom.distributed.monitor import Monitor
from warploom.distributed.transport import Label, Message, Posted

FOREVER = datetime.timedelta(days=1)  # the monitor keeps the deadlines
BRIEFLY = datetime.timedelta(milliseconds=1)
ABORT_TAG = (1 << 30) - 1
LONGEST_END = 30.0  # seconds that an idle thread may take to end, on however busy a machine


@dataclass
class Handle:
    """One message that was posted."""

    work: Any
    wanted: bool = False  # whether the rank's thread sleeps until it is finished
    finished: bool = False
    error: RuntimeError | None = None


class Waiter:
    """A thread that waits for messages, one after the other."""

    def __init__(self, name: str, monitor: Monitor) -> None:
        self._monitor = monitor
        self._handles: queue.SimpleQueue[Handle | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def add(self, work: Any) -> Handle:
        handle = Handle(work)
        self._handles.put(handle)
        return handle

    def close(self) -> None:
        """Ends the thread after what it has. After a failure it may wait for a message without end.

        A thread that is inside of torch when the interpreter ends would abort the process.
        """
        self._handles.put(None)
        self._thread.join(LONGEST_END if self._monitor.failure is None else 0.2)

    def _serve(self) -> None:
        while (handle := self._handles.get()) is not None:
            try:
                handle.work.wait(FOREVER)
            except RuntimeError as error:
                handle.error = error
            handle.work = None
            with self._monitor.changed:
                handle.finished = True
                if handle.wanted:
                    self._monitor.changed.notify_all()


class GlooTransport:
    """A process group's messages between CPUs."""

    asynchronous = False

    def __init__(self, group: Any, monitor: Monitor) -> None:
        self._group, self._monitor = group, monitor
        self._receiver = Waiter(f"warploom receives {monitor.rank}", monitor)
        self._sender = Waiter(f"warploom sends {monitor.rank}", monitor)

    def post(self, label: Label, sends: Sequence[Message], receives: Sequence[Message]) -> Posted:
        incoming = [self._group.recv([m.tensor], m.peer, m.tag) for m in receives]
        outgoing = [self._group.send([m.tensor], m.peer, m.tag) for m in sends]
        return Posted(
            [self._sender.add(work) for work in outgoing],
            [self._receiver.add(work) for work in incoming],
        )

    def wait(self, handle: Handle) -> None:
        with self._monitor.changed:
            handle.wanted = True
        self._monitor.sleep(lambda: handle.finished)
        if handle.error is not None:
            raise handle.error

    def done(self, handle: Handle) -> bool:
        return handle.finished

    def ready(self, handle: Handle) -> bool:
        return True

    def check(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}, gloo needs it on the CPU")

    def abort(self) -> None:
        """A receive that times out makes gloo close all of the group's connections."""
        for peer in self._monitor.peers:
            try:
                self._group.recv([torch.empty(1)], peer, ABORT_TAG).wait(BRIEFLY)
            except RuntimeError:
                continue

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
