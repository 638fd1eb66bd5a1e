"""``warploom perf FAMILY``: ceilings first, then cases against their peers and goals."""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warploom.perf.case import Case, Context
    from warploom.perf.measure import Row

FAMILIES = ("attention", "kv_cache", "collectives", "memory")
_BUSY = 0.5  # others' load for each core, above which that is said


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--threads",
        type=_threads,
        help="numbers of CPU threads, as 1,2; default: 1 and all, of collectives 1 a process",
    )
    parser.add_argument(
        "--cases", type=_words, default=["*"], help="names or patterns, as forward_*,decode_bf16"
    )
    parser.add_argument("--list", action="store_true", help="names the cases and stops")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: only shows that it runs")
    parser.add_argument("--rounds", type=int, default=15, help="most rounds a case (default 15)")
    parser.add_argument(
        "--budget", type=float, default=20.0, help="seconds a case before rounds end (default 20)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the rows as JSON lines")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="writes a picture")
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=Path("perf"),
        metavar="FOLDER",
        help="puts the rows into FOLDER/results and its page (default folder: perf)",
    )


def run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("torch") is None:
        print("warploom perf compares with torch: pip install torch", file=sys.stderr)
        return 1
    if arguments.record and arguments.quick:
        print("--record with --quick: tiny shapes are not recorded", file=sys.stderr)
        return 2
    if problem := _device_problem(arguments.device):
        print(f"--device {arguments.device}: {problem}", file=sys.stderr)
        return 2
    family = importlib.import_module(f"warploom.perf.{arguments.family}")
    cases = select(family.cases(arguments.device), arguments.cases)
    if arguments.list:
        print("\n".join(f"{case.name:<22} {case.text}" for case in cases))
        return 0
    rows = _measure(family, cases, arguments)
    _write(rows, arguments)
    return 0


def _device_problem(device: str) -> str:
    """Why nothing can be measured there, "" if it can."""
    import torch

    kind, _, index = device.partition(":")
    if device != "cpu" and (kind != "cuda" or not (index or "0").isdigit()):
        return "must be cpu, cuda or cuda:<number>"
    found = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= found:
        return f"torch finds {found} of them" if found else "torch finds no GPU"
    return ""


def select(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Cases whose name fits a pattern, in their own order.

    Raises:
        ValueError: a pattern that fits none.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatch(case.name, pattern) for case in cases):
            names = ", ".join(case.name for case in cases)
            raise ValueError(f"--cases {pattern} fits no case: there are {names}")
    return [c for c in cases if any(fnmatch.fnmatch(c.name, pattern) for pattern in patterns)]


def _measure(family: ModuleType, cases: Sequence[Case], arguments: argparse.Namespace) -> list[Row]:
    import torch

    from warploom.perf import machine
    from warploom.perf.measure import Effort, measure, measure_ceilings
    from warploom.perf.report import case_lines, ceiling_lines

    effort = Effort(rounds=arguments.rounds, budget=arguments.budget)
    if arguments.quick:
        effort = Effort.quick()
    facts = machine.facts(arguments.device)
    stamp = {"family": arguments.family, "machine": facts}
    print(f"{facts['name']}; torch {facts['torch']}; commit {facts['commit'] or 'unknown'}\n")
    if facts["load"] > _BUSY * facts["cores"]:
        _progress(
            f"this machine is busy: load {facts['load']} on {facts['cores']} cores. Ratios are "
            "taken in turns, but two threads on a busy machine are not two cores\n"
        )
    rows: list[Row] = []
    before = torch.get_num_threads()
    try:
        contexts = _contexts(family, arguments)
        for context in contexts if family.CEILINGS else []:
            torch.set_num_threads(context.threads)
            rows.append({**measure_ceilings(context, effort), **stamp})
            print("\n".join(ceiling_lines(rows[-1])), end="\n\n", flush=True)
        for number, case in enumerate(cases, 1):
            for context in contexts:
                torch.set_num_threads(context.threads)
                _progress(f"[{number}/{len(cases)}] {case.name}, {context.threads} threads")
                rows.append({**measure(case, context, effort, _progress), **stamp})
                print("\n".join(case_lines(rows[-1])), end="\n\n", flush=True)
    finally:
        torch.set_num_threads(before)
    judged = [goal for row in rows for goal in row.get("goals", [])]
    if judged:
        print(f"{sum(goal['met'] is True for goal in judged)} of {len(judged)} goals met")
    return rows


def _contexts(family: ModuleType, arguments: argparse.Namespace) -> list[Context]:
    from warploom.perf.case import Context

    if arguments.device != "cpu":
        threads = [1]
    else:
        default = family.THREADS or sorted({1, len(os.sched_getaffinity(0))})
        threads = arguments.threads or list(default)
    return [Context(arguments.device, count, arguments.quick) for count in threads]


def _write(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    from warploom.perf import plots, report

    written = []
    if arguments.json:
        report.write_json_lines(arguments.json, rows)
        written.append(arguments.json)
    if arguments.plot:
        plots.save(arguments.plot, rows, f"warploom {arguments.family}")
        written.append(arguments.plot)
    if arguments.record:
        written += report.record(arguments.record, rows)
    for path in written:
        print(f"wrote {path}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _threads(text: str) -> list[int]:
    counts = [int(word) for word in text.split(",")]
    if any(count < 1 for count in counts):
        raise ValueError
    return counts


def _words(text: str) -> list[str]:
    return text.split(",")
