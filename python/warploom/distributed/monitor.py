"""What one rank knows of the others, and how long it waits for them.

Data moves through a transport whose waits may not be told to stop; words between ranks move through
a link of their own (`links.py`, `simulated.py`). The monitor stands between them. Every wait is
registered here with its deadline. Shortly before it ends all ranks are asked what they wait for; at
the deadline the answers say who holds everybody up: the rank that does not answer, or the one that
is waited for and waits for nobody. The first failure that anyone sees goes to all ranks, each of
whom tells it on (the way to some may be what failed), and makes each transport give up what it
waits for, so that all leave with the same error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple, Protocol

from warploom.distributed.failure import Failure, Kind, Missing

LONGEST_PROBE = 1.0  # seconds that the other ranks have to answer, before the deadline
Message = dict[str, Any]


class Link(Protocol):
    """Carries small messages between ranks, in order, apart from the data."""

    def send(self, rank: int, message: Message) -> None:
        """Queues a message; never blocks, says nothing if the rank is gone."""


@dataclass
class Waiting:
    """One wait: for what, until when. `missing` shrinks while it goes on."""

    run: int
    missing: list[Missing]
    began: float
    timeout: float
    step: int = 0
    blame: Callable[[int], Missing | None] = lambda rank: None
    asked: int = 0  # number of the probe sent for this wait, 0 before
    asked_at: float = 0.0
    posting: bool = False  # still on its way into the transport: it holds others up itself
    queued: bool = False  # runs behind earlier queued work; its deadline counts from its turn
    ready: Callable[[], bool] = lambda: True
    done: Callable[[], bool] = lambda: False

    @property
    def progress(self) -> list[int]:
        return [self.run, self.step]

    @property
    def deadline(self) -> float:
        return self.began + self.timeout

    @property
    def probe(self) -> float:
        """Seconds that the others have to answer."""
        return min(LONGEST_PROBE, self.timeout / 4)

    @property
    def acts(self) -> float:
        """When there is something to do: ask, or judge by the answers.

        A process that was stopped itself finds its deadline past; it still asks first.
        """
        if not self.asked:
            return self.deadline - self.probe
        return max(self.deadline, self.asked_at + self.probe)


class Answer(NamedTuple):
    """What a rank said when it was asked: what it waits for, where, and if it has own work."""

    probe: int
    missing: list[Missing]
    progress: list[int]  # the run, and how far it is in it
    busy: bool


class Monitor:
    """The state of one rank's world. Thread-safe; `link` and `on_failure` are set by its owner."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.link: Link
        self.on_failure: Callable[[], None] = lambda: None
        self.failure: Failure | None = None
        self.changed = threading.Condition(threading.RLock())
        self._waits: list[Waiting] = []
        self._words: dict[tuple[int, str], dict[int, str]] = {}  # (run, topic) -> rank -> word
        self._probes = 0
        self._answers: dict[int, Answer] = {}
        self._left: dict[int, int] = {}  # ranks that closed their world -> runs they had finished

    @property
    def peers(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def check(self, later: bool = False) -> None:
        """Raises the failure, if there is one."""
        if self.failure is not None:
            raise self.failure.error(later)

    # Waiting

    @contextmanager
    def waiting(
        self,
        run: int,
        missing: Sequence[Missing],
        timeout: float,
        step: int = 0,
        blame: Callable[[int], Missing | None] = lambda rank: None,
    ) -> Iterator[Waiting]:
        """Watches over what its body waits for; the body ends by itself or by `on_failure`.

        run, step: how far this rank is, in numbers that mean the same on all ranks.
        """
        wait = Waiting(run, list(missing), time.monotonic(), timeout, step, blame)
        with self.changed:
            self.check()
            self._waits.append(wait)
            left = [m for m in wait.missing if self._left.get(m.rank, run) < run]
        if left:
            self.fail(self._failure("lost", left[0].rank, "closed its world", run, left[0]))
        try:
            yield wait
        finally:
            with self.changed:
                self._waits.remove(wait)

    def watch(self, wait: Waiting) -> None:
        """Watches over work that nobody blocks on, until its `done` says so."""
        with self.changed:
            self._waits.append(wait)

    def sleep(self, until: Callable[[], bool]) -> None:
        """Sleeps inside `waiting` until the condition holds, ticking; raises the failure."""
        while True:
            with self.changed:
                if until():
                    return
                self.check()
                wake = min(wait.acts for wait in self._waits)
                self.changed.wait(max(wake - time.monotonic(), 0.0))
            self.tick()

    def gather(
        self, run: int, topic: str, word: str, timeout: float, what: str
    ) -> Mapping[int, str]:
        """Says a word about a run to all ranks and returns theirs, its own among them."""
        key = (run, topic)
        with self.changed:
            self.check()
            words = self._words.setdefault(key, {})
            words[self.rank] = word
        for rank in self.peers:
            self.link.send(rank, {"kind": "word", "run": run, "topic": topic, "word": word})
        absent = [Missing(rank, None, None, what) for rank in self.peers if rank not in words]
        with self.waiting(run, absent, timeout) as wait:

            def complete() -> bool:
                wait.missing = [m for m in wait.missing if m.rank not in words]
                return len(words) == self.size

            self.sleep(complete)
        with self.changed:
            return self._words.pop(key)

    def tick(self) -> None:
        """Asks before a deadline, fails at it. Called by whoever has the time, often.

        Messages are sent without the lock: two ranks of one process would wait for each other.
        """
        now = time.monotonic()
        probes = []
        overdue = None
        with self.changed:
            if self.failure is not None:
                return
            self._waits = [wait for wait in self._waits if not wait.done()]
            queue_taken = False
            for wait in self._waits:
                if wait.queued and (queue_taken or not wait.ready()):
                    wait.began = now
                queue_taken = queue_taken or wait.queued
                if now < wait.acts:
                    continue
                if not wait.asked:
                    self._probes += 1
                    wait.asked, wait.asked_at = self._probes, now
                    probes.append(self._probes)
                elif overdue is None:
                    overdue = self._diagnose(wait)
        for probe in probes:
            for rank in self.peers:
                self.link.send(rank, {"kind": "probe", "probe": probe})
        if overdue is not None:
            self.fail(overdue)

    def _diagnose(self, wait: Waiting) -> Failure | None:
        """Follows who waits for whom from here, to the rank that all of them wait for.

        Where all of them wait and answer, something that was sent is lost: then whoever is furthest
        behind is the one whom it did not reach.
        """
        own = Answer(wait.asked, list(wait.missing), wait.progress, False)
        if not own.missing:
            return None  # the last of it came just now
        waiting = {self.rank: own}
        frontier = [missing.rank for missing in own.missing]
        silent = []
        while frontier:
            rank = frontier.pop(0)
            if rank in waiting:
                continue
            waiting[rank] = answer = self._answers.get(rank, Answer(0, [], [], False))
            if answer.probe < wait.asked:
                silent.append(rank)
            frontier += [missing.rank for missing in answer.missing]
        busy = [rank for rank, answer in waiting.items() if answer.busy]
        behind = sorted(waiting.values(), key=lambda answer: answer.progress)
        stuck = silent or busy
        rank = stuck[0] if stuck else behind[0].missing[0].rank
        due = next((m for answer in behind for m in answer.missing if m.rank == rank), None)
        how = "does not answer" if rank in silent else "stalled"
        reason = f"{how} (nothing came for {wait.timeout:g} s)"
        return self._failure("stalled", rank, reason, wait.run, due)

    # Failing

    def fail(self, failure: Failure, tell: bool = True) -> None:
        """Takes the first failure, tells all ranks of it, and stops what waits here."""
        with self.changed:
            if self.failure is not None:
                return
            self.failure = failure
            self.changed.notify_all()
        if tell:
            for rank in self.peers:
                self.link.send(rank, {"kind": "fail", "failure": failure.to_message()})
        self.on_failure()

    def leave(self, run: int, reason: str) -> None:
        """Tells all ranks that this one left an exchange that is not finished."""
        self.fail(Failure("lost", self.rank, f"left the exchange ({reason})", self.rank, run))

    def goodbye(self, finished: int) -> None:
        """Tells all ranks that this one closes its world, having finished so many exchanges."""
        for rank in self.peers:
            self.link.send(rank, {"kind": "bye", "finished": finished})

    def _failure(
        self, kind: Kind, rank: int, reason: str, run: int | None, due: Missing | None
    ) -> Failure:
        if due is None:
            return Failure(kind, rank, reason, self.rank, run)
        return Failure(kind, rank, reason, self.rank, run, due.round, due.chunk, due.what)

    # What the link calls

    def lost(self, rank: int) -> None:
        """The connection to a rank ended. No failure if it had said goodbye."""
        with self.changed:
            if rank in self._left:
                return
            wait = self._waits[0] if self._waits else None
        due = None
        if wait is not None:
            due = next((m for m in wait.missing if m.rank == rank), None) or wait.blame(rank)
            due = due or next(iter(wait.missing), None)
        run = wait.run if wait else None
        self.fail(self._failure("lost", rank, "is gone (its connection closed)", run, due))

    def link_failed(self, error: Exception) -> None:
        """The link itself failed: nothing can be told to others any more, but nobody waits."""
        reason = f"cannot hear the others ({type(error).__name__}: {error})"
        self.fail(Failure("lost", self.rank, reason, self.rank), tell=False)

    def receive(self, rank: int, message: Message) -> None:
        """Takes a message from another rank."""
        kind = message["kind"]
        if kind == "probe":
            self.link.send(rank, self._answer(message["probe"]))
        elif kind == "fail":  # told on: whoever found it may not reach everybody
            self.fail(Failure.from_message(message["failure"]))
        elif kind == "bye":
            self._take_leave(rank, message["finished"])
        else:
            with self.changed:
                if kind == "word":
                    key = (message["run"], message["topic"])
                    self._words.setdefault(key, {})[rank] = message["word"]
                else:
                    missing = [Missing(*fields) for fields in message["missing"]]
                    self._answers[rank] = Answer(
                        message["probe"], missing, message["progress"], message["busy"]
                    )
                self.changed.notify_all()

    def _answer(self, probe: int) -> Message:
        with self.changed:
            waits = list(self._waits)
            answer = Answer(
                probe,
                [m for wait in waits for m in wait.missing],
                waits[0].progress if waits else [],
                not waits or any(wait.posting for wait in waits),
            )
        missing = [astuple(m) for m in answer.missing]
        return {"kind": "answer", **answer._asdict(), "missing": missing}

    def _take_leave(self, rank: int, finished: int) -> None:
        """A rank closed its world. Whoever still waits for it then waits in vain."""
        with self.changed:
            self._left[rank] = finished
            self.changed.notify_all()
            vain = [(w.run, m) for w in self._waits for m in w.missing if m.rank == rank]
        for run, missing in vain:
            if finished < run:
                self.fail(self._failure("lost", rank, "closed its world", run, missing))
