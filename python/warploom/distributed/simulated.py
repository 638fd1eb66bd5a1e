"""Ranks as threads of one process: for tests, and for anyone with one device."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from warploom.distributed.failure import RankLostError, RankStalledError
from warploom.distributed.monitor import Message as Word
from warploom.distributed.monitor import Monitor
from warploom.distributed.transport import Label, Message, Posted
from warploom.distributed.world import TIMEOUT, World

T = TypeVar("T")


class Killed(BaseException):
    """What a rank's thread ends with when a fault killed it, or when all is over while it hangs."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to a rank when it is about to post a round.

    kill: its thread ends and its connections close. stop: it does nothing any more, and does not
    answer, as a stopped process. hang: its thread hangs, but its world still answers. lose: the
    messages of this round that it sends never arrive.
    """

    rank: int
    kind: Literal["kill", "stop", "hang", "lose"]
    round: int = 0
    run: int = 1
    phase: str = "exchange"


@dataclass
class Work:
    """A message posted by one side."""

    message: Message
    event: torch.cuda.Event | None  # what was on the poster's stream before
    monitor: Monitor
    finished: bool = False
    lost: bool = False
    moved: torch.cuda.Event | None = None  # what the copy is on the receiver's stream


@dataclass
class Network:
    """What connects the ranks. `delay`: the most seconds that a message takes, drawn by `seed`."""

    size: int
    delay: float = 0.0
    seed: int = 0
    faults: Sequence[Fault] = ()
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.monitors = [Monitor(rank, self.size) for rank in range(self.size)]
        self.stopped: set[int] = set()
        self.dead: set[int] = set()
        self._lock = threading.Lock()
        self._posted: dict[tuple[int, int], tuple[deque[Work], deque[Work]]] = {
            pair: (deque(), deque()) for pair in itertools.permutations(range(self.size), 2)
        }
        self._random = {pair: random.Random(f"{self.seed} {pair}") for pair in self._posted}
        self._parcels: list[tuple[float, int, Work, Work]] = []
        self._count = itertools.count()
        self._parcel = threading.Condition(self._lock)
        if self.delay:
            threading.Thread(target=self._deliver, name="courier", daemon=True).start()

    def post(self, source: int, target: int, side: int, work: Work) -> None:
        """Takes a send (side 0) or a receive (side 1); pairs them in the order of posting."""
        with self._lock:
            queues = self._posted[source, target]
            queues[side].append(work)
            if not queues[1 - side]:
                return
            send, receive = queues[0].popleft(), queues[1].popleft()
            if send.lost:
                return
            if self.delay:
                pause = self._random[source, target].random() * self.delay
                due = time.monotonic() + pause
                heapq.heappush(self._parcels, (due, next(self._count), send, receive))
                self._parcel.notify()
                return
        move(send, receive)

    def _deliver(self) -> None:
        """Copies late: whoever uses a buffer too early sees it."""
        while not self.over.is_set():
            with self._lock:
                now = time.monotonic()
                if not self._parcels or self._parcels[0][0] > now:
                    pause = self._parcels[0][0] - now if self._parcels else 0.1
                    self._parcel.wait(min(pause, 0.1))
                    continue
                _, _, send, receive = heapq.heappop(self._parcels)
            move(send, receive)

    def strike(self, rank: int, label: Label) -> bool:
        """Lets this rank's faults happen; whether what it sends is lost."""
        for fault in self.faults:
            if (fault.rank, fault.run, fault.phase, fault.round) != (rank, *label):
                continue
            if fault.kind == "lose":
                return True
            if fault.kind == "kill":
                self.kill(rank)
                raise Killed
            if fault.kind == "stop":
                self.stopped.add(rank)
            self.over.wait()
            raise Killed
        return False

    def kill(self, rank: int) -> None:
        """A rank is gone: every other sees its connection end."""
        if rank not in self.dead:
            self.dead.add(rank)
            for other in self.monitors:
                if other.rank not in self.dead | self.stopped:
                    other.lost(rank)


def move(send: Work, receive: Work) -> None:
    """Copies what was sent into its place, and tells both sides."""
    if send.message.tag != receive.message.tag:
        raise RuntimeError(
            f"message {send.message.tag:#x} met the receive of {receive.message.tag:#x}"
        )
    source, target = send.message.tensor, receive.message.tensor
    if source.shape != target.shape or source.dtype != target.dtype:
        raise RuntimeError(f"a message of {source.shape} met a receive of {target.shape}")
    if target.is_cuda:
        stream = torch.cuda.Stream(target.device)
        for work in (send, receive):
            assert work.event is not None
            stream.wait_event(work.event)
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            send.moved = receive.moved = stream.record_event()
    else:
        target.copy_(source)
    for work in (send, receive):
        with work.monitor.changed:
            work.finished = True
            work.monitor.changed.notify_all()


