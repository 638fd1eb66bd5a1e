"""A transformers model on a sequence that is cut over ranks.

    from warploom.integrations.transformers_ring import register, sequence_parallel
    register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="warploom_ring")
    part = tasp.Sharding(length)                            # over torch.distributed's ranks
    with sequence_parallel(part):
        hidden = model.model(part.shard(ids), position_ids=part.positions[None], use_cache=False)

Every rank runs the whole model on its rows; attention alone sees the others' keys and values.
Causal, sliding-window and bidirectional layers, grouped heads, soft-capped logits, gradients.
Packed documents are the sharding's ``cu_seqlens``. Padding and caches are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

from warploom.collectives import Schedule
from warploom.integrations.transformers import refuse
from warploom.integrations.transformers_masks import MaskPlan, band_of
from warploom.methods import tasp

NAME = "warploom_ring"


class _Run(NamedTuple):
    sharding: tasp.Sharding
    schedule: str | Schedule
    timeout: float


_run: ContextVar[_Run | None] = ContextVar("warploom_ring", default=None)


def register() -> None:
    """Makes ``attn_implementation="warploom_ring"`` known to transformers; again is harmless.

    Raises:
        ImportError: transformers older than 4.56, or none.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, plan_mask)


@contextmanager
def sequence_parallel(
    sharding: tasp.Sharding, schedule: str | Schedule = "auto", timeout: float = 30.0
) -> Iterator[None]:
    """Models called inside attend over the sharding's ranks, by :func:`tasp.ring_attention`."""
    token = _run.set(_Run(sharding, schedule, timeout))
    try:
        yield
    finally:
        _run.reset(token)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that a transformers attention layer calls.

    Args:
        query: ``[b, h, rows, d]``. key, value: ``[b, hk, rows, d]``, ``[b, hk, rows, dv]``.
        attention_mask: what :func:`plan_mask` made.

    Returns:
        The output ``[b, rows, h, dv]`` and None for the attention weights.

    Raises:
        RuntimeError: outside :func:`sequence_parallel`.
        NotImplementedError: something asked for cannot be expressed; its name is said.
    """
    run = _run.get()
    if run is None:
        raise RuntimeError(f"attn_implementation='{NAME}' outside sequence_parallel(sharding)")
    refuse(NAME, dropout, others)
    if not isinstance(attention_mask, MaskPlan):
        raise NotImplementedError(
            f"attention_mask is {type(attention_mask).__name__}: must be what transformers makes "
            f"for attn_implementation='{NAME}'"
        )
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    o = tasp.ring_attention(
        q, k, v, sharding=run.sharding, mask=attention_mask.band, schedule=run.schedule,
        scale=scaling, softcap=softcap, timeout=run.timeout,
    )  # fmt: skip
    return o, None


def plan_mask(
    batch_size: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> MaskPlan:
    """The mask function that transformers calls once a forward pass and kind of layer.

    Raises:
        NotImplementedError: a mask that is no band, or padding.
    """
    if attention_mask is not None and not bool(attention_mask.all()):
        raise NotImplementedError(
            f"attention_mask hides positions: attn_implementation='{NAME}' takes no padding; pack "
            "documents and say where they end with the sharding's cu_seqlens"
        )
    return MaskPlan.of(band_of(mask_function), (), (batch_size, kv_length, kv_length))
