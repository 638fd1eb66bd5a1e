"""Rows as a picture: how many times a peer's speed, and which share of a ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warploom.perf.measure import Row

_PANELS = (
    ("peer", "times as fast as"),
    ("ceiling", "share of"),
    ("reference", "rate over that of another case"),
)


def save(path: Path, rows: Sequence[Row], title: str) -> None:
    """Writes a picture (its format by the ending of ``path``) of rows as ``measure`` makes them.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is no row to show.
    """
    rows = [row for row in rows if row["case"] != "ceilings"]
    if not rows:
        raise ValueError("rows is empty: there is nothing to plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(role, what) for role, what in _PANELS if _bars(rows, role)]
    counts = [len(_bars(rows, role)) for role, _ in panels]
    figure = Figure(figsize=(10, 1.5 + 0.24 * sum(counts)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axis, (role, what) in zip(axes, panels, strict=True):
        _panel(axis, _bars(rows, role), what)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _bars(rows: Sequence[Row], role: str) -> list[tuple[str, dict[str, float]]]:
    return [
        (f"{row['case']} ({row['threads']}t) / {name}", other["ratio"])
        for row in rows
        for name, other in row["others"].items()
        if other["role"] == role
    ]


def _panel(axis: Any, bars: Sequence[tuple[str, dict[str, float]]], what: str) -> None:
    medians = [ratio["median"] for _, ratio in bars]
    errors = [
        [ratio["median"] - ratio["low"] for _, ratio in bars],
        [ratio["high"] - ratio["median"] for _, ratio in bars],
    ]
    axis.barh(range(len(bars)), medians, xerr=errors, color="#4878a8", ecolor="#303030", height=0.7)
    for place, median in enumerate(medians):
        axis.text(median, place, f" {median:.2f}", va="center", fontsize=7)
    axis.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axis.axvline(1.0, color="#303030", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel(what, fontsize=8)
