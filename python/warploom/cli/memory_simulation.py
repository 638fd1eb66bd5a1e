"""``warploom memory simulate`` and ``diff``: what allocators would take, and what grew."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from warploom import memory
from warploom.cli.sizes import amount, parse_bytes
from warploom.memory import Difference, Simulation, Trace


def add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, help="a trace, memory snapshot, profile or CSV")
    parser.add_argument("--device", help="of a snapshot or profile of several, as cuda:1")
    parser.add_argument(
        "--policy", default="all", choices=("all", *memory.POLICIES), help="default: all"
    )
    parser.add_argument("--capacity", type=parse_bytes, help="bytes of the device, as 80G")
    parser.add_argument(
        "--options", help="as in PYTORCH_ALLOC_CONF; default: the best of a few settings"
    )
    parser.add_argument("--plan", type=Path, help="the plan of this trace; default: makes one")
    parser.add_argument("--time", type=float, default=10.0, help="seconds to plan (default 10)")
    parser.add_argument("--json", action="store_true", help="prints JSON")


def add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--device", help="of snapshots or profiles of several, as cuda:1")
    parser.add_argument("--by", choices=("site", "phase"), default="site")
    parser.add_argument(
        "--without-lines", action="store_true", help="call sites are the same though lines moved"
    )
    parser.add_argument(
        "--limit", type=_limit, help="exits with 1 if the peak grew by more, as 5%% or 200M"
    )
    parser.add_argument("--top", type=int, default=20, help="rows to print (default 20)")
    parser.add_argument("--json", action="store_true", help="prints JSON")


def simulate(arguments: argparse.Namespace) -> int:
    """Exits with 1 if no policy asked for fits into the capacity."""
    trace = memory.load(arguments.trace, device=arguments.device)
    policies = memory.POLICIES if arguments.policy == "all" else (arguments.policy,)
    if arguments.options and policies == ("caching",):
        raise ValueError(f"--options {arguments.options}: policy caching has none")
    results = [_simulate(trace, policy, arguments) for policy in policies]
    document = {
        "trace": trace.digest,
        "requests": len(trace),
        "peak": trace.peak,
        "capacity": arguments.capacity,
        "policies": [_document(result) for result in results if result],
    }
    print(json.dumps(document, indent=1) if arguments.json else _table(trace, results, arguments))
    return 0 if any(result and result.fits for result in results) else 1


def _simulate(
    trace: Trace, policy: memory.Policy, arguments: argparse.Namespace
) -> Simulation | None:
    """None: the plan alone is larger than the device."""
    options, plan = arguments.options, None
    if policy == "caching":
        options = None
    elif policy == "caching+options" and options is None:
        options = memory.best_options(trace, capacity=arguments.capacity)
    elif policy == "planned":
        if arguments.plan:
            plan = memory.Plan.load(arguments.plan, trace)
        else:
            plan = memory.plan(trace, time_limit=arguments.time)
        if arguments.capacity is not None and plan.size > arguments.capacity:
            return None
    return memory.simulate(
        trace, policy=policy, capacity=arguments.capacity, options=options, plan=plan
    )


def _document(result: Simulation) -> dict[str, Any]:
    names = ("policy", "capacity", "reserved_peak", "allocated_peak", "requested_peak", "fits")
    more = ("fragmentation", "segments", "device_allocs", "device_frees", "retries", "in_plan")
    document = {
        name: getattr(result, name)
        for name in (*names, *more, "conflicts", "unmatched", "oom_request")
    }
    moments = {"at_peak": result.at_peak, "worst": result.worst, "oom": result.oom}
    return {
        **document,
        "options": str(result.options),
        **{name: m and m._asdict() for name, m in moments.items()},
    }


def _table(trace: Trace, results: list[Simulation | None], arguments: argparse.Namespace) -> str:
    lines = [f"{len(trace)} requests, {amount(trace.peak)} held at most", ""]
    header = f"{'policy':<20}{'reserved':>14}{'allocated':>14}{'unused':>8}{'worst':>14}  "
    lines.append(header + (f"in {amount(arguments.capacity)}" if arguments.capacity else ""))
    for result in results:
        if result is None:
            lines.append(f"{'planned':<20}the plan alone is larger than the device: does not fit")
            continue
        worst = result.worst.reserved - result.worst.allocated
        fits = ""
        if arguments.capacity:
            fits = "fits" if result.fits else f"out of memory at request {result.oom_request}"
        lines.append(
            f"{result.policy:<20}{amount(result.reserved_peak):>14}"
            f"{amount(result.allocated_peak):>14}{result.fragmentation:>8.2%}{amount(worst):>14}  "
            f"{fits}".rstrip()
        )
    for result in results:
        if result and str(result.options) not in ("", "expandable_segments:True"):
            lines.append(f"{result.policy} with {result.options}")
        elif result and result.policy == "caching+options" and not arguments.options:
            lines.append(f"{result.policy}: none of the settings tried is better than the defaults")
        if result and result.policy == "planned" and result.conflicts:
            lines.append(f"{result.conflicts} requests found their place in the plan taken")
    lines += [
        "",
        "unused: 1 - allocated/reserved, of the peaks. worst: most bytes reserved and not in use",
        "when more was taken from the device.",
    ]
    return "\n".join(lines)


def diff(arguments: argparse.Namespace) -> int:
    before, after = (
        memory.load(path, device=arguments.device) for path in (arguments.before, arguments.after)
    )
    difference = memory.diff(before, after, by=arguments.by, lines=not arguments.without_lines)
    print(
        json.dumps(_diff_document(difference), indent=1)
        if arguments.json
        else _diff_text(difference, arguments.top)
    )
    return int(arguments.limit is not None and difference.exceeds(**arguments.limit))


def _diff_document(difference: Difference) -> dict[str, Any]:
    rows = []
    for change in difference.changes:
        amounts = {"before": change.before._asdict(), "after": change.after._asdict()}
        rows.append({"name": change.name, "growth": change.growth, **amounts})
    return {"peaks": difference.peaks, "growth": difference.growth, "changes": rows}


def _diff_text(difference: Difference, top: int) -> str:
    before, after = difference.peaks
    share = f" ({difference.growth / before:+.2%})" if before else ""
    sign = "+" if difference.growth >= 0 else ""
    lines = [
        f"peak {amount(before)} -> {amount(after)}: {sign}{amount(difference.growth)}{share}",
        "",
        f"{'at the peak':>14}{'before':>14}{'requests':>18}  by",
    ]
    changed = [c for c in difference.changes if c.before != c.after]
    # What grew most and what shrank most, whichever is more.
    shown = sorted(changed, key=lambda c: (-abs(c.growth), c.name))[:top]
    for change in sorted(shown, key=lambda c: (-c.growth, c.name)):
        requests = f"{change.before.requests} -> {change.after.requests}"
        sign = "+" if change.growth >= 0 else ""
        lines.append(
            f"{sign + amount(change.growth):>14}{amount(change.before.at_peak):>14}"
            f"{requests:>18}  {change.name or '(unnamed)'}"
        )
    if not changed:
        lines.append("nothing changed")
    if len(changed) > top:
        lines.append(f"and {len(changed) - top} more")
    return "\n".join(lines)


def _limit(text: str) -> dict[str, float]:
    if not text.endswith("%"):
        return {"size": 0 if text == "0" else parse_bytes(text)}
    try:
        return {"share": float(text[:-1]) / 100}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a share, as 5%") from None
