"""``warploom topology``: which schedule fits a workload on ranks that are connected in some way."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from warploom import collectives as co

_SHAPES = {
    "mesh": co.Topology.full_mesh,
    "ring": co.Topology.ring,
    "switch": co.Topology.switch,
    "bus": co.Topology.bus,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ranks = parser.add_mutually_exclusive_group(required=True)
    ranks.add_argument("--nodes", type=_pair, metavar="UxM", help="U nodes of M ranks, as 2x8")
    for shape in _SHAPES:
        ranks.add_argument(f"--{shape}", type=int, metavar="N", help=_HELP[shape])
    ranks.add_argument(
        "--matrix", type=Path, metavar="FILE", help="JSON: rows of GB/s from each rank to each"
    )
    parser.add_argument(
        "--intra", type=float, metavar="GB/S", help="of each link, port or bus; inside a node"
    )
    parser.add_argument("--inter", type=float, metavar="GB/S", help="of each network card")
    parser.add_argument(
        "--nics", type=int, help="network cards a node (default: one for each rank)"
    )
    parser.add_argument(
        "--wiring",
        choices=("mesh", "switch"),
        help="inside a node: --intra is of each link between two ranks (mesh, the default), or of "
        "each rank's port to a switch",
    )
    parser.add_argument("--latency", type=float, default=5.0, metavar="US", help="default 5 µs")
    parser.add_argument("--inter-latency", type=float, metavar="US", help="default 10 µs")
    parser.add_argument(
        "--overhead", type=float, default=0.0, metavar="US", help="of each message (default 0)"
    )
    parser.add_argument(
        "--seq", type=_count, default=131072, help="whole sequence, as 4096 or 128k (default 128k)"
    )
    parser.add_argument(
        "--heads", type=_heads, default=(32, 8), metavar="H/HK",
        help="of queries, and of keys and values (default 32/8)",
    )  # fmt: skip
    parser.add_argument("--head-dim", type=int, default=128, help="default 128")
    parser.add_argument("--batch", type=int, default=1, help="default 1")
    parser.add_argument("--bytes", type=int, default=2, help="of an element (default 2)")
    parser.add_argument("--full", action="store_true", help="no causal mask")
    parser.add_argument("--backward", action="store_true", help="forward and backward")
    parser.add_argument(
        "--tflops", type=float, help="of each rank, 1e12/s; without it only communication counts"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draws the pick")
    parser.add_argument("--json", action="store_true", help="prints JSON")


_HELP = {
    "mesh": "N ranks, a link between any two",
    "ring": "N ranks, links to both neighbours",
    "switch": "N ranks, each with a port",
    "bus": "N ranks that share all bandwidth",
}


def run(arguments: argparse.Namespace) -> int:
    topology = _topology(arguments)
    workload = co.Workload(
        queries=arguments.seq,
        heads=arguments.heads[0],
        kv_heads=arguments.heads[1],
        head_dim=arguments.head_dim,
        batch=arguments.batch,
        element_bytes=arguments.bytes,
        causal=not arguments.full,
        backward=arguments.backward,
        flops_per_s=None if arguments.tflops is None else arguments.tflops * 1e12,
    )
    found = co.predictions(topology, workload)
    if arguments.json:
        print(json.dumps(_document(topology, workload, found), indent=1))
    else:
        print(_text(topology, workload, found))
    if arguments.plot and found[0].schedule:
        found[0].schedule.plot(arguments.plot)
        print(f"wrote {arguments.plot}", file=sys.stderr)
    return 0 if found[0].schedule else 1


def _topology(arguments: argparse.Namespace) -> co.Topology:
    latency, overhead = arguments.latency, arguments.overhead
    if not arguments.nodes:
        for name in ("inter", "nics", "wiring", "inter_latency"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is of nodes: give it with --nodes")
    if arguments.matrix:
        if arguments.intra is not None:
            raise ValueError("--intra and --matrix: the matrix has the bandwidths")
        return co.Topology.from_matrix(_matrix(arguments.matrix), latency, overhead)
    if arguments.intra is None:
        raise ValueError("--intra is missing: the bandwidth in GB/s")
    if not arguments.nodes:
        for shape, make in _SHAPES.items():
            if (ranks := getattr(arguments, shape)) is not None:
                return make(ranks, arguments.intra, latency, overhead)
    nodes, per_node = arguments.nodes
    if arguments.inter is None and nodes > 1:
        raise ValueError("--inter is missing: the bandwidth of a network card in GB/s")
    return co.Topology.nodes(
        nodes,
        per_node,
        arguments.intra,
        arguments.inter or 0.0,
        intra_latency_us=latency,
        inter_latency_us=10.0 if arguments.inter_latency is None else arguments.inter_latency,
        overhead_us=overhead,
        nics=arguments.nics,
        switched=arguments.wiring == "switch",
    )


def _matrix(path: Path) -> list[list[float]]:
    """Rows of GB/s; from_matrix says what is wrong with their numbers."""
    try:
        rows: Any = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"--matrix {path}: is not JSON: {error}") from error
    square = isinstance(rows, list) and all(
        isinstance(row, list) and all(type(value) in (int, float) for value in row) for row in rows
    )
    if not square:
        raise ValueError(f"--matrix {path}: must hold a list of lists of numbers, GB/s")
    if any(row[i : i + 1] not in ([], [0]) for i, row in enumerate(rows)):
        raise ValueError(f"--matrix {path}: no rank has a link to itself: the diagonal must be 0")
    return [[float(value) for value in row] for row in rows]


def _document(
    topology: co.Topology, workload: co.Workload, found: list[co.Prediction]
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for p in found:
        row: dict[str, Any] = {"kind": p.kind, **p.options}
        if p.schedule is None:
            row["refused"] = p.refused
        else:
            row["seconds"] = p.seconds
            row["moves"] = p.schedule.moves
            row["note"] = p.schedule.note
            row["peak_shards"] = p.schedule.peak_shards
            row["passes"] = [{**vars(c), "load_ratio": c.load_ratio} for c in p.costs]
        rows.append(row)
    pick = {"kind": found[0].kind, **found[0].options} if found[0].schedule else None
    return {
        "topology": {"name": topology.name, "ranks": topology.ranks},
        "workload": vars(workload),
        "pick": pick,
        "schedules": rows,
    }


def _text(topology: co.Topology, workload: co.Workload, found: list[co.Prediction]) -> str:
    what = "forward and backward" if workload.backward else "forward"
    mask = "causal" if workload.causal else "full"
    lines = [
        f"{topology.name}, {_bandwidths(topology)}",
        f"{workload.queries} tokens, {workload.heads} heads of {workload.head_dim} "
        f"({workload.kv_heads or workload.heads} for keys and values), {mask}, {what}",
        "",
        f"{'schedule':<26}{'moves':<7}{'time':>11}{'exposed':>11}{'on wires':>11}{'bound':>11}"
        f"{'load':>8}  bound by",
    ]
    for p in found:
        if p.schedule is None:
            continue
        total = {
            name: sum(getattr(c, name) for c in p.costs)
            for name in ("exposed_seconds", "communication_seconds", "bound_seconds")
        }
        worst = max(p.costs, key=lambda c: c.load_ratio)
        lines.append(
            f"{p.name:<26}{p.schedule.moves:<7}{_time(p.seconds):>11}"
            + "".join(f"{_time(seconds):>11}" for seconds in total.values())
            + f"{worst.load_ratio:>7.2f}x  {worst.bound}"
        )
    lines += ["", *(f"not {p.name}: {p.refused}" for p in found if p.schedule is None)]
    if found[0].schedule is None:
        return "\n".join([*lines, "", "no schedule is possible"])
    if found[0].schedule.note:
        lines.append(f"note: {found[0].schedule.note}")
    lines += [
        "",
        f"pick: {found[0].name}; of times within 0.2%, the one with least on wires",
        "time: with computation; exposed: what communication adds to it; on wires: communication "
        "alone;",
        "bound: the least that moving the same data takes; load: the busiest link over the least "
        "possible load",
    ]
    return "\n".join(lines)


def _bandwidths(topology: co.Topology) -> str:
    if topology.shape == "matrix":
        return f"links of {min(b for b in topology.matrix if b):g} to {max(topology.matrix):g} GB/s"
    if topology.shape != "nodes":
        return f"{topology.gbytes_per_s:g} GB/s"
    inside = "port" if topology.switched else "link inside a node"
    return (
        f"{topology.gbytes_per_s:g} GB/s each {inside}, "
        f"{topology.inter_gbytes_per_s:g} GB/s each network card"
    )


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _pair(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} must be UxM, as 2x8")
    return int(match[1]), int(match[2])


def _heads(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:/(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} must be H/HK or H, as 32/8")
    return int(match[1]), int(match[2] or match[1])


def _count(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kM]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, as 4096 or 128k")
    return int(match[1]) * {"": 1, "k": 1024, "M": 1024**2}[match[2]]
