"""Rows and verdicts from made-up contenders."""

import pytest
import torch

from warploom.perf.case import Case, Contender, Context, Goal, Metric, Role, format_seconds
from warploom.perf.measure import Effort, judge, measure
from warploom.perf.stats import Spread

EFFORT = Effort(rounds=3, sample_seconds=1e-6, budget=1.0)


class TwoSpeeds:
    """A timer under which a call says itself how long it takes."""

    def seconds(self, call, repeats):
        return call()


def contender(name, role, seconds, amount=2e9, **others):
    return Contender(name, role, amount, lambda: lambda: seconds, **others)


def case_of(*contenders, goals=(), dtype="float32"):
    return Case(
        "made_up", "a case", Metric.FLOPS, lambda context: contenders, goals, dtype,
        lambda context: TwoSpeeds(),
    )  # fmt: skip


def run(case, context=None, said=None):
    said = [] if said is None else said
    return measure(
        case, context or Context(threads=2), EFFORT, ([] if said is None else said).append
    )


def test_a_row_holds_rates_and_ratios():
    row = run(
        case_of(
            contender("warploom", Role.OURS, 0.5),
            contender("slow", Role.PEER, 1.0),
            contender("half the work", Role.REFERENCE, 0.5, amount=1e9),
            Contender("peak", Role.CEILING, rate=lambda: 8e9),
            goals=(Goal(("slow",), at_least=1.5), Goal(("peak",), at_least=0.9)),
        )
    )
    assert (row["case"], row["threads"], row["rounds"]) == ("made_up", 2, 3)
    assert (row["rate"], row["unit"], row["seconds"]["median"]) == (4.0, "GFLOP/s", 0.5)
    ratios = {name: other["ratio"]["median"] for name, other in row["others"].items()}
    assert ratios == {"slow": 2.0, "half the work": 2.0, "peak": 0.5}
    assert row["others"]["slow"]["rate"] == 2.0
    assert [(g["value"], g["met"]) for g in row["goals"]] == [(2.0, True), (0.5, False)]


def test_quick_runs_judge_nothing():
    case = case_of(
        contender("warploom", Role.OURS, 0.5),
        contender("slow", Role.PEER, 1.0),
        goals=(Goal(("slow",), at_least=1.5),),
    )
    assert run(case, Context(quick=True))["goals"] == []


def vector(*values):
    return lambda result: torch.tensor(values)


def test_a_peer_that_computes_something_else_stops_the_run():
    ours = contender("warploom", Role.OURS, 1.0, output=vector(1.0, 2.0))
    near = contender("near", Role.PEER, 1.0, output=vector(1.0, 2.000005))
    run(case_of(ours, near))
    rounded = contender("in 16 bits", Role.PEER, 1.0, output=vector(1.0, 2.03))
    run(case_of(ours, rounded, dtype="bfloat16"))
    with pytest.raises(ValueError, match=r"must be at most 3\.8e-06"):
        run(case_of(ours, rounded))
    with pytest.raises(ValueError, match=r"far differs from ours by 4\.47e-01"):
        run(case_of(ours, contender("far", Role.PEER, 1.0, output=vector(1.0, 3.0))))
    with pytest.raises(ValueError, match="differs from ours by nan"):
        run(case_of(ours, contender("nan", Role.PEER, 1.0, output=vector(1.0, float("nan")))))


def broken():
    raise NotImplementedError("no compiler\nand more")


def test_optional_contenders_that_cannot_run_are_noted():
    said = []
    row = run(
        case_of(
            contender("warploom", Role.OURS, 1.0),
            Contender("absent", Role.PEER, 1.0, broken, optional=True),
            goals=(Goal(("absent",), at_least=1.0),),
        ),
        said=said,
    )
    assert row["refused"] == {"absent": "NotImplementedError: no compiler"}
    assert said == ["made_up: absent cannot run: NotImplementedError: no compiler"]
    assert row["goals"][0]["met"] is None


def test_needed_contenders_that_cannot_run_are_errors():
    with pytest.raises(NotImplementedError):
        run(case_of(contender("warploom", Role.OURS, 1.0), Contender("p", Role.PEER, 1.0, broken)))
    with pytest.raises(ValueError, match="first contender must be ours"):
        run(case_of(contender("other", Role.PEER, 1.0)))


RATIOS = {"a": Spread(2.0, 1.9, 2.1), "b": Spread(1.2, 1.1, 1.3)}


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal(("a",), at_least=2.0), 2.0, True),
        (Goal(("a", "b"), at_least=1.5), 1.2, False),  # the fastest peer counts
        (Goal(("a", "missing"), at_least=1.5), 2.0, True),
        (Goal(("missing",), at_least=1.5), None, None),
        (Goal(("a",), at_most_slower=0.5), 0.5, True),
        (Goal(("b",), at_most_slower=0.5), 1 / 1.2, False),
        (Goal(("b",), within=0.2), 1 / 1.2, True),
        (Goal(("b",), within=0.1), 1 / 1.2, False),
        (Goal(("a",), within=0.6), 0.5, True),
        (Goal(at_most_seconds=1e-3), 1e-3, True),
        (Goal(at_most_seconds=9e-4), 1e-3, False),
    ],
)
def test_verdicts(goal, value, met):
    judged = judge(goal, Spread(1e-3, 1e-3, 2e-3), RATIOS)
    assert (judged["value"], judged["met"]) == (value, met)


def test_goals_are_whole():
    with pytest.raises(ValueError, match="exactly one"):
        Goal(("a",))
    with pytest.raises(ValueError, match="exactly one"):
        Goal(("a",), at_least=1.0, at_most_slower=2.0)
    with pytest.raises(ValueError, match="names whom"):
        Goal(at_least=1.0)
    with pytest.raises(ValueError, match="either prepare or rate"):
        Contender("a", Role.PEER)


def test_times_are_shown_in_fitting_units():
    assert [format_seconds(t) for t in (2.5, 0.0123, 1.2e-5, 3e-8)] == [
        "2.5 s", "12.3 ms", "12 us", "0.03 us",
    ]  # fmt: skip
