"""The table and the picture of ``warploom demo kv``, from its summary alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def table(summary: dict[str, Any]) -> str:
    """All methods, under the budget that each had."""
    methods = summary["methods"]
    base = methods["16 bits"]
    lines = [
        f"{summary['model']}, {summary['dtype']}, {summary['threads']} threads",
        f"{summary['tokens']} tokens of {summary['text']}, scored from {summary['scored_from']} "
        f"on, then {summary['new_tokens']} generated",
        "",
        f"{'':<14}{'cache':>11}{'perplexity':>12}{'':>9}{'last quarter':>14}{'':>9}"
        f"{'divergence':>12}{'ms a token':>12}{'slowest':>9}",
    ]
    budget = None
    for name, found in methods.items():
        if found["budget"] != budget:
            budget = found["budget"]
            lines.append(f"at most {_mib(budget)}")
        lines.append(
            f"{name:<14}{_mib(found['nbytes']):>11}"
            f"{found['perplexity']:>12.4f}{_change(found, base, 'perplexity'):>9}"
            f"{found['last']:>14.4f}{_change(found, base, 'last'):>9}"
            f"{found['divergence']:>12.5f}{found['step_ms']:>12.1f}{found['slowest_ms']:>9.1f}"
        )
    over = [
        n for n, found in methods.items() if found["budget"] and found["peak"] > found["budget"]
    ]
    if over:
        lines += ["", f"above the budget at their peak: {', '.join(over)}"]
    return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"


def _change(found: dict[str, Any], base: dict[str, Any], what: str) -> str:
    return "" if found is base else f"{100 * (found[what] / base[what] - 1):+.2f}%"


def plot(path: Path, summary: dict[str, Any]) -> None:
    """Perplexity by bytes; widths of keys and values by layer, while the mixed cache fills."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{summary['model']}, {summary['dtype']}, {summary['tokens']} tokens")
    mixed = [name for name in summary["methods"] if name.startswith("PM-KVQ")]
    grid = figure.add_gridspec(2, 1 + len(mixed), width_ratios=[1.4, *[1] * len(mixed)])
    _by_bytes(figure.add_subplot(grid[:, 0]), summary)
    image = None
    for column, name in enumerate(mixed, 1):
        for row, kind in enumerate(("keys", "values")):
            axis = figure.add_subplot(grid[row, column])
            image = _widths(axis, summary, name, row)
            axis.set_title(f"{name}: bits of {kind}", fontsize=9)
    if image is not None:
        figure.colorbar(
            image, ax=figure.axes[1:], ticks=[1, 2, 3, 4], shrink=0.6
        ).ax.set_yticklabels(["2", "4", "8", "16"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _by_bytes(axis: Any, summary: dict[str, Any]) -> None:
    families: dict[str, list[tuple[float, float]]] = {}
    for name, found in summary["methods"].items():
        family = name.rsplit(" ", 1)[0].removesuffix(" at")
        families.setdefault(family, []).append((found["peak"] / 2**20, found["divergence"]))
    for family, points in families.items():
        shown = [point for point in points if point[1] > 0]
        if shown:
            axis.plot(*zip(*shown, strict=True), "o-", label=family)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("cache at its largest, MiB, metadata counted", fontsize=8)
    axis.set_title("divergence from 16 bits (mean KL)", fontsize=9)
    axis.legend(fontsize=8)


def _widths(axis: Any, summary: dict[str, Any], name: str, kind: int) -> Any:
    from math import log2

    pieces = summary["methods"][name]["widths"]
    rows = [[log2(max(layer[kind], 2)) for layer in piece] for piece in pieces]
    columns = [list(column) for column in zip(*rows, strict=True)]
    image = axis.imshow(
        columns, aspect="auto", origin="lower", vmin=1, vmax=4, cmap="viridis",
        extent=(0, summary["tokens"], -0.5, len(columns) - 0.5),
    )  # fmt: skip
    axis.set_xlabel("tokens", fontsize=8)
    axis.set_ylabel("layer", fontsize=8)
    return image
