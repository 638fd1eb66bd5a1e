"""Runs attention cases and holds the results against the oracle, by the rule of ``compare``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from warploom import ops, reference
from warploom.testing import plain
from warploom.testing.cases import AttentionCase, AttentionInputs, DecodeCase, DecodeInputs
from warploom.testing.compare import STATED_LSE, STATED_LSE_ON_GPU, assert_matches

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Attend = Callable[..., Pair]
Dtype = torch.dtype


def dtype_of(case: AttentionCase | DecodeCase) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, case.dtype)
    return dtype


def run_forward(
    case: AttentionCase, inputs: AttentionInputs | None = None, kernel: str | None = None
) -> Pair:
    """o and lse by the op."""
    x = inputs or case.make()
    result: Pair
    if x.cu_seqlens_q is None or x.cu_seqlens_k is None:
        result = ops.attention(
            *x.qkv, case.mask, case.scale, case.softcap, return_lse=True, kernel=kernel
        )
    else:
        result = ops.attention_varlen(
            *x.qkv, x.cu_seqlens_q, x.cu_seqlens_k, case.mask, case.scale, case.softcap,
            return_lse=True, kernel=kernel,
        )  # fmt: skip
    return result


def run_backward(
    case: AttentionCase,
    inputs: AttentionInputs,
    o: torch.Tensor,
    lse: torch.Tensor,
    grad_lse: torch.Tensor | None = None,
    kernel: str | None = None,
) -> Triple:
    """dq, dk, dv by the op, from a forward's results."""
    x = inputs
    result: Triple = torch.ops.warploom.attention_backward(
        x.grad_o, grad_lse, *x.qkv, o, lse, case.mask.left, case.mask.right, case.scale,
        case.softcap, kernel, None, x.cu_seqlens_q, x.cu_seqlens_k,
    )  # fmt: skip
    return result


def _forward_by(attend: Attend, case: AttentionCase, x: AttentionInputs, dtype: Dtype) -> Pair:
    q, k, v = (t.to(dtype) for t in x.qkv)
    options = (case.mask, case.scale, case.softcap)
    if x.cu_seqlens_q is None or x.cu_seqlens_k is None:
        return attend(q, k, v, *options)
    return reference.attention_varlen(
        q, k, v, x.cu_seqlens_q, x.cu_seqlens_k, *options, attend=attend
    )


def _backward_by(
    attend: Attend,
    case: AttentionCase,
    x: AttentionInputs,
    grad_lse: torch.Tensor | None,
    dtype: Dtype,
) -> Triple:
    q, k, v, grad_o = (t.to(dtype) for t in (*x.qkv, x.grad_o))
    grad_lse = None if grad_lse is None else grad_lse.to(dtype)
    tensors = (grad_o, grad_lse, q, k, v)
    options = (case.mask, case.scale, case.softcap)
    if x.cu_seqlens_q is None or x.cu_seqlens_k is None:
        return reference.attention_backward(*tensors, *options, attend=attend)
    return reference.attention_varlen_backward(
        *tensors, x.cu_seqlens_q, x.cu_seqlens_k, *options, attend=attend
    )


# Visible pairs of one head from which on the oracle, which goes row by row, would take too long.
# Plain torch in float64 stands in for it.
_MANY_PAIRS = 1 << 20


def _oracle(case: AttentionCase) -> Attend:
    return reference.attention if case.pairs < _MANY_PAIRS else plain.attention


@lru_cache(maxsize=256)
def _known_forward(case: AttentionCase, device: str) -> tuple[AttentionInputs, Pair, Pair]:
    x = case.make(device)
    return x, *_expected_forward(case, x)


def _expected_forward(case: AttentionCase, x: AttentionInputs) -> tuple[Pair, Pair]:
    """By the oracle, and by plain torch in the case's precision."""
    return (
        _forward_by(_oracle(case), case, x, torch.float64),
        _yardstick(lambda dtype: _forward_by(plain.attention, case, x, dtype), dtype_of(case)),
    )


def _yardstick(compute: Callable[[Dtype], Pair], dtype: Dtype) -> Pair:
    """o in the kernel's precision; lse in float32, in which every kernel keeps it."""
    o, lse = compute(dtype)
    return o, lse if dtype == torch.float32 else compute(torch.float32)[1]


@lru_cache(maxsize=256)
def _known_backward(case: AttentionCase, with_lse: bool, device: str) -> tuple[Triple, Triple]:
    x = case.make(device)
    grad_lse = grad_of_lse(case, x) if with_lse else None
    return (
        _backward_by(_oracle(case), case, x, grad_lse, torch.float64),
        _backward_by(plain.attention, case, x, grad_lse, dtype_of(case)),
    )


def _match_forward(result: Pair, expected: Pair, yardstick: Pair) -> None:
    assert_matches("o", result[0], expected[0], yardstick[0])
    granted = STATED_LSE if result[0].is_cpu else STATED_LSE_ON_GPU
    stated = granted.get(result[0].dtype, 0.0)
    assert_matches("lse", result[1], expected[1], yardstick[1], stated)


def grad_of_lse(case: AttentionCase, x: AttentionInputs) -> torch.Tensor:
    """A gradient that arrives through lse: as varied as grad_o is."""
    spread: float = max(1, case.value_dim) ** 0.5
    return x.grad_o.float().sum(-1).transpose(-1, -2).contiguous() / spread


