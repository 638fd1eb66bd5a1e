"""Processes that are ranks of one gloo world, and do what they are told, again and again.

``Ranks`` starts them: on this machine, or by a command that puts each on a host of its own. Each
runs this module, joins the others, and then calls the functions that come down its pipe.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Self

_SET_PARENT_DEATH_SIGNAL = 1  # prctl's
_START = 120.0  # seconds in which processes import torch and join


@dataclass
class Outcome:
    """What came of a rank's call: its value, or the error that it raised; or it ended."""

    rank: int
    value: Any = None
    error: BaseException | None = None
    ended: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.ended:
            return "ended"
        return "done" if self.error is None else f"{type(self.error).__name__}: {self.error}"


class RankFailedError(RuntimeError):
    """A rank's call raised, or the rank ended, where that was not asked for."""


class Ranks:
    """So many processes while the context lasts. None outlives this one, however it ends.

    Args:
      size: how many.
      command: what to write before the command of a rank, ``["ip", "netns", "exec", ...]``.
      address: of rank 0, as others reach it.
      interface: the network interface whose address gloo binds to.
      timeout: of the world's waits.
    """

    def __init__(
        self,
        size: int,
        *,
        command: Callable[[int], Sequence[str]] = lambda rank: (),
        address: str = "127.0.0.1",
        interface: str = "lo",
        timeout: float = 60.0,
    ) -> None:
        self.size = size
        self._command, self._address, self._interface = command, address, interface
        self._timeout = timeout
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        try:
            for rank in range(self.size):
                self._start(rank)
            (port,) = self.collect([0], _START)
            for pipe in self._pipes[1:]:
                pipe.send(_value(port))
            self.values(self.collect(range(self.size), _START))
        except BaseException:
            self._end(at_once=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(at_once=kind is not None)

    def run(self, function: Callable[..., Any], *arguments: Any, limit: float = 120.0) -> list[Any]:
        """``function(world, *arguments)`` on every rank; their values.

        Raises:
            RankFailedError: one of them raised, ended, or took longer than the limit.
        """
        self.post(function, *arguments)
        return self.values(self.collect(range(self.size), limit))

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Has all ranks begin a call."""
        for pipe in self._pipes:
            pipe.send((function, arguments))

    def collect(self, ranks: Sequence[int], limit: float) -> list[Outcome]:
        """What came of the calls of some ranks. A rank that says nothing in time raised that."""
        outcomes = {rank: Outcome(rank) for rank in ranks}
        waited = {self._pipes[rank]: rank for rank in ranks}
        end = time.monotonic() + limit
        while waited:
            ready = wait(list(waited), max(end - time.monotonic(), 0.0))
            if not ready:
                break
            for pipe in ready:
                assert isinstance(pipe, Connection)
                outcome = outcomes[waited.pop(pipe)]
                try:
                    outcome.value, outcome.error, outcome.seconds = pipe.recv()
                except (EOFError, ConnectionError):
                    outcome.ended = True
        for rank in waited.values():
            outcomes[rank].error = TimeoutError(f"rank {rank} said nothing in {limit:g} s")
        return list(outcomes.values())

    def values(self, outcomes: Sequence[Outcome]) -> list[Any]:
        """The values of calls, RankFailedError unless all have one."""
        for outcome in outcomes:
            if outcome.ended or outcome.error is not None:
                raise RankFailedError(f"rank {outcome.rank}: {outcome}") from outcome.error
        return [outcome.value for outcome in outcomes]

    def leave(self, ranks: Sequence[int], limit: float = 20.0) -> list[bool]:
        """Tells some ranks to end; whether each did, in good order and in time."""
        for rank in ranks:
            self._pipes[rank].close()
        end = time.monotonic() + limit
        ended = []
        for rank in ranks:
            try:
                code = self._processes[rank].wait(max(end - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                code = None
            ended.append(code == 0)
        return ended

    def kill(self) -> None:
        """Ends all processes at once, whatever they do."""
        for process in self._processes:
            process.kill()

    def signal(self, rank: int, number: int) -> None:
        """Sends a signal to a rank's process."""
        self._processes[rank].send_signal(number)

    def _start(self, rank: int) -> None:
        ours, theirs = Pipe()
        here = [sys.executable, "-m", "warploom.perf.ranks", str(theirs.fileno()), str(rank)]
        here += [str(self.size), self._address, str(self._timeout)]
        environment = {
            "GLOO_SOCKET_IFNAME": self._interface,
            "OMP_NUM_THREADS": "1",
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # names of hosts are looked for where there are none
            "OMP_WAIT_POLICY": "passive",  # processes share cores
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        }
        process = subprocess.Popen(
            [*self._command(rank), *here],
            pass_fds=[theirs.fileno()],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # gloo greets everybody
            start_new_session=True,  # an interrupt from the keyboard is the parent's to handle
            preexec_fn=_die_with_parent,
        )
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    def _end(self, at_once: bool) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if at_once:
                process.kill()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._pipes, self._processes = [], []


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _value(outcome: Outcome) -> Any:
    if outcome.error is not None or outcome.ended:
        raise RankFailedError(f"rank {outcome.rank}: {outcome}")
    return outcome.value


def _answer(pipe: Connection, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function, sends what came of it, and returns its value."""
    began = time.monotonic()
    value = error = None
    try:
        value = function(*arguments)
    except Exception as raised:
        error = raised
    seconds = time.monotonic() - began
    try:
        said = pickle.dumps((value, error, seconds))
        pickle.loads(said)
    except Exception as refused:  # of any kind: what refuses to be pickled says so as it likes
        text = "".join(traceback.format_exception(error)) if error else repr(value)
        said = pickle.dumps((None, RuntimeError(f"cannot be sent ({refused}): {text}"), seconds))
    pipe.send_bytes(said)
    return value


def main(words: Sequence[str]) -> None:
    """A rank's process."""
    parser = argparse.ArgumentParser(prog="warploom.perf.ranks")
    parser.add_argument("pipe", type=int)
    parser.add_argument("rank", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("address")
    parser.add_argument("timeout", type=float)
    told = parser.parse_args(words)
    pipe = Connection(told.pipe)

    import torch
    import torch.distributed as dist
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from warploom.distributed import TorchWorld

    torch.set_num_threads(1)
    store: Any = None

    def serve() -> int:
        nonlocal store
        store = TCPStore(told.address, 0, is_master=True, wait_for_workers=False)
        return int(store.port)

    def join() -> Any:
        nonlocal store
        if store is None:
            store = TCPStore(told.address, pipe.recv(), is_master=False)
        seconds = datetime.timedelta(seconds=max(2 * told.timeout, 60.0))
        dist.init_process_group(
            "gloo", store=store, rank=told.rank, world_size=told.size, timeout=seconds
        )
        worlds.append(TorchWorld(timeout=told.timeout))

    worlds: list[TorchWorld] = []
    if told.rank == 0:
        _answer(pipe, serve)
    _answer(pipe, join)
    while worlds:
        try:
            function, arguments = pipe.recv()
        except (EOFError, ConnectionError):
            break
        _answer(pipe, function, worlds[0], *arguments)
    for world in worlds:
        world.close()


if __name__ == "__main__":
    main(sys.argv[1:])
