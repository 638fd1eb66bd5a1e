"""Sampling, with clocks that are made up."""

import gc
from contextlib import nullcontext

import pytest

from warploom.perf.timing import CpuTimer, calibrate, interleave


class SteadyTimer:
    """Every call takes the same time."""

    def __init__(self, cost: float) -> None:
        self.cost, self.calls = cost, 0

    def seconds(self, call, repeats: int) -> float:
        self.calls += repeats
        return self.cost


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("cost", [1e-6, 1e-3, 0.3])
def test_samples_last_long_enough_and_not_much_longer(cost):
    repeats = calibrate(SteadyTimer(cost), lambda: None, at_least=0.1)
    assert repeats * cost >= 0.0999
    assert repeats * cost <= max(cost, 0.3)


def test_calibration_ends_for_calls_that_take_no_time():
    assert calibrate(SteadyTimer(0.0), lambda: None, at_least=0.1, most=500) == 500


def test_the_cpu_timer_calls_as_often_as_asked():
    calls = []
    assert CpuTimer().seconds(lambda: calls.append(1), 7) > 0
    assert len(calls) == 7


def samplers_of(order: list, clock: Ticks, cost: float = 1.0):
    def sampler(name):
        def sample():
            order.append(name)
            clock.now += cost
            return float(len(order))

        return sample

    return {name: sampler(name) for name in "abc"}


def test_everyone_is_sampled_once_a_round_and_the_order_rotates():
    order, clock = [], Ticks()
    samples = interleave(
        samplers_of(order, clock), rounds=3, budget=100, clock=clock, quiet=nullcontext
    )
    assert "".join(order) == "abcbcacab"
    assert samples == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_rounds_end_with_the_budget_but_not_too_early():
    for budget, rounds in ((0.0, 2), (9.0, 3), (100.0, 6)):
        clock = Ticks()
        samples = interleave(
            samplers_of([], clock), rounds=6, budget=budget, at_least=2, clock=clock
        )
        assert len(samples["a"]) == rounds


def test_the_collector_rests_and_comes_back():
    states = []
    interleave({"a": lambda: float(states.append(gc.isenabled()) or 1)}, rounds=2, budget=9)
    assert states == [False, False]
    assert gc.isenabled()
