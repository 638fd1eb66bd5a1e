"""All-gathers of keys and values between hosts, against the plain ring and the cost model.

The cost model knows the links' rates as they were set. What it lacks, the share of a rate that
carries data and the times of a step and of a message, it takes from the plain ring alone, at three
sizes and cuts; everything else it has to predict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from perf.rehearsal.net import INTERFACE, Mesh, Net, Nodes, Plan
from warploom.collectives import Pass, Sample, Topology, calibrate
from warploom.mask import causal
from warploom.perf.case import Case, Contender, Context, Goal, Metric, Role
from warploom.perf.exchanges import (
    Attention,
    Gather,
    Links,
    attend,
    gather,
    gather_by_gloo,
    makespan,
)
from warploom.perf.ranks import Ranks

HEADS, WIDTH = 8, 1024  # of a row of keys; the width in elements
PLANS: tuple[Plan, ...] = (Mesh(8, 20.0), Nodes(2, 4, 80.0, 20.0))
RING, MODEL = "plain ring", "cost model"
FASTER_LINKS = "links twice as fast"


def links_of(plan: Plan) -> Links:
    """The topology that the net is built to be, at the rates that it is built with."""
    gbytes = plan.mbit / 8000
    if isinstance(plan, Mesh):
        return Links("full_mesh", (plan.hosts, gbytes))
    return Links("nodes", (plan.nodes, plan.hosts_per_node, gbytes, plan.nic_mbit / 8000))


@dataclass
class Bench:
    """Hosts that are up, and all-gathers between them."""

    net: Net
    ranks: Ranks
    rows: int

    def what(self, kind: str, rows: int | None = None, parts: int | None = None) -> Gather:
        return Gather(links_of(self.net.plan), kind, rows or self.rows, WIDTH, parts)

    def seconds(self, what: Gather) -> float:
        return makespan(self.ranks.run(gather, what))

    def seconds_of_gloo(self, what: Gather) -> float:
        return makespan(self.ranks.run(gather_by_gloo, what))

    def seconds_on_faster_links(self, what: Gather) -> float:
        self.net.speed(2.0)
        try:
            return self.seconds(what)
        finally:
            self.net.speed(1.0)

    def check(self, what: Gather) -> None:
        """Every byte, once; connections and buffers are warm afterwards."""
        self.ranks.run(gather, what, True)

    @cached_property
    def calibrated(self) -> Topology:
        """The topology with what the plain ring shows of it."""
        small = max(self.rows // 4, 1)
        rings = [self.what("ring", small, 1), self.what("ring", small, 4), self.what("ring")]
        self.check(rings[0])
        samples = [
            Sample(ring.schedule(), Pass(ring.bytes_per_rank, ring.bytes_per_rank), seconds)
            for ring in rings
            for seconds in [self.seconds(ring)]
        ]
        return calibrate(links_of(self.net.plan).topology(), samples)

    def predicted(self, what: Gather) -> float:
        cost = what.schedule().cost(what.bytes_per_rank, topology=self.calibrated)
        return cost.communication_seconds

    def bound(self, what: Gather) -> float:
        """What the links' rates alone allow, to any schedule."""
        return what.schedule().cost(what.bytes_per_rank).bound_seconds


@contextmanager
def bench(plan: Plan, rows: int) -> Iterator[Bench]:
    """A net with a process on each host."""
    with Net(plan) as net, ranks_on(net, timeout=60.0) as ranks:
        yield Bench(net, ranks, rows)


def ranks_on(net: Net, timeout: float) -> Ranks:
    """One rank a host, which reach each other over the net's links alone."""
    return Ranks(
        net.plan.hosts,
        command=net.command,
        address=net.address(0),
        interface=INTERFACE,
        timeout=timeout,
    )


def cases(plan: Plan, at: Callable[[], Bench]) -> list[Case]:
    """A plan's cases; ``at`` gives its hosts when one is measured."""
    five = Goal((RING,), at_least=5.0)
    if isinstance(plan, Mesh):
        return [
            gather_case("mesh_ring", "ring", plan, at),
            gather_case("mesh_bidirectional", "bidirectional", plan, at),
            gather_case("mesh_direct", "direct", plan, at, (five,), gloo=True),
            gather_case("mesh_hamilton", "hamilton", plan, at, (five,)),
            attention_case("mesh_attention_direct", "direct", plan, at),
            attention_case("mesh_attention_hamilton", "hamilton", plan, at),
        ]
    return [
        gather_case("nodes_ring", "ring", plan, at),
        gather_case("nodes_direct", "direct", plan, at),
        gather_case("nodes_hierarchical", "hierarchical", plan, at, (five,)),
        attention_case("nodes_attention_hierarchical", "hierarchical", plan, at),
    ]


def gather_case(
    name: str,
    kind: str,
    plan: Plan,
    bench_of: Callable[[], Bench],
    goals: tuple[Goal, ...] = (),
    gloo: bool = False,
) -> Case:
    """One schedule on one net."""

    def contenders(context: Context) -> list[Contender]:
        at = bench_of()
        what, ring = at.what(kind), at.what("ring")
        amount = float(what.bytes_per_rank * (plan.hosts - 1))
        at.check(what)

        def rate(seconds: Callable[[], float]) -> Callable[[], float]:
            return lambda: amount / seconds()

        predicted, bound = at.predicted(what), at.bound(what)
        listed = [Contender("warploom", Role.OURS, amount, rate=rate(lambda: at.seconds(what)))]
        if kind != "ring":
            listed.append(Contender(RING, Role.PEER, rate=rate(lambda: at.seconds(ring))))
        if gloo:
            listed.append(Contender("gloo", Role.PEER, rate=rate(lambda: at.seconds_of_gloo(ring))))
        return [
            *listed,
            Contender(MODEL, Role.REFERENCE, rate=rate(lambda: predicted)),
            Contender(
                FASTER_LINKS,
                Role.REFERENCE,
                rate=rate(lambda: at.seconds_on_faster_links(what)),
            ),
            Contender("what the links allow", Role.CEILING, rate=rate(lambda: bound)),
        ]

    judged = goals if kind == "ring" else (*goals, Goal((MODEL,), within=0.15))
    text = f"all-gather, {kind}, {plan}"
    return Case(name, text, Metric.BYTES, contenders, judged)


def attention_case(name: str, kind: str, plan: Plan, bench_of: Callable[[], Bench]) -> Case:
    """Forward and backward of attention by one schedule, its rows a quarter of the all-gathers'."""

    def contenders(context: Context) -> list[Contender]:
        at = bench_of()
        length = at.rows // 4 * plan.hosts
        what = Attention(links_of(plan), kind, length, HEADS, WIDTH // HEADS, causal())

        def rate(what: Attention) -> Callable[[], float]:
            return lambda: what.flops / makespan(at.ranks.run(attend, what))

        return [
            Contender("warploom", Role.OURS, what.flops, rate=rate(what)),
            Contender(RING, Role.PEER, rate=rate(replace(what, kind="ring"))),
        ]

    text = f"attention forward and backward, causal, {kind}, {plan}"
    return Case(name, text, Metric.FLOPS, contenders, (Goal((RING,), at_least=1.0),))
