"""Clocks, and samples taken in turns.

A sample repeats a call until it lasts long enough to be timed well. Contenders are sampled in
turns, in an order that rotates from round to round, so that a change of clock rate or a
neighbour's load meets all of them alike.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

Call = Callable[[], Any]
Sampler = Callable[[], float]  # one sample: a rate, per second


class Timer(Protocol):
    """Seconds that one call takes, averaged over ``repeats`` calls in a row."""

    def seconds(self, call: Call, repeats: int) -> float: ...


class CpuTimer:
    """Wall-clock time of calls that are done when they return."""

    def seconds(self, call: Call, repeats: int) -> float:
        begin = time.perf_counter_ns()
        for _ in range(repeats):
            call()
        return (time.perf_counter_ns() - begin) * 1e-9 / repeats


class CudaTimer:
    """Device time between two events around each call, with a cold L2 cache.

    ``flush`` False keeps the caches warm and times the calls back to back: for launch overhead.
    """

    def __init__(self, device: str = "cuda", *, flush: bool = True) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        l2_bytes = torch.cuda.get_device_properties(self._device).L2_cache_size
        self._scratch = (
            torch.empty(max(2 * l2_bytes, 1), dtype=torch.uint8, device=self._device)
            if flush
            else None
        )

    def seconds(self, call: Call, repeats: int) -> float:
        if self._scratch is None:
            return self._between(lambda: [call() for _ in range(repeats)]) / repeats
        return sum(self._cold(call) for _ in range(repeats)) / repeats

    def _cold(self, call: Call) -> float:
        assert self._scratch is not None
        self._scratch.zero_()
        return self._between(call)

    def _between(self, call: Call) -> float:
        with self._torch.cuda.device(self._device):
            event: Any = self._torch.cuda.Event
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3


def calibrate(timer: Timer, call: Call, at_least: float, most: int = 100_000) -> int:
    """Repeats that make a sample last ``at_least`` seconds; also warms the call up."""
    timer.seconds(call, 1)
    repeats = 1
    while True:
        taken = timer.seconds(call, repeats) * repeats
        if taken >= at_least or repeats >= most:
            return repeats
        grown = repeats * at_least / max(taken, at_least / 100)
        repeats = min(most, max(repeats + 1, int(grown * 1.1)))


@contextmanager
def no_collection() -> Any:
    """Keeps the garbage collector out of the samples."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def interleave(
    samplers: Mapping[str, Sampler],
    *,
    rounds: int,
    budget: float,
    at_least: int = 3,
    clock: Callable[[], float] = time.monotonic,
    quiet: Callable[[], AbstractContextManager[Any]] = no_collection,
) -> dict[str, list[float]]:
    """Samples everything once a round; the rounds end early when ``budget`` seconds are spent.

    Never fewer than ``at_least`` rounds. Returns the samples of each name, one a round.
    """
    names = list(samplers)
    samples: dict[str, list[float]] = {name: [] for name in names}
    begin = clock()
    with quiet():
        for taken in range(rounds):
            if taken >= at_least and clock() - begin >= budget:
                break
            first = taken % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(samplers[name]())
    return samples
