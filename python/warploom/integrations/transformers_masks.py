"""What a transformers model asks to see, as index intervals instead of a boolean matrix.

transformers describes a mask by a function of (batch, head, query, key) positions, a 2-D padding
mask and the offsets of queries and keys in the sequence. For every batch row that comes down to:
queries ``q0 .. q1`` see keys ``k0 .. k1`` through one band. That is all a kernel needs, so padding
costs nothing and nothing of size ``sq x sk`` is made. What does not come down to it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import getclosurevars
from typing import Any, NamedTuple

import torch

from warploom.mask import Mask, window

_MODULE = "transformers.masking_utils"


class Segment(NamedTuple):
    """Batch rows ``b0 .. b1`` whose queries ``q0 .. q1`` see keys ``k0 .. k1``, ends excluded."""

    b0: int
    b1: int
    q0: int
    q1: int
    k0: int
    k1: int


class MaskPlan(torch.Tensor):
    """The intervals of one forward pass, made once and read by every layer.

    transformers hands on a mask unread only if it is a 4-D tensor; so this is one, without
    elements, that carries the plan.

    Attributes:
        band: which keys a query of a segment sees, both ends aligned at the bottom right.
        segments: disjoint in queries; a query in none of them gets a zero output.
        shape_bqk: (b, sq, sk) of the tensors that the plan is for.
    """

    band: Mask
    segments: tuple[Segment, ...]
    shape_bqk: tuple[int, int, int]
    _ragged: dict[torch.device, Ragged]
    _lengths: dict[torch.device, torch.Tensor]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(
        cls, band: Mask, segments: Iterable[Segment], shape_bqk: tuple[int, int, int]
    ) -> MaskPlan:
        plan: MaskPlan = torch.Tensor._make_subclass(cls, torch.empty(0, 1, 1, 0))
        plan.band, plan.segments, plan.shape_bqk = band, tuple(segments), shape_bqk
        plan._ragged, plan._lengths = {}, {}
        return plan

    def contiguous(self, *_: Any, **__: Any) -> MaskPlan:
        return self

    def to(self, *_: Any, **__: Any) -> MaskPlan:
        return self

    @property
    def keys_from_zero(self) -> bool:
        """Whether every row uses all queries and its keys start at 0: only lengths differ."""
        sq = self.shape_bqk[1]
        return all((s.q0, s.q1, s.k0) == (0, sq, 0) for s in self.segments)

    def lengths(self, device: torch.device) -> torch.Tensor:
        """Keys of each batch row, int32 ``[b]``, for a plan with ``keys_from_zero``."""
        if device not in self._lengths:
            counts = [0] * self.shape_bqk[0]
            for s in self.segments:
                counts[s.b0 : s.b1] = [s.k1] * (s.b1 - s.b0)
            self._lengths[device] = torch.tensor(counts, dtype=torch.int32, device=device)
        return self._lengths[device]

    def ragged(self, device: torch.device) -> Ragged:
        """The same plan for tensors whose rows lie end to end."""
        if device not in self._ragged:
            self._ragged[device] = Ragged.of(self, device)
        return self._ragged[device]


@dataclass(frozen=True)
class Ragged:
    """Rows of flattened ``[b * s]`` tensors that take part, and where each sequence begins."""

    rows_q: torch.Tensor  # int64 [tq]
    rows_k: torch.Tensor  # int64 [tk]
    cu_seqlens_q: torch.Tensor  # int32 [n + 1]
    cu_seqlens_k: torch.Tensor  # int32 [n + 1]
    max_seqlen: int

    @classmethod
    def of(cls, plan: MaskPlan, device: torch.device) -> Ragged:
        _, sq, sk = plan.shape_bqk
        rows_q, rows_k, ends_q, ends_k = [], [], [0], [0]
        longest = 0
        for s in plan.segments:
            for row in range(s.b0, s.b1):
                rows_q.append(torch.arange(row * sq + s.q0, row * sq + s.q1))
                rows_k.append(torch.arange(row * sk + s.k0, row * sk + s.k1))
                ends_q.append(ends_q[-1] + s.q1 - s.q0)
                ends_k.append(ends_k[-1] + s.k1 - s.k0)
                longest = max(longest, s.q1 - s.q0, s.k1 - s.k0)

        def offsets(ends: list[int]) -> torch.Tensor:
            return torch.tensor(ends, dtype=torch.int32, device=device)

        def rows(parts: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat(parts).to(device) if parts else torch.empty(0, dtype=torch.int64)

        return cls(rows(rows_q), rows(rows_k), offsets(ends_q), offsets(ends_k), longest)


@dataclass(frozen=True)
class _Pattern:
    """A mask function, understood: a band, within sequences packed into one row if there are."""

    left: int | None = None
    right: int | None = None
    packed: torch.Tensor | None = None  # [b, s]: which sequence a position belongs to

    def __and__(self, other: _Pattern) -> _Pattern:
        def tighter(a: int | None, b: int | None) -> int | None:
            return min((side for side in (a, b) if side is not None), default=None)

        packed = self.packed if self.packed is not None else other.packed
        return _Pattern(tighter(self.left, other.left), tighter(self.right, other.right), packed)


def _understand(function: Callable[..., Any]) -> _Pattern:
    """Raises NotImplementedError, with the function's name, for one that is no band."""
    name = getattr(function, "__qualname__", repr(function))
    if getattr(function, "__module__", None) == _MODULE:
        inside = getclosurevars(function).nonlocals
        match name.removesuffix(".<locals>.inner_mask").removesuffix(".<locals>.and_mask"):
            case "causal_mask_function":
                return _Pattern(right=0)
            case "bidirectional_mask_function":
                return _Pattern()
            case "sliding_window_overlay":  # the query itself counts
                return _Pattern(left=inside["sliding_window"] - 1)
            case "sliding_window_bidirectional_overlay":
                return _Pattern(left=inside["sliding_window"], right=inside["sliding_window"])
            case "packed_sequence_mask_function":
                return _Pattern(packed=inside["packed_sequence_mask"])
            case "remap_positions_for_packed_sequence":  # positions count up within a sequence
                return _understand(inside["mask_function"])
            case "and_masks":
                pattern = _Pattern()
                for part in inside["mask_functions"]:
                    pattern = pattern & _understand(part)
                return pattern
    raise NotImplementedError(
        f"mask function {name}: warploom's attention takes causal, bidirectional and "
        "sliding-window masks with padding or packed sequences; use another attn_implementation"
    )


