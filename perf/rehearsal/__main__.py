"""``python -m perf.rehearsal``: all-gathers between hosts of this machine, and faults."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from perf.rehearsal import cases as all_cases
from perf.rehearsal import faults
from perf.rehearsal.net import CannotBuildError, Plan, check_machine, clean
from warploom.cli.perf import select
from warploom.perf import machine, report
from warploom.perf.case import Case, Context
from warploom.perf.measure import Effort, Row, measure

FAMILY = "rehearsal"
ROWS, QUICK_ROWS = 512, 16  # of keys and values, on each rank


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m perf.rehearsal", description=__doc__)
    made.add_argument(
        "--cases", type=lambda s: s.split(","), default=["*"], help="names or patterns, as mesh_*"
    )
    made.add_argument("--list", action="store_true", help="names the cases and stops")
    made.add_argument("--quick", action="store_true", help="few bytes: only shows that it runs")
    made.add_argument("--rounds", type=int, default=3, help="rounds a case (default 3)")
    made.add_argument("--json", type=Path, metavar="FILE", help="writes the rows as JSON lines")
    made.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=Path("perf"),
        metavar="FOLDER",
        help="puts the rows into FOLDER/results and its page (default folder: perf)",
    )
    made.add_argument("--faults", action="store_true", help="only strikes links and hosts")
    made.add_argument(
        "--clean", action="store_true", help="only removes what runs left that were killed"
    )
    return made


def main(words: Sequence[str]) -> int:
    told = parser().parse_args(words)
    if told.record and told.quick:
        print("--record with --quick: few bytes are not recorded", file=sys.stderr)
        return 2
    plans = {plan: select_or_none(plan, told.cases) for plan in all_cases.PLANS}
    if told.list:
        for chosen in plans.values():
            print("".join(f"{case.name:<20} {case.text}\n" for case in chosen), end="")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check_machine()
        if told.clean:
            print("\n".join(f"removed {name}" for name in clean()) or "nothing to remove")
            return 0
        return rehearse_faults() if told.faults else rehearse_gathers(plans, told)
    except CannotBuildError as error:
        print(f"the rehearsal {error}", file=sys.stderr)
        return 2


def select_or_none(plan: Plan, patterns: Sequence[str]) -> list[Case]:
    every = [case for p in all_cases.PLANS for case in all_cases.cases(p, no_hosts)]
    chosen = {case.name for case in select(every, patterns)}
    return [case for case in all_cases.cases(plan, no_hosts) if case.name in chosen]


def no_hosts() -> NoReturn:
    raise AssertionError("cases are only listed")


def rehearse_gathers(plans: dict[Plan, list[Case]], told: argparse.Namespace) -> int:
    effort = Effort(rounds=told.rounds, budget=600.0)
    facts = machine.facts("cpu")
    context = Context(threads=1, quick=told.quick)
    rows: list[Row] = []
    for plan, chosen in plans.items():
        if not chosen:
            continue
        with all_cases.bench(plan, QUICK_ROWS if told.quick else ROWS) as bench:
            print(f"{plan}; {describe(bench)}\n", flush=True)
            names = {case.name for case in chosen}
            for case in all_cases.cases(plan, lambda bench=bench: bench):
                if case.name in names:
                    row = measure(case, context, effort)
                    rows.append({**row, "family": FAMILY, "machine": facts})
                    print("\n".join(report.case_lines(rows[-1])), end="\n\n", flush=True)
    if told.json:
        report.write_json_lines(told.json, rows)
    if told.record:
        print("\n".join(f"wrote {path}" for path in report.record(told.record, rows)))
    return 0


def describe(bench: all_cases.Bench) -> str:
    """What the plain ring says of the links."""
    fitted = bench.calibrated
    share = fitted.gbytes_per_s / all_cases.links_of(bench.net.plan).topology().gbytes_per_s
    return (
        f"the plain ring's fit: {100 * share:.1f}% of a link's rate carries data, "
        f"{fitted.latency_us / 1e3:.1f} ms a step, {fitted.overhead_us / 1e3:.2f} ms a message"
    )


def rehearse_faults() -> int:
    """Prints the table; 1 if a survivor did not raise what it must."""
    print(faults.HEAD, flush=True)
    wrong = 0
    for fault, kind, after in faults.trials():
        trial = faults.strike(fault, kind, after)
        wrong += bool(trial.wrong())
        print(trial.line(), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
