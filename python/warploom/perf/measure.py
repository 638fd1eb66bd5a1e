"""One case, measured: contenders checked against each other, then sampled in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from warploom.perf import ceilings
from warploom.perf.case import Case, Contender, Context, Figure, Goal, Role
from warploom.perf.stats import Spread, paired_ratio, spread
from warploom.perf.timing import Sampler, Timer, calibrate, interleave

if TYPE_CHECKING:
    import torch

SCHEMA = 1
Row = dict[str, Any]  # one line of results: plain values, see measure()


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int = 15
    sample_seconds: float = 0.1
    budget: float = 20.0  # seconds a case

    @classmethod
    def quick(cls) -> Effort:
        return cls(rounds=3, sample_seconds=0.001, budget=5.0)


def measure(
    case: Case, context: Context, effort: Effort, note: Callable[[str], None] = print
) -> Row:
    """Runs a case; JSON-ready values only.

    Raises:
        ValueError: a peer computes something else than ours.
    """
    with case.around(context):
        return _measure(case, context, effort, note)


def _measure(case: Case, context: Context, effort: Effort, note: Callable[[str], None]) -> Row:
    contenders = list(case.contenders(context))
    ours = contenders[0]
    if ours.role is not Role.OURS:
        raise ValueError(f"case {case.name}: the first contender must be ours")
    timer = case.timer(context)
    samplers: dict[str, Sampler] = {}
    refused: dict[str, str] = {}
    mine: torch.Tensor | None = None
    for contender in contenders:
        try:
            samplers[contender.name], output = _sampler(contender, timer, effort)
        except Exception as error:
            if not contender.optional:
                raise
            refused[contender.name] = _reason(error)
            note(f"{case.name}: {contender.name} cannot run: {refused[contender.name]}")
            continue
        if contender is ours:
            mine = output
        elif output is not None and mine is not None:
            _must_agree(case, contender.name, mine, output)
    samples = interleave(samplers, rounds=effort.rounds, budget=effort.budget)
    row = _row(case, context, contenders, samples, refused)
    figures = case.figures(context)
    if figures:
        row["figures"] = [{"name": f.name, "value": f.value, "unit": f.unit} for f in figures]
        row["goals"] += [] if context.quick else [judge_figure(f) for f in figures if f.at_most]
    return row


def measure_ceilings(context: Context, effort: Effort) -> Row:
    """Every ceiling of the device, in turns; the row's case is "ceilings"."""
    samplers, metrics, refused = {}, {}, {}
    for contender, metric in ceilings.everything(context):
        try:
            samplers[contender.name], _ = _sampler(contender, context.timer(), effort)
            metrics[contender.name] = metric
        except Exception as error:
            refused[contender.name] = _reason(error)
    samples = interleave(samplers, rounds=effort.rounds, budget=effort.budget)
    rates = {}
    for name, values in samples.items():
        metric = metrics[name]
        scaled = spread([value / metric.scale for value in values])
        rates[name] = {"unit": metric.unit, "rate": scaled._asdict()}
    return {
        "schema": SCHEMA,
        "case": "ceilings",
        "device": context.device,
        "threads": context.threads,
        "quick": context.quick,
        "ceilings": rates,
        "refused": refused,
    }


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _sampler(
    contender: Contender, timer: Timer, effort: Effort
) -> tuple[Sampler, torch.Tensor | None]:
    if contender.rate is not None:
        contender.rate()  # says now if it cannot run; warms up
        return contender.rate, None
    assert contender.prepare is not None
    call, amount = contender.prepare(), contender.amount
    output = None if contender.output is None else contender.output(call()).detach()
    repeats = calibrate(timer, call, effort.sample_seconds)
    return lambda: amount / timer.seconds(call, repeats), output


def _must_agree(case: Case, name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    import torch

    from warploom.testing.compare import peer_bound, peer_distance

    distance, bound = peer_distance(ours, theirs), peer_bound(getattr(torch, case.dtype))
    if not distance <= bound:
        raise ValueError(
            f"case {case.name}: {name} differs from ours by {distance:.2e} (relative L2): "
            f"must be at most {bound:.1e}"
        )


def _row(
    case: Case,
    context: Context,
    contenders: Sequence[Contender],
    samples: dict[str, list[float]],
    refused: dict[str, str],
) -> Row:
    ours = contenders[0]
    rates = samples[ours.name]
    ratios = {name: paired_ratio(rates, theirs) for name, theirs in samples.items()}
    seconds = spread([ours.amount / rate for rate in rates])
    others = {
        c.name: {
            "role": c.role.value,
            "rate": spread(samples[c.name]).median / case.metric.scale,
            "ratio": ratios[c.name]._asdict(),
        }
        for c in contenders[1:]
        if c.name in samples
    }
    return {
        "schema": SCHEMA,
        "case": case.name,
        "text": case.text,
        "device": context.device,
        "threads": context.threads,
        "quick": context.quick,
        "rounds": len(rates),
        "seconds": seconds._asdict(),
        "unit": case.metric.unit,
        "rate": spread(rates).median / case.metric.scale,
        "others": others,
        "refused": refused,
        "goals": [] if context.quick else [judge(g, seconds, ratios) for g in case.goals],
    }


def judge_figure(figure: Figure) -> Row:
    """A figure's bound with its value."""
    assert figure.at_most is not None
    goal = f"{figure.name} at most {figure.at_most:g} {figure.unit}".rstrip()
    met = figure.value <= figure.at_most
    return {"goal": goal, "kind": "figure", "value": figure.value, "met": met}


def judge(goal: Goal, seconds: Spread, ratios: dict[str, Spread]) -> Row:
    """A goal with its figure: ``met`` by the median; None where nobody to compare with ran."""
    value: float | None
    if goal.at_most_seconds is not None:
        value = seconds.median
        met: bool | None = value <= goal.at_most_seconds
    else:
        value = min((ratios[name].median for name in goal.against if name in ratios), default=None)
        if value is None:
            met = None
        elif goal.at_least is not None:
            met = value >= goal.at_least
        elif goal.within is not None:
            value = 1 / value
            met = abs(value - 1) <= goal.within
        else:
            assert goal.at_most_slower is not None
            value = 1 / value
            met = value <= goal.at_most_slower
    kind = "seconds" if goal.at_most_seconds is not None else "ratio"
    return {"goal": str(goal), "kind": kind, "value": value, "met": met}