def band_of(function: Callable[..., Any]) -> Mask:
    """The band of a mask function; which sequences are packed is left to the caller.

    Raises:
        NotImplementedError: the function describes no band.
    """
    pattern = _understand(function)
    return window(pattern.left, pattern.right)


def plan_mask(
    batch_size: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    q_length: int | None = None,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    cache_position: torch.Tensor | None = None,
    **_: Any,
) -> MaskPlan:
    """The mask function that transformers calls once a forward pass and kind of layer.

    Args:
        batch_size, q_length, kv_length: sizes of the tensors that attention will get.
        q_offset, kv_offset: positions of the first query and of the first key.
        cache_position: positions of the queries ``[sq]``: what transformers 4 gives instead of
            ``q_length`` and ``q_offset``.
        mask_function: transformers' description of who sees whom.
        attention_mask: bool ``[b, positions]``, true where a token is no padding, or None.

    Raises:
        NotImplementedError: a mask that is no band, or padding in the middle of a row.
    """
    if cache_position is not None:
        q_length, q_offset = cache_position.shape[0], cache_position[0]
    if q_length is None:
        raise ValueError("q_length is None: must be a number of queries, or cache_position given")
    first, shape = int(q_offset), (batch_size, q_length, kv_length)
    pattern = _understand(mask_function)
    band = window(pattern.left, pattern.right)
    if pattern.packed is not None:
        packed = pattern.packed.expand(batch_size, -1)
        return MaskPlan.of(band, _packed_segments(packed), shape)
    if pattern.right not in (None, 0) and (first or kv_offset or q_length != kv_length):
        raise NotImplementedError(
            f"a window of {band} with queries {first}+{q_length} on keys {kv_offset}+{kv_length}: "
            "a window that looks ahead needs queries and keys at the same positions"
        )
    segments = []
    valid = _valid_positions(attention_mask, batch_size, kv_offset + kv_length)
    for row, (begin, end) in enumerate(valid):
        k0, k1 = max(begin, kv_offset), min(end, kv_offset + kv_length)
        q0, q1 = first, first + q_length
        if not band.is_full:  # bands are aligned at the last key: padding queries drop out
            q0, q1 = max(q0, begin), min(q1, end)
            k1 = min(k1, q1)
        if q0 < q1 and k0 < k1:
            segments.append(
                Segment(row, row + 1, q0 - first, q1 - first, k0 - kv_offset, k1 - kv_offset)
            )
    return MaskPlan.of(band, _merged(segments), shape)


def _valid_positions(
    padding: torch.Tensor | None, batch: int, positions: int
) -> list[tuple[int, int]]:
    """Begin and end of the tokens of each row that are no padding."""
    if padding is None:
        return [(0, positions)] * batch
    if padding.ndim != 2 or padding.shape[0] != batch:
        raise ValueError(
            f"attention_mask has shape {tuple(padding.shape)}: must be [{batch}, positions]"
        )
    if padding.shape[1] == 0:
        return [(0, 0)] * batch
    kept = padding.to(torch.uint8)
    ends = padding.shape[1] - kept.flip(1).argmax(1)
    rows = torch.stack([kept.argmax(1), ends, kept.sum(1)]).tolist()  # one wait for the device
    valid = []
    for row, (begin, end, count) in enumerate(zip(*rows, strict=True)):
        if count not in (0, end - begin):
            raise NotImplementedError(
                f"attention_mask row {row} hides tokens between {begin} and {end}: warploom's "
                "attention takes padding at the left or right end of a row only"
            )
        valid.append((begin, end) if count else (0, 0))
    return valid


def _packed_segments(packed: torch.Tensor) -> list[Segment]:
    """One segment for each run of equal numbers in the rows of ``packed``, ``[b, s]``."""
    segments = []
    for row, numbers in enumerate(packed.tolist()):
        cuts = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1]]
        for begin, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
            segments.append(Segment(row, row + 1, begin, end, begin, end))
    return segments


def _merged(segments: list[Segment]) -> list[Segment]:
    """Joins neighbouring rows with the same intervals, which one call can serve."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and merged[-1].b1 == segment.b0 and merged[-1][2:] == segment[2:]:
            merged[-1] = merged[-1]._replace(b1=segment.b1)
        else:
            merged.append(segment)
    return merged
