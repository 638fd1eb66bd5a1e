"""Posting and waiting for the rounds of a schedule, with deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch

from warploom.distributed.failure import Failure, Missing
from warploom.distributed.monitor import Monitor, Waiting
from warploom.distributed.plan import Phase, Transfer
from warploom.distributed.transport import Label, Message, Transport

Tensors = Sequence[torch.Tensor]
PHASES = ("exchange", "reduction")
GRACE = 2.0  # seconds for the word of what failed, after the transport said that something did


class Flight(NamedTuple):
    """One message of a round, posted."""

    transfer: Transfer
    peer: int
    handle: Any


@dataclass
class Progress:
    """How far a run is, counted alike on all ranks."""

    step: int = 0


@dataclass
class Round:
    """One round as this rank sees it, posted and not yet finished."""

    index: int
    sends: list[Flight]
    receives: list[Flight]


class Rounds:
    """One phase of one run: its rounds, as this rank posts and waits for them."""

    def __init__(
        self,
        monitor: Monitor,
        transport: Transport,
        run: int,
        phase: Phase,
        timeout: float,
        progress: Progress,
    ) -> None:
        self._monitor, self._transport = monitor, transport
        self._run, self._phase, self._timeout = run, phase, timeout
        self._progress = progress

    def post(
        self,
        index: int,
        outgoing: Callable[[Transfer], Tensors],
        incoming: Callable[[Transfer], Tensors],
    ) -> Round:
        """Posts a round: what goes out with a transfer, and where what comes in belongs."""
        sends = self._messages(self._phase.sends[index], outgoing, lambda t: t.target)
        receives = self._messages(self._phase.receives[index], incoming, lambda t: t.source)
        label = Label(self._run, self._phase.name, index)
        expected = self._expected(index, [(t, m.peer) for t, m in sends + receives])
        step, blame = self._progress.step, self._blame(index)
        with self._monitor.waiting(self._run, expected, self._timeout, step, blame) as waiting:
            waiting.posting = True
            try:
                posted = self._transport.post(
                    label, [m for _, m in sends], [m for _, m in receives]
                )
            except RuntimeError as error:
                self._explain(error, waiting)
        flown = Round(
            index,
            [Flight(t, m.peer, h) for (t, m), h in zip(sends, posted.sends, strict=True)],
            [Flight(t, m.peer, h) for (t, m), h in zip(receives, posted.receives, strict=True)],
        )
        if self._transport.asynchronous:
            self._watch(flown)
        return flown

    def wait(self, index: int, flights: list[Flight]) -> None:
        """Waits for messages of a round, and forgets them: the list is empty afterwards."""
        if not flights:
            return
        expected = self._expected(index, [(f.transfer, f.peer) for f in flights])
        with self._monitor.waiting(
            self._run, expected, self._timeout, self._progress.step, self._blame(index)
        ) as waiting:
            while flights:
                flight = flights[0]
                try:
                    self._transport.wait(flight.handle)
                except RuntimeError as error:
                    self._explain(error, waiting)
                del flights[0], waiting.missing[0]
            self._monitor.check()

    def _messages(
        self,
        transfers: Sequence[Transfer],
        tensors: Callable[[Transfer], Tensors],
        peer: Callable[[Transfer], int],
    ) -> list[tuple[Transfer, Message]]:
        """Empty tensors stay at home: both sides know their shapes."""
        return [
            (transfer, Message(peer(transfer), tensor, self._tag(transfer.chunk, i)))
            for transfer in transfers
            for i, tensor in enumerate(tensors(transfer))
            if tensor.numel()
        ]

    def _tag(self, chunk: int, part: int) -> int:
        return (self._run % 64) << 24 | PHASES.index(self._phase.name) << 23 | (chunk << 3 | part)

    def _expected(self, index: int, pairs: Sequence[tuple[Transfer, int]]) -> list[Missing]:
        what = "chunk" if self._phase.name == "exchange" else "gradient of chunk"
        return [
            Missing(peer, index, t.chunk, f"{what} {t.chunk} of round {index} from rank "
                    f"{t.source} to rank {t.target}")
            for t, peer in pairs
        ]  # fmt: skip

    def _blame(self, index: int) -> Callable[[int], Missing | None]:
        """For a rank that this one does not wait for itself: what it owed to those in between."""

        def find(rank: int) -> Missing | None:
            owed = self._phase.owed(rank, index)
            return self._expected(owed[0], [(owed[1], rank)])[0] if owed else None

        return find

    def _explain(self, error: RuntimeError, waiting: Waiting) -> NoReturn:
        """The transport failed: raises what the ranks say of it, or what the transport says."""
        grace = min(GRACE, max(waiting.deadline - time.monotonic(), 0.1))
        with self._monitor.changed:
            self._monitor.changed.wait_for(lambda: self._monitor.failure is not None, grace)
        if self._monitor.failure is None:
            due = waiting.missing[0]
            reason = f"cannot be reached ({error})"
            self._monitor.fail(
                Failure(
                    "lost", due.rank, reason, self._monitor.rank, self._run, due.round,
                    due.chunk, str(due),
                )
            )  # fmt: skip
        assert self._monitor.failure is not None
        raise self._monitor.failure.error() from error

    def _watch(self, posted: Round) -> None:
        """Nobody will block on this round: the monitor looks after it until it is done."""
        flights = posted.receives + posted.sends
        if not flights:
            return
        pairs = [(f.transfer, f.peer) for f in flights]
        wait = Waiting(
            self._run,
            self._expected(posted.index, pairs),
            time.monotonic(),
            self._timeout,
            self._progress.step,
            self._blame(posted.index),
        )
        handles = [f.handle for f in flights]
        wait.queued = True
        wait.done = lambda: all(self._transport.done(h) for h in handles)
        wait.ready = lambda: self._transport.ready(handles[0])
        self._monitor.watch(wait)
