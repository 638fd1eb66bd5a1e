"""Exact attention, dense and ragged, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from warploom import _core
from warploom.mask import NO_LIMIT, Mask
from warploom.ops import _arrays
from warploom.ops._checks import (
    Sizes,
    band,
    check_options,
    dense_sizes,
    dtype_code,
    ragged_sizes,
    same_device,
    strides,
)
from warploom.ops._execution import Exec, checks_on_device, exec_of, workspace
from warploom.ops._library import (
    below_autograd,
    define,
    define_autocast,
    define_autograd,
    define_differentiable_once,
    is_plain,
    lower,
    refuse_transforms,
)
from warploom.ops._values import check_offsets

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_is_grad_enabled = torch.is_grad_enabled


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    kernel: str | None = None,
    check: bool | None = None,
) -> Any:
    """Softmax attention: ``o_i = sum_j softmax_j(softcap(scale * <q_i, k_j>)) v_j``.

    Query head ``n`` reads key/value head ``n // (h // hk)``. A row that sees no key gives o = 0
    and lse = -inf; what a hidden key or value holds, NaN included, does not show. Results are
    bitwise the same from call to call and for any number of threads. Differentiable once in
    q, k and v, through o and through lse.

    Args:
        q: ``[b, sq, h, d]``, float32, float16 or bfloat16. Any strides with a contiguous last axis.
        k: ``[b, sk, hk, d]``, dtype and device of q; hk divides h.
        v: ``[b, sk, hk, dv]``, likewise.
        mask: from ``wl.mask``; None is ``full()``. Aligned to the bottom right: the last query
            stands on the last key.
        scale: factor of the logits; None is ``d ** -0.5``.
        softcap: c > 0 turns a logit x into ``c * tanh(x / c)``; None does not.
        return_lse: return lse too.
        kernel: name of the kernel to run, from ``wl.list_kernels()``; None takes the best. The
            gradients' kernel is the best one either way.
        check: look at values that index memory before the call. Dense attention has none.

    Returns:
        o ``[b, sq, h, dv]`` in q's dtype; with ``return_lse``, also lse ``[b, h, sq]`` in float32,
        the natural logarithm of the sum of the exponentials of the visible logits. Arrays of
        another library (``__dlpack__``) are taken without a copy, and its kind is returned.

    Raises:
        ValueError: an argument is wrong; the message names it, and says what it must be.
        NotImplementedError: no kernel fits; every candidate and why it was refused are named.
    """
    plain = is_plain(q, k, v)
    if not (plain or _arrays.are_tensors(q, k, v)):
        arrays = {"q": q, "k": k, "v": v}
        return _arrays.call(attention, arrays, mask, scale, softcap, return_lse, kernel, check)
    if not (scale is None and softcap is None and kernel is None):
        check_options(scale=scale, softcap=softcap, kernel=kernel)
    left, right = (NO_LIMIT, NO_LIMIT) if mask is None else band(mask)
    if not plain:
        result = ATTENTION(q, k, v, left, right, scale, softcap, kernel, check)
    else:
        options = _Options(left, right, scale, softcap, kernel, check)
        if _is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            result = _record(_run, q, k, v, options)
        else:
            result = _run(q, k, v, options)
    return result if return_lse else result[0]


def attention_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    max_seqlen: int | None = None,
    return_lse: bool = False,
    kernel: str | None = None,
    check: bool | None = None,
) -> Any:
    """:func:`attention` of sequences of different lengths, their rows end to end.

    Sequence n has the query rows ``cu_seqlens_q[n]`` to ``cu_seqlens_q[n + 1]`` and the keys
    ``cu_seqlens_k[n]`` to ``cu_seqlens_k[n + 1]``; the mask applies to each by itself.

    Args:
        q: ``[tq, h, d]``. k: ``[tk, hk, d]``. v: ``[tk, hk, dv]``. As for :func:`attention`.
        cu_seqlens_q: ``[b + 1]``, int32, on q's device: from 0 to tq, never decreasing.
        cu_seqlens_k: likewise, from 0 to tk.
        max_seqlen: no sequence has more queries or keys; None is the number of rows. A GPU grid
            is sized by it, so say it there.
        check: look at the offsets first; None does on the CPU and does not on a GPU, where True
            waits for the device. Where they are not looked at, a GPU kernel guards them (see
            ``wl.check``), and the CPU trusts them.

    Returns:
        o ``[tq, h, dv]``; with ``return_lse``, also lse ``[h, tq]`` in float32.

    Raises:
        ValueError: as :func:`attention`; offsets that decrease or do not end at the last row.
    """
    arrays = {"q": q, "k": k, "v": v, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    if not _arrays.are_tensors(*arrays.values()):
        options = (mask, scale, softcap, max_seqlen, return_lse, kernel, check)
        return _arrays.call(attention_varlen, arrays, *options)
    if not (scale is None and softcap is None and kernel is None):
        check_options(scale=scale, softcap=softcap, kernel=kernel)
    result = ATTENTION(
        q, k, v, *band(mask), scale, softcap, kernel, check, cu_seqlens_q, cu_seqlens_k, max_seqlen
    )
    return result if return_lse else result[0]


class _Options(NamedTuple):
    """The arguments of both ops after their tensors."""

    left: int = NO_LIMIT
    right: int = NO_LIMIT
    scale: float | None = None
    softcap: float | None = None
    kernel: str | None = None
    check: bool | None = None
    cu_seqlens_q: torch.Tensor | None = None
    cu_seqlens_k: torch.Tensor | None = None
    max_seqlen: int | None = None


_SCHEMA = (
    "int left=-1, int right=-1, float? scale=None, float? softcap=None, str? kernel_name=None, "
    "bool? check=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, "
    "SymInt? max_seqlen=None"
)


def _sizes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: _Options) -> Sizes:
    _, _, _, _, _, _, cu_seqlens_q, cu_seqlens_k, max_seqlen = options
    if cu_seqlens_q is None and cu_seqlens_k is None:
        return dense_sizes(q, k, v)
    if cu_seqlens_q is None or cu_seqlens_k is None:
        raise ValueError("cu_seqlens_q and cu_seqlens_k: give both or neither")
    same_device(q, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    return ragged_sizes(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen)


def _outputs(q: torch.Tensor, sizes: Sizes, options: _Options) -> Pair:
    b, h, _, _, dv, sq, _, tq, _ = sizes
    if options.cu_seqlens_q is not None:
        return q.new_empty(tq, h, dv), q.new_empty(h, tq, dtype=torch.float32)
    if q.dtype is torch.float32:  # naming a dtype takes time
        return q.new_empty(b, sq, h, dv), q.new_empty(b, h, sq)
    return q.new_empty(b, sq, h, dv), q.new_empty(b, h, sq, dtype=torch.float32)


def _problem(code: int, sizes: Sizes, options: _Options) -> tuple[int | float, ...]:
    """``wl_attention_problem``, field by field."""
    left, right, scale, softcap, _, _, cu_seqlens_q, cu_seqlens_k, _ = options
    return (
        code,
        *sizes,
        0 if cu_seqlens_q is None else cu_seqlens_q.data_ptr(),
        0 if cu_seqlens_k is None else cu_seqlens_k.data_ptr(),
        left,
        right,
        (sizes[3] or 1) ** -0.5 if scale is None else scale,
        softcap or 0.0,
    )


def _check_values(where: Exec, sizes: Sizes, options: _Options) -> None:
    if options.cu_seqlens_q is None or options.cu_seqlens_k is None:
        return
    if checks_on_device(where, options.check):
        *_, sq, sk, tq, tk = sizes
        check_offsets("cu_seqlens_q", options.cu_seqlens_q, tq, sq)
        check_offsets("cu_seqlens_k", options.cu_seqlens_k, tk, sk)


def _run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: _Options) -> Pair:
    sizes = _sizes(q, k, v, options)
    code = dtype_code(q, k, v)
    if not (q.is_cpu and k.is_cpu and v.is_cpu):
        same_device(q, k=k, v=v)
    where = exec_of(q, options.kernel, options.check)
    if options.check:
        _check_values(where, sizes, options)
    o, lse = _outputs(q, sizes, options)
    _core.attention_forward(
        *where, 0, 0, *_problem(code, sizes, options),
        q.data_ptr(), strides("q", q),
        k.data_ptr(), strides("k", k),
        v.data_ptr(), strides("v", v),
        o.data_ptr(), o.stride(),
        lse.data_ptr(),
    )  # fmt: skip
    return o, lse


def _forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *arguments: Any) -> Pair:
    return _run(q, k, v, _Options(*arguments))


def _forward_fake(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *arguments: Any) -> Pair:
    options = _Options(*arguments)
    sizes = _sizes(q, k, v, options)
    dtype_code(q, k, v)
    same_device(q, k=k, v=v)
    return _outputs(q, sizes, options)


def _backward(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    *arguments: Any,
) -> Triple:
    options = _Options(*arguments)
    sizes = _sizes(q, k, v, options)
    code = _check_backward(grad_o, grad_lse, q, k, v, o, lse, sizes, options)
    # Gradients come in any layout (a sum's is expanded from one number); the kernels need rows.
    grad_o = grad_o if grad_o.stride(-1) == 1 else grad_o.contiguous()
    lse = lse.contiguous()
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    where = exec_of(q, options.kernel, options.check)
    if options.check:
        _check_values(where, sizes, options)
    dq, dk, dv = _gradients(q, k, v)
    rest = (
        *_problem(code, sizes, options),
        q.data_ptr(), strides("q", q),
        k.data_ptr(), strides("k", k),
        v.data_ptr(), strides("v", v),
        o.data_ptr(), strides("o", o),
        grad_o.data_ptr(), grad_o.stride(),
        lse.data_ptr(),
        0 if grad_lse is None else grad_lse.data_ptr(),
        dq.data_ptr(), dq.stride(),
        dk.data_ptr(), dk.stride(),
        dv.data_ptr(), dv.stride(),
    )  # fmt: skip
    space = workspace(where, q, _core.attention_backward_workspace, *rest)
    memory = (0, 0) if space is None else (space.data_ptr(), space.numel())
    _core.attention_backward(*where, *memory, *rest)
    return dq, dk, dv


def _backward_fake(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    *arguments: Any,
) -> Triple:
    options = _Options(*arguments)
    sizes = _sizes(q, k, v, options)
    _check_backward(grad_o, grad_lse, q, k, v, o, lse, sizes, options)
    return _gradients(q, k, v)


def _check_backward(
    grad_o: torch.Tensor,
    grad_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    sizes: Sizes,
    options: _Options,
) -> int:
    b, h, _, _, dv, sq, _, tq, _ = sizes
    ragged = options.cu_seqlens_q is not None
    o_shape = (tq, h, dv) if ragged else (b, sq, h, dv)
    lse_shape = (h, tq) if ragged else (b, h, sq)
    for name, tensor, shape in (
        ("grad_o", grad_o, o_shape),
        ("o", o, o_shape),
        ("lse", lse, lse_shape),
        ("grad_lse", grad_lse, lse_shape),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: must be {shape}")
        if tensor is not None and "lse" in name and tensor.dtype is not torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}: must be torch.float32")
    same_device(q, k=k, v=v, o=o, grad_o=grad_o, lse=lse, grad_lse=grad_lse)
    return dtype_code(q, k, v, o=o, grad_o=grad_o)


def _gradients(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Triple:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


class _Attention(torch.autograd.Function):
    # Every further argument of a Function costs time: the options are one.
    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, _Options], Pair],
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        options: _Options,
    ) -> Pair:
        o, lse = run(q, k, v, options)
        ctx.set_materialize_grads(False)  # no gradient of lse: a cheaper kernel
        ctx.save_for_backward(q, k, v, o, lse, options.cu_seqlens_q, options.cu_seqlens_k)
        ctx.options = options
        return o, lse

    @staticmethod
    def backward(ctx: Any, grad_o: torch.Tensor | None, grad_lse: torch.Tensor | None) -> Any:
        q, k, v, o, lse, *_ = ctx.saved_tensors  # the offsets are saved to notice their changes
        gradients = ATTENTION_BACKWARD(
            torch.zeros_like(o) if grad_o is None else grad_o, grad_lse, q, k, v, o, lse,
            *ctx.options._replace(kernel=None),
        )  # fmt: skip
        return None, *gradients, None


# Below Function.apply, which only refuses transforms; they are refused here already.
_record: Callable[..., Any] = super(torch.autograd.Function, _Attention).apply


def _dispatched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: _Options) -> Any:
    with below_autograd():
        return ATTENTION(q, k, v, *options)


def _autograd(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *arguments: Any) -> Any:
    refuse_transforms(ATTENTION, (q, k, v))
    if _is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Attention.apply(_dispatched, q, k, v, _Options(*arguments))  # type: ignore[no-untyped-call]
    return _dispatched(q, k, v, _Options(*arguments))


def _autocast(
    dtype: torch.dtype, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *arguments: Any
) -> tuple[Any, ...]:
    return lower(dtype, q), lower(dtype, k), lower(dtype, v), *arguments


ATTENTION = define(
    f"attention(Tensor q, Tensor k, Tensor v, {_SCHEMA}) -> (Tensor o, Tensor lse)",
    _forward,
    _forward_fake,
)
ATTENTION_BACKWARD = define(
    "attention_backward(Tensor grad_o, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor o, "
    f"Tensor lse, {_SCHEMA}) -> (Tensor dq, Tensor dk, Tensor dv)",
    _backward,
    _backward_fake,
)
define_autograd(ATTENTION, _autograd)
define_autocast(ATTENTION, _autocast)
define_differentiable_once(ATTENTION_BACKWARD)
