"""What is measured: a piece of work, who does it, and what it should reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from warploom.perf.timing import Call, CpuTimer, CudaTimer, Sampler, Timer

if TYPE_CHECKING:
    import torch


class Metric(Enum):
    """What a case's amount counts, with the unit and scale in which its rate is shown."""

    FLOPS = ("GFLOP/s", 1e9)
    BYTES = ("GB/s", 1e9)
    CALLS = ("kcalls/s", 1e3)
    REQUESTS = ("krequests/s", 1e3)
    KEYS = ("Mkeys/s", 1e6)  # positions attended to

    @property
    def unit(self) -> str:
        return self.value[0]

    @property
    def scale(self) -> float:
        return self.value[1]


class Role(Enum):
    OURS = "ours"
    PEER = "peer"  # does the same job: compared by time
    REFERENCE = "reference"  # another job of ours: compared by work per second
    CEILING = "ceiling"  # what the machine can do at most


@dataclass(frozen=True)
class Context:
    """Where a case runs."""

    device: str = "cpu"
    threads: int = 1
    quick: bool = False  # tiny shapes, a few rounds: shows that everything runs, judges nothing

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def timer(self, *, flush: bool = True) -> Timer:
        return CudaTimer(self.device, flush=flush) if self.on_cuda else CpuTimer()


@dataclass(frozen=True)
class Contender:
    """One who does the work.

    ``prepare`` makes inputs and compiles, outside of the timing, and returns the call to time,
    which does ``amount`` of the case's metric. ``rate`` replaces both where a rate comes measured.
    ``output`` takes what the call returned to a tensor that ours can be compared with; a contender
    without it is not compared. ``optional``: where it cannot run, that is noted and not an error.
    """

    name: str
    role: Role
    amount: float = 0.0
    prepare: Callable[[], Call] | None = None
    rate: Sampler | None = None
    output: Callable[[Any], torch.Tensor] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if (self.prepare is None) == (self.rate is None):
            raise ValueError(f"contender {self.name}: give either prepare or rate")


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio to a contender, or on the time of a call.

    ``against``: one or more contenders; of several, the fastest counts. Ratios are of work per
    second, ours over theirs. ``at_most_slower`` bounds our time over theirs from above,
    ``within`` its distance from 1 each way, and ``at_most_seconds`` our own time.
    """

    against: tuple[str, ...] = ()
    at_least: float | None = None
    at_most_slower: float | None = None
    at_most_seconds: float | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        bounds = (self.at_least, self.at_most_slower, self.at_most_seconds, self.within)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(
                "a goal has exactly one of at_least, at_most_slower, at_most_seconds, within"
            )
        if (self.at_most_seconds is None) != bool(self.against):
            raise ValueError("a goal on a ratio names whom it is against, one on a time nobody")

    def __str__(self) -> str:
        whom = " and ".join(self.against)
        if self.at_least is not None:
            return f"at least {self.at_least:g}x the rate of {whom}"
        if self.at_most_slower is not None:
            return f"at most {self.at_most_slower:g}x the time of {whom}"
        if self.within is not None:
            return f"within {100 * self.within:g}% of the time of {whom}"
        assert self.at_most_seconds is not None
        return f"at most {format_seconds(self.at_most_seconds)}"


def format_seconds(seconds: float) -> str:
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
    scale, unit = next((pair for pair in units if seconds >= pair[0]), units[-1])
    return f"{seconds / scale:.3g} {unit}"


@dataclass(frozen=True)
class Figure:
    """What a case shows beside its speed, judged where it has a bound."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.value:.6g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Case:
    """A row to be: ``contenders(context)`` are made when it runs, ours first, inside ``around``."""

    name: str
    text: str
    metric: Metric
    contenders: Callable[[Context], Sequence[Contender]]
    goals: tuple[Goal, ...] = ()
    dtype: str = "float32"  # of the results: how far a peer's may be from ours
    timer: Callable[[Context], Timer] = field(default=Context.timer)
    around: Callable[[Context], AbstractContextManager[Any]] = lambda context: nullcontext()
    figures: Callable[[Context], Sequence[Figure]] = lambda context: ()
