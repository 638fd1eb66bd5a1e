"""A schedule as a picture: who sends to whom in each round, and what each link carries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from warploom.collectives.schedule import Schedule

_MOST_PANELS = 7  # rounds drawn
_MOST_RANKS = 16  # of which arrows can still be told apart


def save(schedule: Schedule, path: Path) -> None:
    """Writes the picture of a schedule; its format by the ending of ``path``.

    Rounds are drawn for up to 16 ranks, an arrow for each transfer, coloured by the part of its
    owner's data; for more ranks only the links' loads are.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the schedule has no transfers.
    """
    if len(schedule.table()) == 0:
        raise ValueError("the schedule has no transfers: there is nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = schedule.table()
    count = int(table[:, 0].max()) + 1
    shown = min(count, _MOST_PANELS) if schedule.ranks <= _MOST_RANKS else 0
    rows = 1 if shown < 4 else 2
    columns = max(-(-(shown + 1) // rows), 2)
    figure = Figure(figsize=(2.9 * columns, 3.0 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for t in range(shown):
        _round(grid[t], schedule, table[table[:, 0] == t])
        grid[t].set_title(f"round {t} of {count}", fontsize=9)
    _loads(figure, grid[shown], schedule, table)
    for axis in grid[shown + 1 :]:
        axis.axis("off")
    busy = np.bincount(table[:, 0])
    figure.suptitle(
        f"{schedule.kind}, {schedule.topology.name}: {schedule.parts} parts, {count} rounds, "
        f"{busy.min()} to {busy.max()} transfers a round",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _round(axis: Any, schedule: Schedule, rows: np.ndarray) -> None:
    from matplotlib import colormaps

    places = _places(schedule)
    colours = colormaps["tab10" if schedule.parts <= 10 else "tab20"]
    for _, source, target, chunk in rows.tolist():
        axis.annotate(
            "",
            places[target],
            places[source],
            arrowprops={
                "arrowstyle": "-|>",
                "color": colours(chunk % schedule.parts % colours.N),
                "connectionstyle": "arc3,rad=0.12",
                "shrinkA": 7,
                "shrinkB": 7,
                "linewidth": 0.9,
            },
        )
    axis.scatter(*places.T, s=130, color="white", edgecolor="#303030", zorder=3)
    for rank, (x, y) in enumerate(places):
        axis.text(x, y, str(rank), ha="center", va="center", fontsize=7, zorder=4)
    axis.set_xlim(places[:, 0].min() - 0.25, places[:, 0].max() + 0.25)
    axis.set_ylim(places[:, 1].min() - 0.25, places[:, 1].max() + 0.25)
    axis.set_aspect("equal")
    axis.axis("off")


def _places(schedule: Schedule) -> np.ndarray:
    """[ranks, 2]: the ranks of a node on a circle, nodes side by side."""
    nodes = schedule.topology.node_count
    m = schedule.ranks // nodes
    turn = 0.0 if nodes == 1 else np.pi / (2 * m)  # ranks in the same place at heights of their own
    angle = np.pi / 2 - turn - 2 * np.pi * np.arange(m) / m
    circle = np.column_stack([np.cos(angle), np.sin(angle)]) * (1.0 if m > 1 else 0.0)
    across = int(np.ceil(np.sqrt(nodes)))
    corners = [(2.8 * (node % across), -2.8 * (node // across)) for node in range(nodes)]
    return np.concatenate([circle + corner for corner in corners])


def _loads(figure: Any, axis: Any, schedule: Schedule, table: np.ndarray) -> None:
    """How much of one rank's data each pair carried, over all rounds."""
    loads = np.zeros((schedule.ranks, schedule.ranks))
    np.add.at(loads, (table[:, 1], table[:, 2]), 1 / schedule.parts)
    loads[loads == 0] = np.nan
    image = axis.imshow(loads, cmap="viridis", vmin=0)
    axis.set_title("one rank's data, times", fontsize=9)
    axis.set_xlabel("to rank", fontsize=8)
    axis.set_ylabel("from rank", fontsize=8)
    axis.tick_params(labelsize=7)
    figure.colorbar(image, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)
