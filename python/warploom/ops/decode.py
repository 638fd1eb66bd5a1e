"""Attention of new positions to a cache of keys and values."""

from __future__ import annotations

from typing import Any

import torch

from warploom import _core
from warploom.mask import NO_LIMIT, Mask
from warploom.ops import _arrays
from warploom.ops._checks import (
    band,
    check_heads,
    check_options,
    dtype_code,
    indices,
    rank,
    same_device,
    strides,
    wrong_shape,
)
from warploom.ops._execution import checks_on_device, exec_of, workspace
from warploom.ops._library import (
    below_autograd,
    define,
    define_autocast,
    define_without_gradient,
    is_plain,
    lower,
)
from warploom.ops._values import check_lengths, check_page_table

Pair = tuple[torch.Tensor, torch.Tensor]
_CAUSAL = (NO_LIMIT, 0)


def attention_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    page_table: torch.Tensor | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    kernel: str | None = None,
    check: bool | None = None,
) -> Any:
    """Attention of the last ``s`` positions of every sequence to its cached keys and values.

    The formula is :func:`warploom.attention`'s over the first ``lengths[n]`` cached positions of
    sequence n, which include the s new ones: write those first (``wl.page_write``). Bitwise the
    same from call to call and for any number of threads. Not differentiable: inputs that require
    grad are refused while gradients are recorded.

    Args:
        q: ``[b, s, h, d]``, float32, float16 or bfloat16.
        k_cache: ``[b, capacity, hk, d]``, or pages ``[n, page, hk, d]`` with ``page_table``.
        v_cache: ``[b, capacity, hk, dv]``, or ``[n, page, hk, dv]``.
        lengths: ``[b]``, int32: from s to the capacity, or to max_pages * page.
        page_table: ``[b, max_pages]``, int32: the page that holds the positions from
            ``i * page`` of sequence n. Entries past its length are not read.
        mask: None is causal: query i of s sees the first ``lengths[n] - s + i + 1`` positions.
        scale, softcap, return_lse, kernel: as for :func:`warploom.attention`.
        check: look at lengths and page ids first; None does on the CPU and does not on a GPU,
            where True waits for the device. Where they are not looked at, a GPU kernel guards them
            (see ``wl.check``), and the CPU trusts them.

    Returns:
        o ``[b, s, h, dv]``; with ``return_lse``, also lse ``[b, h, s]`` in float32.

    Raises:
        ValueError: an argument is wrong, a length is beyond the capacity, a page does not exist.
        NotImplementedError: no kernel fits; every candidate and why it was refused are named.
    """
    if not _arrays.are_tensors(
        q, k_cache, v_cache, lengths, *([] if page_table is None else [page_table])
    ):
        arrays = {
            "q": q,
            "k_cache": k_cache,
            "v_cache": v_cache,
            "lengths": lengths,
            "page_table": page_table,
        }
        return _arrays.call(
            attention_decode,
            arrays,
            mask,
            scale,
            softcap,
            return_lse,
            kernel,
            check,
            optional=("page_table",),
        )
    if not (scale is None and softcap is None and kernel is None):
        check_options(scale=scale, softcap=softcap, kernel=kernel)
    arguments = (q, k_cache, v_cache, lengths, page_table, *band(mask, _CAUSAL))
    options = (scale, softcap, kernel, check)
    no_grad = not torch.is_grad_enabled() or not (
        q.requires_grad or k_cache.requires_grad or v_cache.requires_grad
    )
    if no_grad and is_plain(q, k_cache, v_cache):
        with below_autograd():
            result = ATTENTION_DECODE(*arguments, *options)
    else:
        result = ATTENTION_DECODE(*arguments, *options)
    return result if return_lse else result[0]


# b, s, h, hk, d, dv, capacity, pages, max_pages: the order of wl_attention_decode_params
_Sizes = tuple[int, int, int, int, int, int, int, int, int]