def match_forward(case: AttentionCase, result: Pair, inputs: AttentionInputs | None = None) -> None:
    """Raises AssertionError unless o and lse are right for the case's inputs, or the given ones."""
    expected, yardstick = (
        _known_forward(case, str(result[0].device))[1:]
        if inputs is None
        else _expected_forward(case, inputs)
    )
    _match_forward(result, expected, yardstick)


def check_forward(
    case: AttentionCase,
    inputs: AttentionInputs | None = None,
    kernel: str | None = None,
    device: str = "cpu",
) -> Pair:
    """Runs the op and raises AssertionError unless its results are right; returns them.

    ``device`` is where the case's inputs are made, unless they are given.
    """
    result = run_forward(case, inputs or case.make(device), kernel)
    assert result[0].dtype == dtype_of(case)
    assert result[1].dtype == torch.float32
    match_forward(case, result, inputs)
    return result


def backward_inputs(
    case: AttentionCase, with_lse: bool = False, device: str = "cpu"
) -> tuple[AttentionInputs, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What a backward starts from: the case's inputs, the oracle's o and lse as a forward would
    store them, and the gradient of lse, None unless asked for."""
    x, (o, lse), _ = _known_forward(case, device)
    grad_lse = grad_of_lse(case, x) if with_lse else None
    return x, o.to(dtype_of(case)), lse.float(), grad_lse


def match_backward(case: AttentionCase, result: Triple, with_lse: bool = False) -> None:
    """Raises AssertionError unless dq, dk and dv are right for :func:`backward_inputs`."""
    expected, yardstick = _known_backward(case, with_lse, str(result[0].device))
    for name, a, b, c in zip(("dq", "dk", "dv"), result, expected, yardstick, strict=True):
        assert_matches(name, a, b, c)


def check_backward(
    case: AttentionCase,
    with_lse: bool = False,
    kernel: str | None = None,
    device: str = "cpu",
) -> Triple:
    """Runs the backward op on the oracle's o and lse; raises AssertionError unless it is right."""
    x, o, lse, grad_lse = backward_inputs(case, with_lse, device)
    result = run_backward(case, x, o, lse, grad_lse, kernel)
    match_backward(case, result, with_lse)
    return result


def run_decode(case: DecodeCase, x: DecodeInputs, kernel: str | None = None) -> Pair:
    """o and lse by the op."""
    tensors = (x.q, x.k_cache, x.v_cache, x.lengths, x.page_table)
    options = (case.mask, case.scale, case.softcap)
    result: Pair = ops.attention_decode(*tensors, *options, return_lse=True, kernel=kernel)
    return result


def _decode_by(attend: Attend, case: DecodeCase, x: DecodeInputs, dtype: Dtype) -> Pair:
    tensors = (x.q.to(dtype), x.k_cache.to(dtype), x.v_cache.to(dtype), x.lengths, x.page_table)
    options = (case.mask, case.scale, case.softcap)
    return reference.attention_decode(*tensors, *options, attend=attend)


def match_decode(case: DecodeCase, result: Pair, x: DecodeInputs) -> None:
    """Raises AssertionError unless o and lse are right for these inputs."""
    expected = _decode_by(reference.attention, case, x, torch.float64)
    yardstick = _yardstick(lambda t: _decode_by(plain.attention, case, x, t), dtype_of(case))
    _match_forward(result, expected, yardstick)


def check_decode(
    case: DecodeCase,
    inputs: DecodeInputs | None = None,
    kernel: str | None = None,
    device: str = "cpu",
) -> Pair:
    """Runs the op and raises AssertionError unless its results are right; returns them.

    ``device`` is where the case's inputs are made, unless they are given.
    """
    x = inputs or case.make(device)
    result = run_decode(case, x, kernel)
    match_decode(case, result, x)
    return result


def merge_inputs(
    shape: tuple[int, ...], dtype: Dtype, parts: int = 4, device: str = "cpu"
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Partial results o ``shape`` (``[b, s, h, dv]`` or ``[tokens, h, dv]``) and their lse.

    The first row is absent from the second part, which holds NaN there; the last row of all parts.
    """
    generator = torch.Generator().manual_seed(0)
    lse_shape = (*shape[:-3], shape[-2], shape[-3])
    o = [torch.randn(shape, generator=generator).to(dtype) for _ in range(parts)]
    lse = [torch.randn(lse_shape, generator=generator) * 3 for _ in range(parts)]
    if lse[0].numel():
        for part in lse:
            part.view(-1)[-1] = -torch.inf
        lse[1].view(-1)[0] = -torch.inf
        o[1].view(-1)[0] = torch.nan
    return [t.to(device) for t in o], [t.to(device) for t in lse]


def match_merge(result: Pair, o: list[torch.Tensor], lse: list[torch.Tensor]) -> None:
    """Raises AssertionError unless the merged o and lse are right for these parts."""
    expected = reference.merge_states([t.double() for t in o], [t.double() for t in lse])
    yardstick = reference.merge_states(o, lse)
    assert_matches("o", result[0], expected[0], yardstick[0])
    assert_matches("lse", result[1], expected[1], yardstick[1])
