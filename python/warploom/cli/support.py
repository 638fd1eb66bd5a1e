"""The support table of the docs: what runs where, from the library's own list of kernels."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from warploom.kernels import Kernel, list_kernels

DTYPES = ("float32", "float16", "bfloat16")
HEADER = """\
# What runs where

Printed by `warploom doctor --support` from the library's own list; a test keeps it in step.
`warploom doctor` says which of it this machine can run, `wl.explain` which kernel a call takes.
Cells hold the head dims that the kernels of that row take.

Kernels of `sm_80` are compiled for it and, unless `WARPLOOM_CUDA_ARCHITECTURES` says otherwise, for
`sm_90a` as well; their PTX serves GPUs that are newer still.
"""
# The ops whose tiles outgrow the shared memory of some GPUs; only they need what a target says of
# head dims, after the semicolon.
LARGE_TILES = ("backward", "prefill")


def needs(kernel: Kernel) -> str:
    """What one kernel's target needs, for its op."""
    return kernel.needs if kernel.op in LARGE_TILES else kernel.needs.partition(";")[0]


def head_dims(kernel: Kernel) -> str:
    """The head dims one kernel takes, for a cell."""
    if kernel.max_head_dim == 0:
        return "any"
    step = kernel.head_dim_multiple
    return f"{step} to {kernel.max_head_dim}" + (f", by {step}" if step > 1 else "")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(columns), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def support_text() -> str:
    """The whole document, as Markdown."""
    parts = [HEADER]

    def section(kernel: Kernel) -> str:
        return f"{kernel.family}: {kernel.op}"

    for title, of_op in groupby(sorted(list_kernels(), key=section), key=section):
        kernels = list(of_op)
        targets = {k.target: needs(k) for k in kernels}
        cells = {
            (target, dtype): "; ".join(
                dict.fromkeys(
                    head_dims(k) for k in kernels if k.target == target and k.dtype in (dtype, "")
                )
            )
            for target in targets
            for dtype in DTYPES
        }
        parts.append(f"\n## {title}\n\n")
        parts.append(
            table(
                ("target", "needs", *DTYPES),
                (
                    (f"`{target}`", text, *(cells[target, dtype] or "no" for dtype in DTYPES))
                    for target, text in targets.items()
                ),
            )
        )
        groups: dict[str, list[str]] = {}
        for k in kernels:
            takes = ", ".join(feature.lower() for feature in k.features) or "the plain case only"
            groups.setdefault(f"Head dims {head_dims(k)}; {takes}", []).append(f"`{k.name}`")
        for takes, names in groups.items():
            parts.append(f"\n{takes}:\n{', '.join(names)}.\n")
    return "".join(parts)
