"""Plans of memory: how near to the maximum load, and how long they take.

The real traces are training steps of known models, recorded with fake tensors; recorded once, they
are kept in ``perf/out/traces`` of the folder that this is run in. The hard instances are made, with
capacity equal to the maximum load, as in minimalloc's public set, which is not part of this
repository: ``warploom memory plan A.1048576.csv`` plans one of its files. The exact search
was tuned on the class of ``hard``, which is the easier one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from warploom import memory
from warploom.memory import Plan, Trace, container, synthetic, workloads
from warploom.perf.case import Case, Contender, Context, Figure, Goal, Metric, Role

CEILINGS = False  # nothing here is bound by arithmetic or bandwidth
THREADS = (1,)
MOST_OVER_LOAD = 1.005
HARD = (100, 150, 200, 300, 450)  # requests
HARDER = (100, 150, 300)
MILLION = 1_000_000


def cases(device: str) -> list[Case]:
    """Real traces, hard instances, a million requests.

    Raises:
        ValueError: a device other than the CPU.
    """
    if device != "cpu":
        raise ValueError(f"device is {device}: plans are made on the cpu")
    real = [
        _case(name, f"{name}, three training steps", _recorded(name))
        for name in workloads.WORKLOADS
    ]
    hard = [
        _case(
            f"hard_{requests}",
            f"{requests} requests, capacity equal to the maximum load, made with seed 0",
            partial(synthetic.hard, requests),
            most=1.0,
            seconds=60.0,
        )
        for requests in HARD
    ]
    harder = [
        _case(
            f"harder_{requests}",
            f"{requests} requests, as hard_{requests} but harder to place, made with seed 0",
            partial(synthetic.harder, requests),
            most=None,
            seconds=30.0,
        )
        for requests in HARDER
    ]
    return [*real, *hard, *harder, _million("random"), _million("training")]


def _recorded(name: str) -> Callable[[], Trace]:
    def trace() -> Trace:
        import torch
        import transformers

        versions = f"torch-{torch.__version__}-transformers-{transformers.__version__}"
        path = Path("perf/out/traces") / f"{name}-{versions}-form-{container.VERSION}.trace"
        if not path.exists():
            memory.save(workloads.record(name), path)
        return memory.load(path)

    return trace


def _case(
    name: str,
    text: str,
    make: Callable[[], Trace],
    *,
    most: float | None = MOST_OVER_LOAD,
    seconds: float = 5.0,
) -> Case:
    """A plan of one trace; ``seconds``: its limit of time, and a goal unless ``most`` is None."""

    @cache
    def trace(quick: bool) -> Trace:
        return synthetic.training(2) if quick else make()

    def planned(context: Context) -> Plan:
        return memory.plan(trace(context.quick), time_limit=seconds)

    def contenders(context: Context) -> Sequence[Contender]:
        requests = len(trace(context.quick))
        return [
            Contender("warploom", Role.OURS, requests, prepare=lambda: lambda: planned(context))
        ]

    def figures(context: Context) -> list[Figure]:
        plan = planned(context)
        plan.validate()
        return [
            Figure("requests", len(plan.offsets)),
            Figure("maximum load", trace(context.quick).peak / 2**20, "MiB"),
            Figure("plan size over maximum load", plan.size / trace(context.quick).peak, "", most),
            Figure("proven gap", plan.gap),
        ]

    goals = (Goal(at_most_seconds=seconds),) if most is not None else ()
    return Case(name, text, Metric.REQUESTS, contenders, goals, figures=figures)


def _million(kind: str) -> Case:
    """A million requests in a process of its own, for its peak memory."""

    def run(context: Context) -> dict[str, Any]:
        requests = 1000 if context.quick else MILLION
        words = [sys.executable, "-c", _PROGRAM, kind, str(requests)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def contenders(context: Context) -> Sequence[Contender]:
        def rate() -> float:
            found = run(context)
            return float(found["requests"] / found["seconds"])

        amount = 1000.0 if context.quick else float(MILLION)
        return [Contender("warploom", Role.OURS, amount, rate=rate)]

    def figures(context: Context) -> list[Figure]:
        found = run(context)
        return [
            Figure("plan size over maximum load", found["size"] / found["peak"]),
            Figure("proven gap", found["gap"]),
            Figure("peak memory", found["memory"] / 1e9, "GB", at_most=2.0),
        ]

    text = f"{MILLION} requests, {_KINDS[kind]}"
    goals = (Goal(at_most_seconds=20.0),)
    return Case(f"million_{kind}", text, Metric.REQUESTS, contenders, goals, figures=figures)


_KINDS = {
    "random": "random sizes and lifetimes",
    "training": "steps of training one after another",
}
_PROGRAM = """
import json, resource, sys, time
from warploom import memory
kind, requests = sys.argv[1], int(sys.argv[2])
if kind == "random":
    trace = memory.synthetic.random(requests)
else:
    step = memory.synthetic.training(48, steps=3, seed=1)
    trace = memory.concatenated([step] * -(-requests // len(step)))
begin = time.perf_counter()
plan = memory.plan(trace, time_limit=10)
seconds = time.perf_counter() - begin
memory_used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
plan.validate()
print(json.dumps({"requests": len(trace), "seconds": seconds, "memory": memory_used,
                  "size": plan.size, "peak": trace.peak, "gap": plan.gap}))
"""
