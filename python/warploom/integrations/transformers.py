"""warploom's attention in transformers.

    from warploom.integrations.transformers import register
    register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="warploom")

Causal, sliding-window and bidirectional masks, padding at either end, packed sequences, grouped
heads, soft-capped logits, dynamic, static and quantized key/value caches, gradients. Positions that
are padding get a zero output; no other position sees them. What the kernels cannot express
(dropout, attention weights as an output, biases, sinks, other masks) is refused by name.
transformers 4 makes the masks of encoders itself, as matrices: there only decoders run.
"""

from __future__ import annotations

from typing import Any

import torch

import warploom
from warploom.integrations.transformers_masks import MaskPlan, Segment, plan_mask
from warploom.integrations.transformers_pages import PagedStates
from warploom.mask import causal, full, window

NAME = "warploom"

# Up to so many new positions a sequence are decoding: bound by reading the cache.
_DECODE_QUERIES = 8

_REFUSED = {
    "output_attentions": "attention weights are never formed",
    "head_mask": "heads cannot be masked",
    "position_bias": "scores take no bias",
    "s_aux": "attention sinks are not part of the softmax",
    "cache": "transformers' paged cache for continuous batching is not read",
}


def register() -> None:
    """Makes ``attn_implementation="warploom"`` known to transformers; again is harmless.

    Raises:
        ImportError: transformers older than 4.56, or none.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, plan_mask)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that a transformers attention layer calls.

    Args:
        query: ``[b, h, sq, d]``. key, value: ``[b, hk, sk, d]``, ``[b, hk, sk, dv]``.
        attention_mask: what :func:`plan_mask` made, or None: causal or full as the layer says.

    Returns:
        The output ``[b, sq, h, dv]`` and None for the attention weights.

    Raises:
        NotImplementedError: something asked for cannot be expressed; its name is said.
    """
    refuse(NAME, dropout, others)
    shape = (query.shape[0], query.shape[2], key.shape[2])
    plan = _plan(module, shape, attention_mask, is_causal, sliding_window)
    options = {"scale": scaling, "softcap": softcap}
    if isinstance(key, PagedStates):
        return key.attend(query.transpose(1, 2), plan, options), None
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if others.get("cu_seq_lens_q") is not None and len(plan.segments) < 2:
        raise NotImplementedError(
            "cu_seq_lens_q without position_ids that restart at each sequence: pass position_ids"
        )
    return _attend(q, k, v, plan, options), None


def refuse(implementation: str, dropout: float, others: dict[str, Any]) -> None:
    """Raises NotImplementedError for what the kernels cannot express, by name."""
    if dropout:
        raise NotImplementedError(f"dropout is {dropout}: must be 0 (config.attention_dropout)")
    for name, reason in _REFUSED.items():
        if others.get(name) is not None and others[name] is not False:
            raise NotImplementedError(
                f"{name} with attn_implementation='{implementation}': {reason}"
            )


def _plan(
    module: torch.nn.Module,
    shape: tuple[int, int, int],
    attention_mask: torch.Tensor | None,
    is_causal: bool | None,
    sliding_window: int | None,
) -> MaskPlan:
    if isinstance(attention_mask, MaskPlan):
        if attention_mask.shape_bqk != shape:
            raise ValueError(
                f"attention_mask is for (b, sq, sk) = {attention_mask.shape_bqk}, the tensors "
                f"are {shape}: must be the same"
            )
        return attention_mask
    if attention_mask is not None:
        raise NotImplementedError(
            f"attention_mask is a tensor of shape {tuple(attention_mask.shape)}: must be None or "
            "the model's own 2-D padding mask, which warploom turns into intervals"
        )
    causal_layer = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal_layer:
        band = full()
    elif shape[1] not in (1, shape[2]):  # one query alone is the newest position
        raise NotImplementedError(
            f"a causal layer with {shape[1]} queries, {shape[2]} keys and no mask: the position "
            "of the first query is unknown"
        )
    else:
        band = causal() if sliding_window is None else window(sliding_window - 1, 0)
    return MaskPlan.of(band, [Segment(0, shape[0], 0, shape[1], 0, shape[2])], shape)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: MaskPlan, options: dict[str, Any]
) -> torch.Tensor:
    """Attention of ``[b, s, h, d]`` tensors under a plan."""
    b, sq, _ = plan.shape_bqk
    options = {**options, "mask": plan.band}
    whole = len(plan.segments) == 1 and plan.segments[0][:4] == (0, b, 0, sq)
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if sq <= _DECODE_QUERIES and not trained:
        if plan.keys_from_zero:
            lengths = plan.lengths(q.device)
            out: torch.Tensor = warploom.attention_decode(q, k, v, lengths, **options)
            return out
        return _attend_rows(q, k, v, plan, options)
    if whole:
        _, _, _, _, k0, k1 = plan.segments[0]
        out = warploom.attention(q, k[:, k0:k1], v[:, k0:k1], **options)
        return out
    return _attend_ragged(q, k, v, plan, options)


def _attend_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: MaskPlan, options: dict[str, Any]
) -> torch.Tensor:
    """One call on views for each group of rows alike: a cache is read where it lies."""
    out = q.new_zeros((*q.shape[:3], v.shape[3]))
    for b0, b1, q0, q1, k0, k1 in plan.segments:
        lengths = torch.full((b1 - b0,), k1 - k0, dtype=torch.int32, device=q.device)
        rows = slice(b0, b1)
        out[rows, q0:q1] = warploom.attention_decode(
            q[rows, q0:q1], k[rows, k0:k1], v[rows, k0:k1], lengths, **options
        )
    return out


def _attend_ragged(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: MaskPlan, options: dict[str, Any]
) -> torch.Tensor:
    """One ragged call: rows that take part are gathered, which is little beside s^2 work."""
    ragged = plan.ragged(q.device)
    o: torch.Tensor = warploom.attention_varlen(
        q.flatten(0, 1)[ragged.rows_q],
        k.flatten(0, 1)[ragged.rows_k],
        v.flatten(0, 1)[ragged.rows_k],
        ragged.cu_seqlens_q,
        ragged.cu_seqlens_k,
        max_seqlen=ragged.max_seqlen,
        **options,
    )
    out = o.new_zeros((q.shape[0] * q.shape[1], *o.shape[1:]))
    return out.index_copy(0, ragged.rows_q, o).view(*q.shape[:2], *o.shape[1:])
