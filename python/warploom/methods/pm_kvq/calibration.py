"""Running a model on calibration text, with a say in how its layers attend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from warploom.integrations.transformers import refuse
from warploom.integrations.transformers_masks import plan_mask

# Of a layer's number, q [b, s, h, d], k [b, s, hk, d], v [b, s, hk, d] and the scale of scores.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
_NAME = "warploom_calibration"


def checked(texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Token ids ``[b, s]`` or ``[s]`` as ``[b, s]``."""
    if not texts:
        raise ValueError("texts is empty: must hold at least one tensor of token ids")
    shaped = []
    for n, ids in enumerate(texts):
        if not isinstance(ids, torch.Tensor) or ids.dtype is not torch.int64:
            kind = ids.dtype if isinstance(ids, torch.Tensor) else type(ids).__name__
            raise ValueError(f"texts[{n}] is {kind}: must be token ids, a torch.int64 tensor")
        if ids.dim() not in (1, 2) or ids.shape[-1] < 2:
            raise ValueError(
                f"texts[{n}] has shape {tuple(ids.shape)}: must be [s] or [b, s] with s at least 2"
            )
        shaped.append(ids if ids.dim() == 2 else ids[None])
    return shaped


def stretched(ids: torch.Tensor, position_scale: int) -> torch.Tensor:
    """Positions ``[1, s]`` that lie ``position_scale`` apart: rotations of a longer text."""
    if position_scale < 1:
        raise ValueError(f"position_scale is {position_scale}: must be at least 1")
    return torch.arange(ids.shape[1], device=ids.device)[None] * position_scale


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation, its parameters without gradients; afterwards as it was."""
    training = model.training
    wanted = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        model.train(training)


@contextmanager
def attending(model: Any, attend: Attend) -> Iterator[None]:
    """The model's layers attend by a function, which gets keys as a cache would: rotated, one head
    for each group of query heads. Whole texts without padding."""

    def forward(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        refuse(_NAME, dropout, others)
        if others.get("softcap") is not None:
            raise NotImplementedError("softcap: calibration attends without")
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(module.layer_idx, q, k, v, scale), None

    AttentionInterface.register(_NAME, forward)
    AttentionMaskInterface.register(_NAME, plan_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
