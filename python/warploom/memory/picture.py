"""A plan as a picture: addresses by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from warploom.memory.plans import Plan

_MOST_BOXES = 20_000  # drawn as boxes; of more, the largest by area


def save(plan: Plan, path: str | Path, *, title: str = "") -> None:
    """Draws every request as a box, time to the right, its addresses up, its colour by the phase
    that it was made in; below, the bytes held at each time. The format by the ending of ``path``.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the plan has no trace or no requests.
    """
    if plan.trace is None:
        raise ValueError("the plan has no trace: give it by plan.for_trace(trace)")
    if len(plan.trace) == 0:
        raise ValueError("the plan has no requests: there is nothing to draw")
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    trace, path = plan.trace, Path(path)
    scale, unit = _unit(plan.size)
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    boxes, held = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    shown = _largest(plan)
    corners = np.stack(
        [
            np.stack([trace.alloc, trace.free, trace.free, trace.alloc], 1)[shown],
            np.stack([plan.offsets] * 2 + [plan.offsets + trace.size] * 2, 1)[shown] / scale,
        ],
        2,
    )
    colours = colormaps["tab20"](trace.phase[shown] % 20)
    boxes.add_collection(
        PolyCollection(list(corners), facecolors=colours, edgecolors="black", linewidths=0.1)
    )
    boxes.axhline(plan.lower_bound / scale, color="black", linewidth=0.8, linestyle="--")
    boxes.set_xlim(int(trace.alloc.min()), int(trace.free.max()))
    boxes.set_ylim(0, max(plan.size, 1) / scale * 1.02)
    boxes.set_ylabel(f"address, {unit}")
    boxes.set_title(
        title
        or f"{len(trace)} requests, {plan.size / scale:.4g} {unit}, "
        f"{plan.gap:.3%} above the lower bound (dashed)",
        fontsize=10,
    )
    times, bytes_held = trace.load()
    held.fill_between(times, bytes_held / scale, step="post", color="#4878a8")
    held.set_ylabel(f"held, {unit}")
    held.set_xlabel("time, events" if not trace.notes.get("clock") else str(trace.notes["clock"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _largest(plan: Plan) -> np.ndarray:
    """The requests to draw, those of most area, in their order."""
    assert plan.trace is not None
    area = plan.trace.size * (plan.trace.free - plan.trace.alloc).astype(float)
    most = np.argsort(-area, kind="stable")[:_MOST_BOXES]
    return np.sort(most[area[most] > 0])


def _unit(size: int) -> tuple[float, str]:
    for unit, scale in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if size >= scale:
            return scale, unit
    return 1.0, "bytes"