def _sizes(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    page_table: torch.Tensor | None,
) -> _Sizes:
    rank("q", q, "b s h d")
    rank("k_cache", k_cache, "pages page hk d" if page_table is not None else "b capacity hk d")
    rank("v_cache", v_cache, "pages page hk dv" if page_table is not None else "b capacity hk dv")
    b, s, h, d = q.shape
    n, capacity, hk, dk = k_cache.shape
    nv, capacity_v, hv, dv = v_cache.shape
    right = dk == d and (page_table is not None or n == b)
    first = "pages" if page_table is not None else b
    wrong_shape("k_cache", k_cache, f"[{first}, capacity, hk, {d}]", right, "q", q)
    right = nv == n and capacity_v == capacity and hv == hk
    wrong_shape("v_cache", v_cache, f"[{n}, {capacity}, {hk}, dv]", right, "k_cache", k_cache)
    check_heads(h, hk)
    indices("lengths", lengths, (b,))
    max_pages = 0
    if page_table is not None:
        rank("page_table", page_table, "b max_pages")
        max_pages = page_table.shape[1]
        indices("page_table", page_table, (b, max_pages))
    same_device(q, k_cache=k_cache, v_cache=v_cache, lengths=lengths, page_table=page_table)
    return b, s, h, hk, d, dv, capacity, 0 if page_table is None else n, max_pages


def _outputs(q: torch.Tensor, sizes: _Sizes) -> Pair:
    b, s, h, _, _, dv, *_ = sizes
    return q.new_empty(b, s, h, dv), q.new_empty((b, h, s), dtype=torch.float32)


def _decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    page_table: torch.Tensor | None = None,
    left: int = NO_LIMIT,
    right: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    kernel: str | None = None,
    check: bool | None = None,
) -> Pair:
    sizes = _sizes(q, k_cache, v_cache, lengths, page_table)
    code = dtype_code(q, k_cache=k_cache, v_cache=v_cache)
    where = exec_of(q, kernel, check)
    if checks_on_device(where, check):
        _, s, *_, capacity, pages, max_pages = sizes
        check_lengths(lengths, s, capacity if page_table is None else max_pages * capacity)
        if page_table is not None:
            check_page_table(page_table, lengths, capacity, pages)
    o, lse = _outputs(q, sizes)
    rest = (
        code, *sizes,
        0 if page_table is None else page_table.data_ptr(),
        0 if page_table is None else page_table.stride(0),
        lengths.data_ptr(),
        left, right,
        (sizes[4] or 1) ** -0.5 if scale is None else scale,
        softcap or 0.0,
        q.data_ptr(), strides("q", q),
        o.data_ptr(), o.stride(),
        k_cache.data_ptr(), strides("k_cache", k_cache),
        v_cache.data_ptr(), strides("v_cache", v_cache),
        lse.data_ptr(),
    )  # fmt: skip
    space = workspace(where, q, _core.attention_decode_workspace, *rest)
    memory = (0, 0) if space is None else (space.data_ptr(), space.numel())
    _core.attention_decode(*where, *memory, *rest)
    return o, lse


def _decode_fake(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    page_table: torch.Tensor | None = None,
    *options: Any,
) -> Pair:
    sizes = _sizes(q, k_cache, v_cache, lengths, page_table)
    dtype_code(q, k_cache=k_cache, v_cache=v_cache)
    return _outputs(q, sizes)


def _autocast(dtype: torch.dtype, q: torch.Tensor, k_cache: torch.Tensor, *rest: Any) -> Any:
    # Caches keep the dtype they were made in: casting one at every step would cost its size.
    return lower(k_cache.dtype, q), k_cache, *rest


ATTENTION_DECODE = define(
    "attention_decode(Tensor q, Tensor k_cache, Tensor v_cache, Tensor lengths, "
    "Tensor? page_table=None, int left=-1, int right=0, float? scale=None, float? softcap=None, "
    "str? kernel_name=None, bool? check=None) -> (Tensor o, Tensor lse)",
    _decode,
    _decode_fake,
)
define_without_gradient(ATTENTION_DECODE)
define_autocast(ATTENTION_DECODE, _autocast)
