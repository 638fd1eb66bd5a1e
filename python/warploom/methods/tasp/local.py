"""One rank's share: calls of the attention ops on parts of the keys, and the sums of their results.

Results of single calls are in the inputs' dtype; everything is summed in float32, in the order of
the calls, and rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from warploom import ops
from warploom.methods.tasp.plan import Call

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Formula(NamedTuple):
    """What the logits are, besides the mask."""

    scale: float
    softcap: float | None


class Forward:
    """Attention of q ``[b, s, h, d]`` over keys that come in parts."""

    def __init__(self, q: torch.Tensor, dv: int, formula: Formula) -> None:
        self._q, self._formula = q, formula
        b, s, h, _ = q.shape
        self._o = q.new_zeros((b, s, h, dv), dtype=torch.float32)
        self._lse = q.new_full((b, h, s), -torch.inf, dtype=torch.float64)

    def add(self, k: torch.Tensor, v: torch.Tensor, calls: Sequence[Call]) -> None:
        """Attends to k ``[b, rows, hk, d]`` and v ``[b, rows, hk, dv]`` as ``calls`` say."""
        for call in calls:
            q0, q1, k0, k1, _ = call.rectangle
            part, weight = _attend(self._q[:, q0:q1], k[:, k0:k1], v[:, k0:k1], call, self._formula)
            merge(self._o[:, q0:q1], self._lse[..., q0:q1], part.float(), weight.double())

    @property
    def sums(self) -> Pair:
        """o in float32 and lse in float64, for :func:`merge`."""
        return self._o, self._lse

    def result(self) -> Pair:
        """o ``[b, s, h, dv]`` in q's dtype and lse ``[b, h, s]``."""
        return self._o.to(self._q.dtype), self._lse.float()


class Backward:
    """Gradients of :class:`Forward`, over the same keys in the same calls."""

    def __init__(
        self,
        grad_o: torch.Tensor,
        grad_lse: torch.Tensor | None,
        q: torch.Tensor,
        o: torch.Tensor,
        lse: torch.Tensor,
        formula: Formula,
    ) -> None:
        self._grad_o, self._grad_lse, self._formula = grad_o, grad_lse, formula
        self._q, self._o, self._lse = q, o, lse
        self._dq = torch.zeros_like(q, dtype=torch.float32, memory_format=torch.contiguous_format)

    def add(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        calls: Sequence[Call],
        dk: torch.Tensor,
        dv: torch.Tensor,
    ) -> None:
        """Adds this part's share of the gradients to dq, and to dk and dv (float32, like k, v)."""
        for call in calls:
            q0, q1, k0, k1, _ = call.rectangle
            part = _attend_backward(
                self._grad_o[:, q0:q1],
                None if self._grad_lse is None else self._grad_lse[..., q0:q1],
                self._q[:, q0:q1],
                k[:, k0:k1],
                v[:, k0:k1],
                self._o[:, q0:q1],
                self._lse[..., q0:q1],
                call,
                self._formula,
            )
            sums = (self._dq[:, q0:q1], dk[:, k0:k1], dv[:, k0:k1])
            for total, more in zip(sums, part, strict=True):
                total += more

    def dq(self) -> torch.Tensor:
        return self._dq.to(self._q.dtype)


def merge(o: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, weight: torch.Tensor) -> None:
    """Takes a part and its lse into o and lse, in place.

    Both lse are float64: each part would round it by an ulp of its size, and every gradient by as
    much. The weights come from differences, for which float32 is enough.
    """
    total = torch.logaddexp(lse, weight)
    base = total.masked_fill(total == -torch.inf, 0)
    weights = [(each - base).float() for each in (lse, weight)]
    o.copy_(ops.merge_states([o, part], weights)[0])
    lse.copy_(total)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call, formula: Formula
) -> Pair:
    mask = call.rectangle.mask
    if call.documents is None:
        result: Pair = ops.attention(q, k, v, mask, *formula, return_lse=True)
        return result
    offsets, longest = _offsets(call.documents, q.device)
    parts = [
        ops.attention_varlen(
            *rows, offsets, offsets, mask, *formula, max_seqlen=longest, return_lse=True
        )
        for rows in zip(q, k, v, strict=True)
    ]
    return torch.stack([o for o, _ in parts]), torch.stack([lse for _, lse in parts])


def _attend_backward(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    call: Call,
    formula: Formula,
) -> Triple:
    """dq, dk, dv; o and lse are those over all keys, of which k and v are a part."""
    mask = call.rectangle.mask
    backward = torch.ops.warploom.attention_backward
    if call.documents is None:
        result: Triple = backward(
            grad_o, grad_lse, q, k, v, o, lse, mask.left, mask.right, *formula
        )
        return result
    offsets, longest = _offsets(call.documents, q.device)
    parts = [
        backward(
            grad_o[n], None if grad_lse is None else grad_lse[n], q[n], k[n], v[n], o[n], lse[n],
            mask.left, mask.right, *formula, None, None, offsets, offsets, longest,
        )
        for n in range(q.shape[0])
    ]  # fmt: skip
    dq, dk, dv = (torch.stack(gradient) for gradient in zip(*parts, strict=True))
    return dq, dk, dv


def _offsets(documents: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, int]:
    """As the ops take them, and the longest document."""
    longest = max(stop - start for start, stop in pairwise(documents))
    return torch.tensor(documents, dtype=torch.int32, device=device), longest