class SimulatedLink:
    """Words between ranks of one process; the stopped hear and say nothing."""

    def __init__(self, rank: int, network: Network) -> None:
        self._rank, self._network = rank, network

    def send(self, rank: int, message: Word) -> None:
        network = self._network
        silent = network.stopped | network.dead
        if rank not in silent and self._rank not in silent:
            network.monitors[rank].receive(self._rank, message)


class SimulatedTransport:
    """Messages between ranks of one process."""

    asynchronous = False

    def __init__(self, monitor: Monitor, network: Network) -> None:
        self._monitor, self._network = monitor, network

    def post(self, label: Label, sends: Sequence[Message], receives: Sequence[Message]) -> Posted:
        lost = self._network.strike(self._monitor.rank, label)
        posted = Posted([self._work(m) for m in sends], [self._work(m) for m in receives])
        own = self._monitor.rank
        for work in posted.receives:
            self._network.post(work.message.peer, own, 1, work)
        for work in posted.sends:
            work.finished = work.lost = lost
            self._network.post(own, work.message.peer, 0, work)
        return posted

    def _work(self, message: Message) -> Work:
        event = None
        if message.tensor.is_cuda:
            event = torch.cuda.current_stream(message.tensor.device).record_event()
        return Work(message, event, self._monitor)

    def wait(self, handle: Work) -> None:
        self._monitor.sleep(lambda: handle.finished)
        if handle.moved is not None:
            torch.cuda.current_stream(handle.message.tensor.device).wait_event(handle.moved)

    def done(self, handle: Work) -> bool:
        return handle.finished

    def ready(self, handle: Work) -> bool:
        return True

    def check(self, name: str, tensor: torch.Tensor) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class SimulatedWorld(World):
    """One rank of a simulated network; `run_ranks` makes them."""

    one_machine = True

    def __init__(
        self, rank: int, network: Network, device: torch.device, timeout: float = TIMEOUT
    ) -> None:
        monitor = network.monitors[rank]
        monitor.link = SimulatedLink(rank, network)
        super().__init__(monitor, SimulatedTransport(monitor, network), device, timeout)
        self.network = network


def run_outcomes(
    size: int,
    function: Callable[[SimulatedWorld], T],
    *,
    device: torch.device | str = "cpu",
    timeout: float = TIMEOUT,
    limit: float = 600.0,
    delay: float = 0.0,
    seed: int = 0,
    faults: Sequence[Fault] = (),
) -> list[T | BaseException]:
    """As `run_ranks`, with what each rank ended with: its result, or its exception."""
    network = Network(size, delay, seed, faults)
    outcomes: dict[int, T | BaseException] = {}
    worlds = [SimulatedWorld(r, network, torch.device(device), timeout) for r in range(size)]

    def live(world: SimulatedWorld) -> None:
        try:
            with world:
                outcomes[world.rank] = function(world)
        except Killed as error:
            outcomes[world.rank] = error
        except BaseException as error:
            outcomes[world.rank] = error

    threads = [
        threading.Thread(target=live, args=(world,), name=f"rank {world.rank}", daemon=True)
        for world in worlds
    ]
    for thread in threads:
        thread.start()
    hanging = {f.rank for f in faults if f.kind in ("stop", "hang")}
    end = time.monotonic() + limit
    for rank, thread in enumerate(threads):
        if rank not in hanging:
            thread.join(max(end - time.monotonic(), 0))
    network.over.set()
    for thread in threads:
        thread.join(max(end - time.monotonic(), 1))
    late = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    if late:
        raise TimeoutError(f"ranks {late} did not end within {limit:g} s")
    return [outcomes[rank] for rank in range(size)]


def run_ranks(size: int, function: Callable[[SimulatedWorld], T], **options: Any) -> list[T]:
    """Runs a function as every rank of a simulated world, each in a thread; their results.

    Args:
      size: number of ranks.
      function: called with each rank's world.
      device: where tensors live; all ranks share it.
      timeout: the world's, in seconds.
      limit: seconds after which ranks that have not ended are a TimeoutError.
      delay: the most seconds that a message takes; each draws its own by `seed`.
      faults: what goes wrong, see `Fault`.

    Raises: the exception of the lowest rank that had one, with a note of the rank; of those that
      only say that another rank failed, none unless there are no others.
    """
    outcomes = run_outcomes(size, function, **options)
    results = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if len(results) == size:
        return results
    errors = [(r, error) for r, error in enumerate(outcomes) if isinstance(error, BaseException)]
    causes = [each for each in errors if not isinstance(each[1], RankLostError | RankStalledError)]
    rank, error = (causes or errors)[0]
    error.add_note(f"raised by rank {rank} of {size}")
    raise error
