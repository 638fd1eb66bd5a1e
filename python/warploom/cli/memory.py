"""``warploom memory``: record what a script allocates, plan where it lives, draw it, and more."""

from __future__ import annotations

import argparse
import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from warploom import memory
from warploom.cli import memory_simulation
from warploom.cli.sizes import amount, parse_bytes
from warploom.memory import Plan, Trace, files, picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_record(actions.add_parser("record", help="a trace of a script or of a known model"))
    _add_plan(actions.add_parser("plan", help="a plan of a trace, with its proven gap"))
    _add_view(actions.add_parser("view", help="a picture of a plan"))
    memory_simulation.add_simulate(
        actions.add_parser("simulate", help="what allocators take for a trace; would it fit?")
    )
    memory_simulation.add_diff(
        actions.add_parser("diff", help="what grew from one trace to another, by call site")
    )


def _add_record(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a training step of a known model; a wrong name lists them")
    what.add_argument("script", nargs="?", type=Path, help="runs with fake tensors: no memory")
    parser.add_argument(
        "--args", type=shlex.split, default=[], metavar="WORDS", help="the script's, in one string"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the trace")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps (default 3)")
    parser.add_argument(
        "--device", help="of the script's tensors, as cuda:1; default: the only one but the CPU"
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, help="a trace, memory snapshot, profile or .csv")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the plan; .csv adds offsets")
    parser.add_argument("--device", help="of a snapshot or profile of several, as cuda:1")
    parser.add_argument("--time", type=float, default=10.0, help="seconds at most (default 10)")
    parser.add_argument("--capacity", type=parse_bytes, help="bytes that are enough, as 80G")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--streams",
        choices=("separate", "shared"),
        default="separate",
        help="shared: streams use one another's memory (the trace's frees must allow it)",
    )
    parser.add_argument("--json", action="store_true", help="prints JSON")


def _add_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path)
    parser.add_argument("trace", type=Path, help="the trace that it is for")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="as plan.png")
    parser.add_argument("--device", help="of a snapshot or profile of several, as cuda:1")


def run(arguments: argparse.Namespace) -> int:
    actions = {
        "record": _record,
        "plan": _plan,
        "view": _view,
        "simulate": memory_simulation.simulate,
        "diff": memory_simulation.diff,
    }
    return actions[arguments.action](arguments)


def _record(arguments: argparse.Namespace) -> int:
    if arguments.steps < 1:
        raise ValueError(f"--steps {arguments.steps}: must be at least 1")
    if arguments.model:
        from warploom.memory import workloads

        if arguments.device:
            raise ValueError(
                f"--device {arguments.device}: must be left out, models are on the CPU"
            )
        trace = workloads.record(arguments.model, warmup=1, steps=max(arguments.steps - 1, 1))
    else:
        trace = _record_script(arguments)
    memory.save(trace, arguments.out)
    where = f" on {trace.notes['device']}" if trace.notes["device"] else ""
    print(f"{len(trace)} requests{where}, {amount(trace.peak)} held at most")
    for device, sums in trace.notes["left_out"].items():
        size = amount(sums["bytes"])
        print(f"left out: {sums['requests']} requests on {device}, {size} in all", file=sys.stderr)
    print(f"wrote {arguments.out}")
    return 0


def _record_script(arguments: argparse.Namespace) -> Trace:
    """Runs the script as if it were called, until so many optimizer steps are done."""
    if not arguments.script.is_file():
        raise ValueError(f"{arguments.script}: there is no such script")
    before, path = sys.argv, list(sys.path)
    sys.argv = [str(arguments.script), *arguments.args]
    sys.path.insert(0, str(arguments.script.resolve().parent))
    try:
        with memory.recording(most_steps=arguments.steps, device=arguments.device) as recorder:
            runpy.run_path(str(arguments.script), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before, path
    if recorder.steps == 0:
        print("no optimizer step was seen: the trace is of the whole script", file=sys.stderr)
    return recorder.trace()


def _plan(arguments: argparse.Namespace) -> int:
    trace = memory.load(arguments.trace, device=arguments.device)
    plan = memory.plan(
        trace,
        time_limit=arguments.time,
        capacity=arguments.capacity,
        seed=arguments.seed,
        streams=arguments.streams,
    )
    plan.validate()
    document = _document(trace, plan)
    print(json.dumps(document, indent=1) if arguments.json else _text(document))
    if arguments.out:
        if arguments.out.suffix == ".csv":
            files.write_csv(trace, arguments.out, plan.offsets)
        else:
            plan.save(arguments.out)
        print(f"wrote {arguments.out}", file=sys.stderr)
    return 0 if arguments.capacity is None or plan.size <= arguments.capacity else 1


def _document(trace: Trace, plan: Plan) -> dict[str, Any]:
    moment = plan.arenas[0].peak_time if plan.arenas else 0
    held = np.flatnonzero((trace.alloc <= moment) & (trace.free > moment))
    sites: dict[str, int] = {}
    for request in held.tolist():
        site = trace.sites[trace.site[request]]
        sites[site] = sites.get(site, 0) + int(trace.size[request])
    return {
        "requests": len(trace),
        "trace": trace.digest,
        "peak": trace.peak,
        "peak_time": moment,
        "largest_at_peak": sorted(sites.items(), key=lambda item: -item[1])[:5],
        "size": plan.size,
        "lower_bound": plan.lower_bound,
        "gap": plan.gap,
        "seconds": plan.seconds,
        "work": plan.work,
        "arenas": [{**vars(a), "history": [s._asdict() for s in a.history]} for a in plan.arenas],
    }


def _text(document: dict[str, Any]) -> str:
    gap = document["gap"]
    proof = "proven the smallest" if gap == 0 else f"at most {gap:.3%} above the smallest"
    lines = [
        f"{document['requests']} requests, held at most {amount(document['peak'])}, "
        f"at time {document['peak_time']}",
        f"plan        {amount(document['size'])}, {proof}; valid",
        f"lower bound {amount(document['lower_bound'])}",
        f"time        {document['seconds']:.3g} s",
    ]
    for arena in document["arenas"]:
        where = f"pool {arena['pool']}"
        if arena["stream"] is not None:
            where += f", stream {arena['stream']}"
        last = arena["history"][-1]["strategy"] if arena["history"] else "nothing to plan"
        folded = f", {arena['folded']} of {arena['parts']} parts folded" if arena["folded"] else ""
        lines.append(f"  {where}: {amount(arena['size'])} by {last}{folded}")
    if any(site for site, _ in document["largest_at_peak"]):
        lines.append("held at the peak, most by:")
        lines += [f"  {amount(size)}  {site}" for site, size in document["largest_at_peak"]]
    return "\n".join(lines)


def _view(arguments: argparse.Namespace) -> int:
    plan = Plan.load(arguments.plan, memory.load(arguments.trace, device=arguments.device))
    picture.save(plan, arguments.out)
    print(f"wrote {arguments.out}")
    return 0
