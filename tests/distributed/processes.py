"""Ranks as processes on this machine, over gloo. A server that has imported torch forks them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch.distributed as dist

from warploom.distributed import TorchWorld

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "warploom.distributed"])


@dataclass
class Outcome:
    """How a rank ended: what its function returned or raised, when, and its exit code."""

    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    exit_code: int | None = None


def live(
    rank: int,
    size: int,
    port: int,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    pipe: Connection,
) -> None:
    """A rank's process: joins, runs the function, says how it ended, and leaves in good order."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    world = TorchWorld(timeout=timeout)
    began = time.monotonic()
    try:
        pipe.send((function(world, *arguments), None, time.monotonic() - began))
    except Exception as error:
        pipe.send((None, error, time.monotonic() - began))
    world.close()
    dist.destroy_process_group()


def run_processes(
    size: int,
    function: Callable[..., Any],
    *arguments: Any,
    timeout: float = 10.0,
    limit: float = 30.0,
    gone: tuple[int, ...] = (),
    resumed: int | None = None,
) -> list[Outcome]:
    """Runs a function in so many processes.

    gone: ranks that are not expected to say anything.
    resumed: a rank that stops itself, and is let go on when all others are done.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    outcomes = [Outcome() for _ in range(size)]
    processes: list[Any] = []
    pipes: dict[Connection, int] = {}
    late: list[Connection] = []
    for rank in range(size):
        pipe, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(
            target=live, args=(rank, size, store.port, timeout, function, arguments, theirs)
        )
        process.start()
        theirs.close()
        processes.append(process)
        if rank == resumed:
            late.append(pipe)
        elif rank not in gone:
            pipes[pipe] = rank
    end = time.monotonic() + limit
    try:
        while pipes and time.monotonic() < end:
            for pipe in wait(list(pipes), max(end - time.monotonic(), 0)):
                rank = pipes.pop(pipe)
                o = outcomes[rank]
                try:
                    o.result, o.error, o.seconds = pipe.recv()
                except EOFError:
                    continue
            if not pipes and late:
                assert resumed is not None
                os.kill(processes[resumed].pid, signal.SIGCONT)
                pipes[late.pop()] = resumed
        for rank, process in enumerate(processes):
            if rank not in gone:
                process.join(max(end - time.monotonic(), 0))
                outcomes[rank].exit_code = process.exitcode
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    return outcomes


def die(how: str) -> None:
    """Ends, stops or hangs this process, as from outside."""
    if how == "hang":
        threading.Event().wait()
    os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
