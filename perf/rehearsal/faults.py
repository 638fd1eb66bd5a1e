"""Links cut and hosts lost in the middle of an exchange: who raises what, and how soon."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from perf.rehearsal.cases import WIDTH, links_of, ranks_on
from perf.rehearsal.net import Mesh, Net
from warploom.distributed import RankLostError, RankStalledError
from warploom.perf.exchanges import Gather, gather
from warploom.perf.ranks import Outcome, Ranks

PLAN = Mesh(4, 4.0)
TIMEOUT = 3.0  # seconds that a wait may last
ROUND = 1.0  # seconds that a round of the plain ring takes
LATE = 1.0  # seconds after a timeout in which the word of it must have gone round
HIT = 2  # the rank that is struck


@dataclass(frozen=True)
class Fault:
    """One way in which a host is lost.

    survivors: ranks that can and must say so; error: what they raise, naming one of ``named``. A
    struck rank that is cut off from all names whom it waits for.
    """

    name: str
    strike: Callable[[Net, Ranks], None]
    survivors: tuple[int, ...]
    error: type[OSError]
    named: tuple[int, ...] = (HIT,)

    def right(self, outcome: Outcome) -> bool:
        """Whether a survivor's error is the one that it must be."""
        if not isinstance(outcome.error, self.error):
            return False
        named = getattr(outcome.error, "rank", None)
        alone = outcome.rank == HIT and self.named == (HIT,)
        return named != HIT if alone else named in self.named


def _others(plan: Mesh) -> tuple[int, ...]:
    return tuple(rank for rank in range(plan.hosts) if rank != HIT)


FAULTS = (
    Fault(
        "process killed",
        lambda net, ranks: ranks.signal(HIT, signal.SIGKILL),
        _others(PLAN),
        RankLostError,
    ),
    Fault(
        "process stopped",
        lambda net, ranks: ranks.signal(HIT, signal.SIGSTOP),
        _others(PLAN),
        RankStalledError,
    ),
    Fault(
        "host unplugged",
        lambda net, ranks: net.unplug(HIT),
        tuple(range(PLAN.hosts)),
        RankStalledError,
    ),
    Fault(
        "link cut",
        lambda net, ranks: net.cut(HIT - 1, HIT),
        tuple(range(PLAN.hosts)),
        RankStalledError,
        (HIT - 1, HIT),
    ),
)


@dataclass(frozen=True)
class Trial:
    """A fault in a round of an exchange, and how every rank that should took it."""

    fault: Fault
    kind: str
    after: float  # seconds into the exchange
    survivors: list[Outcome]
    closed: list[bool]  # whether each survivor's process ended in good order afterwards

    @property
    def raised(self) -> list[Outcome]:
        return [o for o in self.survivors if o.error is not None]

    def wrong(self) -> list[str]:
        """What is not as it must be.

        Every survivor raises the named error in time, or has every chunk by then; one raises. The
        wait that ends so began with the round that was struck, or with the next one.
        """
        limit = ROUND + TIMEOUT + LATE
        said = [] if self.raised else ["nobody noticed"]
        for outcome in self.survivors:
            late = outcome.seconds - self.after
            if outcome.error is not None and not self.fault.right(outcome):
                said.append(f"rank {outcome.rank}: {outcome}")
            elif outcome.ended or late > limit:
                said.append(f"rank {outcome.rank}: {outcome}, {late:.1f} s after the fault")
        return said + [
            f"rank {outcome.rank} did not end"
            for outcome, closed in zip(self.survivors, self.closed, strict=True)
            if not closed
        ]

    def line(self) -> str:
        """A row of the table."""
        named = sorted({str(getattr(o.error, "rank", "nobody")) for o in self.raised})
        errors = sorted({type(o.error).__name__ for o in self.raised})
        late = [o.seconds - self.after for o in self.raised] or [0.0]
        done = len(self.survivors) - len(self.raised)
        wrong = "; ".join(self.wrong()) or "-"
        return (
            f"| {self.fault.name} | {self.kind} | {self.after:.1f} s | {', '.join(errors)} | "
            f"{', '.join(named)} | {min(late):.1f} to {max(late):.1f} s | "
            f"{len(self.raised)} raised, {done} had every chunk | {wrong} |"
        )


HEAD = (
    f"Rank {HIT} of {PLAN.hosts} is struck (link cut: {HIT - 1} to {HIT}); "
    f"waits last at most {TIMEOUT:g} s.\n\n"
    "| fault | schedule | struck at | error | names rank | raised, after the fault | survivors | "
    "wrong |\n|---|---|---|---|---|---|---|---|"
)


def strike(fault: Fault, kind: str, after: float) -> Trial:
    """One exchange between fresh hosts, struck so many seconds after it began."""
    rows = int(ROUND * PLAN.mbit * 1e6 / 8) // (4 * WIDTH)
    what = Gather(links_of(PLAN), kind, rows, WIDTH)
    with Net(PLAN) as net, ranks_on(net, TIMEOUT) as ranks:
        ranks.run(gather, Gather(what.links, kind, 8, WIDTH), True)
        ranks.post(gather, what, False, TIMEOUT)
        time.sleep(after)
        fault.strike(net, ranks)
        outcomes = ranks.collect(fault.survivors, PLAN.hosts * ROUND + TIMEOUT + LATE)
        closed = ranks.leave(fault.survivors)
        ranks.kill()
    return Trial(fault, kind, after, outcomes, closed)


def trials() -> list[tuple[Fault, str, float]]:
    """Every fault in the first, a middle and the last round of a ring, and in a direct exchange."""
    rounds = PLAN.hosts - 1
    chosen = [(fault, "ring", (r + 0.4) * ROUND) for fault in FAULTS for r in range(rounds)]
    return chosen + [(fault, "direct", 0.4 * ROUND) for fault in FAULTS]
