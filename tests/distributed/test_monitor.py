"""Deadlines of work that nobody blocks on, and ranks that were stopped themselves."""

from __future__ import annotations

import time

from warploom.distributed.failure import Failure, Missing
from warploom.distributed.monitor import Message, Monitor, Waiting


class Silence:
    """A link on which nobody answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Message]] = []

    def send(self, rank: int, message: Message) -> None:
        self.sent.append((rank, message))


def monitor_of(size: int) -> Monitor:
    monitor = Monitor(0, size)
    monitor.link = Silence()
    return monitor


def queued(peer: int, timeout: float, began: float) -> Waiting:
    wait = Waiting(1, [Missing(peer, 0, peer, f"chunk {peer}")], began, timeout, queued=True)
    return wait


def overdue(monitor: Monitor, wait: Waiting) -> None:
    """Puts a wait past its deadline, and its probe past its answer."""
    wait.began -= wait.timeout + 1
    monitor.tick()
    wait.asked_at -= 10
    monitor.tick()


def test_queued_work_fails_at_its_deadline_and_stops_the_transport() -> None:
    monitor = monitor_of(3)
    stopped = []
    monitor.on_failure = lambda: stopped.append(True)
    wait = queued(2, 5.0, time.monotonic())
    monitor.watch(wait)
    monitor.tick()
    assert monitor.failure is None
    overdue(monitor, wait)
    assert monitor.failure is not None
    assert (monitor.failure.kind, monitor.failure.rank, monitor.failure.chunk) == ("stalled", 2, 2)
    assert stopped == [True]
    kinds = [(rank, message["kind"]) for rank, message in monitor.link.sent]
    assert kinds == [(1, "probe"), (2, "probe"), (1, "fail"), (2, "fail")]


def test_a_failure_that_was_heard_is_told_on_once() -> None:
    """Over a link that is cut its finder reaches some ranks only through others."""
    monitor = monitor_of(4)
    failure = Failure("stalled", 2, "does not answer", 1, 7)
    for sender in (1, 3):
        monitor.receive(sender, {"kind": "fail", "failure": failure.to_message()})
    assert monitor.failure == failure
    told = [(rank, message["failure"]) for rank, message in monitor.link.sent]
    assert told == [(rank, failure.to_message()) for rank in (1, 2, 3)]


def test_queued_work_that_is_done_is_forgotten() -> None:
    monitor = monitor_of(2)
    wait = queued(1, 5.0, time.monotonic())
    wait.done = lambda: True
    monitor.watch(wait)
    overdue(monitor, wait)
    assert monitor.failure is None


def test_the_time_of_queued_work_counts_from_its_turn() -> None:
    """Not while earlier work runs, and not before what it needs was computed."""
    monitor = monitor_of(2)
    first, second = (queued(1, 5.0, time.monotonic()) for _ in range(2))
    first_done, ready = [False], [False]
    first.done, second.ready = (lambda: first_done[0]), (lambda: ready[0])
    monitor.watch(first)
    monitor.watch(second)
    second.began -= 100
    monitor.tick()
    assert not second.asked
    first_done[0] = True
    second.began -= 100
    monitor.tick()
    assert not second.asked
    ready[0] = True
    overdue(monitor, second)
    assert monitor.failure is not None


def test_a_rank_that_was_stopped_asks_before_it_accuses() -> None:
    """Its deadline is long past when it goes on, and nobody had a chance to answer it."""
    monitor = monitor_of(2)
    with monitor.waiting(1, [Missing(1, 0, 1, "chunk 1")], 2.0) as wait:
        wait.began -= 100
        monitor.tick()
        assert wait.asked
        monitor.tick()  # the answers have had no time yet
        assert monitor.failure is None
        monitor.receive(
            1, {"kind": "answer", "probe": wait.asked, "missing": [], "progress": [], "busy": True}
        )
        wait.asked_at -= 10
        monitor.tick()
    assert monitor.failure is not None
    assert "rank 1 stalled" in str(monitor.failure)
