"""The rows of a batch that one call of attention can serve."""

from __future__ import annotations

from typing import NamedTuple

from warploom.integrations.transformers_masks import MaskPlan
from warploom.mask import causal


class Group(NamedTuple):
    """Rows whose new positions are ``q0 .. q1``, end excluded; ``begins`` come before, stored."""

    rows: list[int]
    begins: list[int]
    q0: int
    q1: int

    @property
    def longest(self) -> int:
        return max(self.begins) + self.q1 - self.q0


class Rows(NamedTuple):
    plan: MaskPlan
    groups: list[Group]
    whole: bool  # one group that is all of the tensors


def rows_of(plan: MaskPlan) -> Rows:
    """Groups of rows with the same new positions, and as one the rows that hold none yet.

    Raises:
        NotImplementedError: a mask that is not causal.
    """
    if plan.band != causal():
        raise NotImplementedError(
            f"a mask of {plan.band} with quantized pages: layers with full causal attention only"
        )
    found: dict[tuple[int, int, bool], Group] = {}
    for b0, b1, q0, q1, k0, k1 in plan.segments:
        begin = k1 - k0 - (q1 - q0)
        group = found.setdefault((q0, q1, begin > 0), Group([], [], q0, q1))
        group.rows.extend(range(b0, b1))
        group.begins.extend([begin] * (b1 - b0))
    groups = list(found.values())
    b, sq, _ = plan.shape_bqk
    whole = len(groups) == 1 and (groups[0].q0, groups[0].q1) == (0, sq)
    return Rows(plan, groups, whole and groups[0].rows == list(range(b)))
