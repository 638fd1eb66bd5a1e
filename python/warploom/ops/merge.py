"""The result over all keys from results over parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from warploom import _core
from warploom.ops import _arrays
from warploom.ops._checks import check_options, dtype_code, same_device, strides
from warploom.ops._execution import exec_of
from warploom.ops._library import (
    below_autograd,
    define,
    define_autocast,
    define_autograd,
    define_differentiable_once,
    lower,
    refuse_transforms,
)

Pair = tuple[torch.Tensor, torch.Tensor]


def merge_states(
    o: Sequence[torch.Tensor], lse: Sequence[torch.Tensor], kernel: str | None = None
) -> Pair:
    """Merges attention over disjoint parts of the keys, in the order given.

    ``lse = log(sum_n exp(lse_n))`` and ``o = sum_n exp(lse_n - lse) o_n``. A part whose lse is
    -inf is absent, whatever its o holds; where all are, o = 0 and lse = -inf. Bitwise the same
    from call to call for the same order. Differentiable once in every o and lse.

    Args:
        o: one or more of ``[b, s, h, dv]`` (or ragged ``[tokens, h, dv]``), of one dtype.
        lse: as many of ``[b, h, s]`` (``[h, tokens]``), float32. One that is not contiguous is
            copied.
        kernel: name of the kernel to run; None takes the best.

    Returns:
        The merged o and lse, of the shapes and dtypes of a part.

    Raises:
        ValueError: an argument is wrong; the message names it, and says what it must be. GPU
            kernels take at most 32 parts.
    """
    if not isinstance(o, (list, tuple)) or not isinstance(lse, (list, tuple)):
        raise ValueError("o and lse: each must be a list with one array a part")
    if len(o) == 0 or len(o) != len(lse):
        raise ValueError(f"o has {len(o)} parts and lse {len(lse)}: must be as many, at least one")
    if kernel is not None:
        check_options(kernel=kernel)
    result: Pair
    if _arrays.are_tensors(*o, *lse):
        result = MERGE_STATES(list(o), list(lse), kernel)
    else:
        arrays = {f"o[{n}]": part for n, part in enumerate(o)}
        arrays |= {f"lse[{n}]": part for n, part in enumerate(lse)}
        result = _arrays.call(lambda *t: merge_states(t[: len(o)], t[len(o) :], kernel), arrays)
    return result


def _check(o: list[torch.Tensor], lse: list[torch.Tensor]) -> int:
    if len(o) == 0 or len(o) != len(lse):
        raise ValueError(f"o has {len(o)} parts and lse {len(lse)}: must be as many, at least one")
    shape = o[0].shape
    if len(shape) not in (3, 4):
        raise ValueError(f"o[0] has shape {tuple(shape)}: must be [b, s, h, dv] or [tokens, h, dv]")
    lse_shape = (*shape[:-3], shape[-2], shape[-3])
    for n, (part, weight) in enumerate(zip(o, lse, strict=True)):
        if part.shape != shape:
            raise ValueError(f"o[{n}] has shape {tuple(part.shape)}: must be {tuple(shape)}")
        if weight.shape != lse_shape:
            raise ValueError(f"lse[{n}] has shape {tuple(weight.shape)}: must be {lse_shape}")
        if weight.dtype is not torch.float32:
            raise ValueError(f"lse[{n}] is {weight.dtype}: must be torch.float32")
        if part.dtype is not o[0].dtype:
            raise ValueError(f"o[{n}] is {part.dtype}: must be {o[0].dtype} like o[0]")
        same_device(o[0], **{f"o[{n}]": part, f"lse[{n}]": weight}, like="o[0]")
    return dtype_code(o[0], like="o[0]")


def _merge(o: list[torch.Tensor], lse: list[torch.Tensor], kernel: str | None = None) -> Pair:
    code = _check(o, lse)
    lse = [weight.contiguous() for weight in lse]
    merged, total = _merge_fake(o, lse)
    s, h, dv = merged.shape[-3:]
    b = merged.shape[0] if merged.dim() == 4 else 1
    views: list[Any] = []
    for n, part in enumerate(o):
        views += part.data_ptr(), strides(f"o[{n}]", part)
    _core.attention_merge(
        *exec_of(merged, kernel, None), 0, 0,
        code, b, s, h, dv,
        views, [weight.data_ptr() for weight in lse],
        merged.data_ptr(), merged.stride(), total.data_ptr(),
    )  # fmt: skip
    return merged, total


def _merge_fake(o: list[torch.Tensor], lse: list[torch.Tensor], kernel: str | None = None) -> Pair:
    _check(o, lse)
    return o[0].new_empty(o[0].shape), lse[0].new_empty(lse[0].shape)


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: str | None, parts: int, *tensors: torch.Tensor) -> Pair:
        with below_autograd():
            merged, total = MERGE_STATES(list(tensors[:parts]), list(tensors[parts:]), kernel)
        ctx.save_for_backward(merged, total, *tensors)
        ctx.parts = parts
        return merged, total

    @staticmethod
    def backward(ctx: Any, grad_o: torch.Tensor, grad_lse: torch.Tensor) -> Any:
        merged, total, *tensors = ctx.saved_tensors
        o, lse = tensors[: ctx.parts], tensors[ctx.parts :]
        gradients = MERGE_STATES_BACKWARD(grad_o, grad_lse, merged, total, o, lse)
        return None, None, *gradients


def _backward(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor,
    merged: torch.Tensor,
    total: torch.Tensor,
    o: list[torch.Tensor],
    lse: list[torch.Tensor],
) -> list[torch.Tensor]:
    """With w_n = exp(lse_n - lse): do_n = w_n do and dlse_n = w_n (dlse + <do, o_n - o>)."""
    grad_o32, grads_o, grads_lse = grad_o.float(), [], []
    for part, weight in zip(o, lse, strict=True):
        absent = weight == -torch.inf
        w = (weight - total).exp().masked_fill(absent, 0)
        rows = w.transpose(-1, -2).unsqueeze(-1)
        hidden = absent.transpose(-1, -2).unsqueeze(-1)
        shift = (part.float() - merged.float()).masked_fill(hidden, 0)
        grads_o.append((rows * grad_o32).to(part.dtype))
        grads_lse.append(w * (grad_lse + (grad_o32 * shift).sum(-1).transpose(-1, -2)))
    return [grad.contiguous() for grad in grads_o + grads_lse]  # as the fake says


def _backward_fake(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor,
    merged: torch.Tensor,
    total: torch.Tensor,
    o: list[torch.Tensor],
    lse: list[torch.Tensor],
) -> list[torch.Tensor]:
    return [t.new_empty(t.shape) for t in (*o, *lse)]


def _autograd(o: list[torch.Tensor], lse: list[torch.Tensor], kernel: str | None = None) -> Any:
    tensors = (*o, *lse)
    refuse_transforms(MERGE_STATES, tensors)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Merge.apply(kernel, len(o), *tensors)  # type: ignore[no-untyped-call]
    with below_autograd():
        return MERGE_STATES(o, lse, kernel)


def _autocast(dtype: torch.dtype, o: list[torch.Tensor], *rest: Any) -> tuple[Any, ...]:
    return [lower(dtype, part) for part in o], *rest


MERGE_STATES = define(
    "merge_states(Tensor[] o, Tensor[] lse, str? kernel_name=None) -> (Tensor o, Tensor lse)",
    _merge,
    _merge_fake,
)
MERGE_STATES_BACKWARD = define(
    "merge_states_backward(Tensor grad_o, Tensor grad_lse, Tensor merged, Tensor total, "
    "Tensor[] o, Tensor[] lse) -> Tensor[]",
    _backward,
    _backward_fake,
)
define_autograd(MERGE_STATES, _autograd)
define_autocast(MERGE_STATES, _autocast)
define_differentiable_once(MERGE_STATES_BACKWARD)
