"""Predicted times: what they consist of, and fitting the model to measured ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from warploom import _core
from warploom.collectives.topology import Topology
from warploom.collectives.workload import Pass

if TYPE_CHECKING:
    from warploom.collectives.schedule import Schedule


@dataclass(frozen=True)
class Cost:
    """The predicted times of one pass, in seconds.

    A step takes as long as its transfers or its computation, whichever is longer; its transfers
    take the latency, plus the overhead for each message of the rank that has most, plus the bytes
    over the bandwidth of the link, port, card or bus that takes longest. Steps follow each other.

    Attributes:
        seconds: of the pass.
        communication_seconds: with nothing to compute.
        compute_seconds: with nothing to wait for; more than a rank's own if ranks are uneven.
        exposed_seconds: what communication adds to computation.
        busiest_seconds: bytes over bandwidth of the busiest link, port, card or bus.
        bound_seconds: by bandwidth alone, no schedule that moves the same data can be faster.
        bound: what cannot be passed faster.
        wire_seconds: the part of communication_seconds that is bytes over bandwidth.
        steps: that have transfers.
        messages: of the rank that has most, summed over steps.
    """

    seconds: float
    communication_seconds: float
    compute_seconds: float
    exposed_seconds: float
    busiest_seconds: float
    bound_seconds: float
    bound: str
    wire_seconds: float
    steps: int
    messages: int

    @property
    def load_ratio(self) -> float:
        """The busiest load over the least possible one; 1.0 is the best there is."""
        return self.busiest_seconds / self.bound_seconds if self.bound_seconds else 1.0


class Load(NamedTuple):
    """What a pass moves over one link, port, card or bus."""

    bytes: float
    gbytes_per_s: float


def cost_of(schedule: Schedule, what: Pass, topology: Topology) -> Cost:
    """The cost of a pass over a schedule on a topology."""
    return Cost(
        **_core.schedule_cost(
            topology._handle,
            schedule._handle,
            what.out_bytes,
            what.relay_bytes,
            what.home_bytes,
            what.compute_seconds,
            list(what.shares),
        )
    )


def loads_of(schedule: Schedule, what: Pass, topology: Topology) -> dict[str, Load]:
    """What a pass moves over each link, port, card or bus."""
    rows = _core.schedule_loads(
        topology._handle,
        schedule._handle,
        what.out_bytes,
        what.relay_bytes,
        what.home_bytes,
        list(what.shares),
    )
    return {name: Load(moved, bandwidth / 1e9) for name, moved, bandwidth in rows}


class Sample(NamedTuple):
    """A measured exchange without computation: a schedule, what it moved, and how long it took."""

    schedule: Schedule
    what: Pass
    seconds: float


def calibrate(topology: Topology, samples: Sequence[Sample]) -> Topology:
    """The topology with latency, overhead and bandwidths that fit measured exchanges best.

    All latencies become one, all bandwidths are multiplied by one factor; relative errors are
    minimised, and nothing becomes negative. Exchanges of several sizes are needed to tell latency
    from bandwidth. The overhead of a message is told from latency only by exchanges with different
    numbers of messages a step, as "ring" and "direct" have; with "ring" alone it stays 0.

    Raises:
        ValueError: no samples, a time that is not above 0, or a schedule for other ranks.
    """
    if not samples:
        raise ValueError("samples is empty: must have at least one measured exchange")
    unit = replace(topology, latency_us=0.0, overhead_us=0.0, inter_latency_us=0.0)
    rows = []
    for index, sample in enumerate(samples):
        if not (sample.seconds > 0 and math.isfinite(sample.seconds)):
            raise ValueError(f"samples[{index}] took {sample.seconds} s: must be above 0")
        cost = cost_of(sample.schedule, sample.what, unit)
        rows.append([cost.wire_seconds, cost.steps, cost.messages])
    seconds = np.array([sample.seconds for sample in samples])
    inverse, latency, overhead = _fit(np.array(rows, float) / seconds[:, None])
    return replace(
        topology,
        gbytes_per_s=topology.gbytes_per_s / inverse,
        inter_gbytes_per_s=topology.inter_gbytes_per_s / inverse,
        matrix=tuple(value / inverse for value in topology.matrix),
        latency_us=latency * 1e6,
        inter_latency_us=latency * 1e6,
        overhead_us=overhead * 1e6,
    )


def _fit(table: np.ndarray) -> tuple[float, float, float]:
    """Factors of columns (wire, steps, messages), at least 0, whose sum is nearest to 1.

    Of sets of columns that do equally well the smallest is taken, so that columns which the samples
    cannot tell apart do not share a factor by chance.
    """
    best, best_error = (0.0, 0.0, 0.0), math.inf
    for used in itertools.chain([(0,), (0, 1), (0, 2), (0, 1, 2)]):
        columns = table[:, used]
        if np.linalg.matrix_rank(columns) < len(used):
            continue
        factors, *_ = np.linalg.lstsq(columns, np.ones(len(table)), rcond=None)
        error = float(np.sum((columns @ factors - 1) ** 2))
        if factors[0] > 0 and min(factors) >= 0 and error < best_error - 1e-12:
            chosen = [0.0, 0.0, 0.0]
            for column, factor in zip(used, factors.tolist(), strict=True):
                chosen[column] = factor
            best, best_error = (chosen[0], chosen[1], chosen[2]), error
    if not best[0]:
        raise ValueError("samples: their times do not grow with the bytes moved")
    return best
