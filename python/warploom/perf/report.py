"""Rows as text: lines for the terminal, JSON lines, and the recorded results with their page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from warploom.perf.case import Figure, format_seconds
from warploom.perf.measure import Row

_MET = {True: "met", False: "NOT met", None: "not judged: nobody to compare with"}


def ceiling_lines(row: Row) -> list[str]:
    """The ceilings of one number of threads."""
    lines = [f"ceilings, {_threads(row)}"]
    for name, entry in row["ceilings"].items():
        rate = entry["rate"]
        lines.append(
            f"  {name:<18} {rate['median']:>8.1f} {entry['unit']:<8}"
            f" [{rate['low']:.1f} .. {rate['high']:.1f}]"
        )
    lines += [f"  {name:<18} cannot run: {why}" for name, why in row["refused"].items()]
    return lines


def case_lines(row: Row) -> list[str]:
    """Time, rate, share of each ceiling, ratio to each peer, goals; quartiles in brackets."""
    seconds = row["seconds"]
    lines = [
        f"{row['case']}, {_threads(row)}: {row['text']}",
        f"  warploom {format_seconds(seconds['median'])}"
        f" [{format_seconds(seconds['low'])} .. {format_seconds(seconds['high'])}],"
        f" {row['rate']:.4g} {row['unit']}, {row['rounds']} rounds",
    ]
    for name, other in row["others"].items():
        lines.append(f"  {_compared(name, other)}")
    lines += [f"  {figure}" for figure in _figures(row)]
    lines += [f"  {name} cannot run: {why}" for name, why in row["refused"].items()]
    for goal in row["goals"]:
        lines.append(f"  goal: {goal['goal']}: {_figure(goal)} {_MET[goal['met']]}".rstrip())
    return lines


def _compared(name: str, other: dict[str, Any]) -> str:
    ratio = other["ratio"]
    if other["role"] == "ceiling":
        median, low, high = (f"{100 * ratio[key]:.0f}%" for key in ("median", "low", "high"))
        return f"{median} of {name} [{low} .. {high}]"
    median, low, high = (f"{ratio[key]:.2f}" for key in ("median", "low", "high"))
    work = "the rate of" if other["role"] == "reference" else "as fast as"
    return f"{median}x {work} {name} [{low} .. {high}]"


def _figures(row: Row) -> list[str]:
    return [str(Figure(**figure)) for figure in row.get("figures", [])]


def _figure(goal: dict[str, Any]) -> str:
    if goal["value"] is None:
        return ""
    if goal["kind"] == "figure":
        return f"{goal['value']:.6g}"
    if goal["kind"] == "seconds":
        return format_seconds(goal["value"])
    return f"{goal['value']:.2f}x"


def _threads(row: Row) -> str:
    if row["device"] != "cpu":
        return str(row["device"])
    return f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"


def write_json_lines(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def record(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Puts rows into ``folder/results/<machine>.jsonl`` and rewrites ``folder/README.md``.

    A row replaces the one of the same family, case, device and threads, so that a run in pieces
    adds up.

    Raises:
        ValueError: a row of a quick run, which measures nothing.
    """
    if any(row["quick"] for row in rows):
        raise ValueError("rows are of a quick run: tiny shapes are not recorded")
    written = []
    for machine in sorted({row["machine"]["name"] for row in rows}):
        path = folder / "results" / f"{machine}.jsonl"
        kept = {_key(row): row for row in (read_json_lines(path) if path.exists() else [])}
        kept.update({_key(row): row for row in rows if row["machine"]["name"] == machine})
        write_json_lines(path, kept.values())
        written.append(path)
    page = folder / "README.md"
    page.write_text(render_page(sorted((folder / "results").glob("*.jsonl"))))
    return [*written, page]


def _key(row: Row) -> tuple[Any, ...]:
    return (row["family"], row["case"], row["device"], row["threads"])


_PAGE = """# Measured speed

Written by `warploom perf FAMILY --record`; do not edit. One file a machine lies in `results/`, a
JSON line a case. Every figure is the median, over rounds, of a ratio taken within one round:
warploom, its peers and the ceilings are sampled in turns, so that a change of clock rate or a
neighbour's load meets all of them alike. Brackets hold the quartiles.

Repeat one with `warploom perf FAMILY --cases NAME`.
"""


def render_page(paths: Sequence[Path]) -> str:
    """The page of all recorded machines, from their files alone."""
    parts = [_PAGE]
    for path in paths:
        rows = read_json_lines(path)
        if rows:
            parts.append(_machine_section(rows))
    return "\n".join(parts)


def _machine_section(rows: Sequence[Row]) -> str:
    facts = rows[0]["machine"]
    gpu = f"{facts['gpu']['name']}, " if "gpu" in facts else ""
    dates = sorted(row["machine"]["date"][:10] for row in rows)
    loads = sorted(row["machine"]["load"] for row in rows)
    commits = sorted({row["machine"]["commit"] for row in rows})
    lines = [
        f"## {facts['name']}",
        "",
        f"{gpu}{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB; torch "
        f"{facts['torch']}, Python {facts['python']}; {dates[0]} to {dates[-1]}, "
        f"commit {', '.join(commits) or 'unknown'}; "
        f"load before measuring {loads[0]} to {loads[-1]}.",
        "",
    ]
    for family in sorted({row["family"] for row in rows}):
        lines += _family_tables([row for row in rows if row["family"] == family], family)
    return "\n".join(lines)


def _family_tables(rows: Sequence[Row], family: str) -> list[str]:
    lines = [f"### {family}", ""]
    bounds = [row for row in rows if row["case"] == "ceilings"]
    if bounds:
        names = list(dict.fromkeys(name for row in bounds for name in row["ceilings"]))
        lines += ["| threads | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for row in bounds:
            cells = [_ceiling_cell(row["ceilings"].get(name)) for name in names]
            lines.append(f"| {row['threads']} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "| case | threads | time | rate | compared | goal | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["case"] == "ceilings":
            continue
        compared = "<br>".join(
            [*(_compared(name, other) for name, other in row["others"].items()), *_figures(row)]
        )
        goals = "<br>".join(f"{g['goal']}: {_figure(g)}" for g in row["goals"]) or "-"
        verdicts = "<br>".join(_MET[g["met"]] for g in row["goals"])
        lines.append(
            f"| `{row['case']}`<br>{row['text']} | {row['threads']} |"
            f" {format_seconds(row['seconds']['median'])} | {row['rate']:.4g} {row['unit']} |"
            f" {compared} | {goals} | {verdicts} |"
        )
    judged = [goal for row in rows for goal in row.get("goals", [])]
    met = sum(goal["met"] is True for goal in judged)
    return [*lines, "", f"{met} of {len(judged)} goals met.", ""]


def _ceiling_cell(entry: dict[str, Any] | None) -> str:
    return "-" if entry is None else f"{entry['rate']['median']:.1f} {entry['unit']}"
