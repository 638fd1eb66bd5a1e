"""Ring attention between processes of this machine: each schedule against the plain ring.

Processes of one machine share its memory, so no schedule moves bytes faster than another here.
What this measures is what a schedule costs: its messages, its waits, its smaller pieces of work.
Links that are the limit are measured between hosts, see docs/rehearsal.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from warploom import mask
from warploom.perf.case import Case, Contender, Context, Goal, Metric, Role
from warploom.perf.exchanges import Attention, attend, makespan
from warploom.perf.ranks import Ranks

CEILINGS = False  # processes share what a thread or two can do
THREADS = (1,)  # of each process
SIZES = (4, 8)
KINDS = ("auto", "direct", "hamilton", "bidirectional", "ulysses")
RING = "plain ring"


def cases(device: str) -> list[Case]:
    """A case for each number of processes and schedule.

    Raises:
        ValueError: a device other than the CPU.
    """
    if device != "cpu":
        raise ValueError(f"device is {device}: processes of this family run on the cpu")
    return [attention(size, kind) for size in SIZES for kind in KINDS]


def attention(size: int, kind: str) -> Case:
    """Forward and backward between so many processes, by one schedule."""
    what = Attention(None, kind, 4096, 8, 64, mask.causal())
    started: list[Ranks] = []

    @contextmanager
    def around(context: Context) -> Iterator[None]:
        with Ranks(size) as ranks:
            started.append(ranks)
            try:
                yield
            finally:
                started.clear()

    def contenders(context: Context) -> Sequence[Contender]:
        mine = replace(what, length=16 * size) if context.quick else replace(what, passes=2)
        return [
            Contender(
                "warploom", Role.OURS, mine.flops * mine.passes, rate=sampler(started[0], mine)
            ),
            Contender(RING, Role.PEER, rate=sampler(started[0], replace(mine, kind="ring"))),
        ]

    return Case(
        f"attention_{kind}_{size}",
        f"forward and backward, {kind}, {size} processes, bfloat16 b1 s4096 h8 d64 causal",
        Metric.FLOPS,
        contenders,
        (Goal((RING,), at_least=0.97),),  # no slower, as far as this can be measured
        around=around,
    )


def sampler(ranks: Ranks, what: Attention) -> Callable[[], float]:
    """Floating-point operations per second, of all ranks together."""
    return lambda: what.flops * what.passes / makespan(ranks.run(attend, what))
