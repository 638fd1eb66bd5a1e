"""The demo's table and picture, from its summary alone."""

from __future__ import annotations

from itertools import accumulate
from math import exp
from pathlib import Path
from typing import Any


def table(summary: dict[str, Any]) -> str:
    """Both implementations side by side, then what each answered."""
    sides = summary["implementations"]
    names = list(sides)

    def row(what: str, cells: list[str], note: str = "") -> str:
        return f"{what:<26}" + "".join(f"{cell:>14}" for cell in cells) + f"  {note}".rstrip()

    def rates(key: str) -> list[str]:
        return [f"{sides[name][key]['median']:.1f}" for name in names]

    agreement = f"{100 * summary['next_token_agreement']:.2f}%"
    lines = [
        f"{summary['model']}, {summary['dtype']}, {summary['threads']} threads",
        f"{summary['tokens']} tokens of {summary['text']}, then {summary['new_tokens']} generated",
        "",
        row("", names, "warploom / sdpa"),
        row("perplexity", [f"{sides[name]['perplexity']:.4f}" for name in names]),
        row("same likeliest next token", ["", agreement]),
        row("prefill, tokens/s", rates("prefill_tokens_per_second"), _ratio(summary, "prefill")),
        row("decode, tokens/s", rates("decode_tokens_per_second"), _ratio(summary, "decode")),
        row("peak memory", [_memory(sides[name]["peak_memory_bytes"]) for name in names]),
        row("same greedy continuation", ["", "yes" if summary["same_generated_tokens"] else "no"]),
        "",
        f"> {summary['question']}",
    ]
    return "\n".join([*lines, *(f"{name}: {sides[name]['answer']}" for name in names)])


def _ratio(summary: dict[str, Any], what: str) -> str:
    ratio = summary[f"{what}_ratio"]
    return f"{ratio['median']:.2f}x [{ratio['low']:.2f} .. {ratio['high']:.2f}]"


def _memory(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**20:.0f} MiB"


def plot(path: Path, summary: dict[str, Any], nll: dict[str, list[float]]) -> None:
    """Speeds as bars; perplexity of the text so far, where the two curves should lie as one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{summary['model']}, {summary['dtype']}, {summary['threads']} threads")
    prefill, decode, curve = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    _bars(prefill, summary, "prefill", f"prefill of {summary['tokens']}, tokens/s")
    _bars(decode, summary, "decode", "decode, tokens/s")
    for (name, values), style in zip(nll.items(), ("-", "--"), strict=False):
        means = [exp(total / count) for count, total in enumerate(accumulate(values), 1)]
        curve.plot(range(1, len(means) + 1), means, style, label=name)
    curve.set_xscale("log")
    curve.set_yscale("log")
    curve.set_title("perplexity of the text so far", fontsize=9)
    curve.set_xlabel("tokens", fontsize=8)
    curve.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _bars(axis: Any, summary: dict[str, Any], what: str, title: str) -> None:
    sides = summary["implementations"]
    heights = [sides[name][f"{what}_tokens_per_second"]["median"] for name in sides]
    axis.bar(list(sides), heights, color=("#a0a0a0", "#4878a8"))
    axis.set_title(f"{title}\n{_ratio(summary, what)}", fontsize=9)
