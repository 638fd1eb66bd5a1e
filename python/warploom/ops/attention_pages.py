"""Attention of new positions to the pages of a quantized cache."""

from __future__ import annotations

from typing import Any

import torch

from warploom import _core
from warploom.mask import NO_LIMIT, Mask
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
from warploom.ops._library import define, define_autocast, define_without_gradient, lower
from warploom.ops._values import check_lengths, check_page_table, check_tags
from warploom.ops.kv_pages import KVPages

PRECISIONS = {"exact": 0, "fast": 1}
Pair = tuple[torch.Tensor, torch.Tensor]
_CAUSAL = (NO_LIMIT, 0)


def attention_pages(
    q: torch.Tensor,
    pages: KVPages,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    precision: str = "exact",
    return_lse: bool = False,
    kernel: str | None = None,
    check: bool | None = None,
) -> Any:
    """Attention of the last ``s`` positions of every sequence to its pages, at any mix of widths.

    The formula is :func:`warploom.attention_decode`'s, of what the blocks stand for
    (docs/kv_cache_format.md). Codes are multiplied as they are: no key or value is made of them.
    Bitwise the same from call to call and for any number of threads. Not differentiable: q that
    requires grad is refused while gradients are recorded.

    Args:
        q: ``[b, s, h, d]``, float32, float16 or bfloat16. A row with an infinity or a NaN gives
            NaN where a block of codes is seen.
        pages: of one layer; see :class:`KVPages`. d and dv are multiples of 16, up to 256.
        page_table: ``[b, max_pages]``, int32: the page that holds the positions from
            ``i * page_size`` of sequence n. Entries past its length are not read.
        lengths: ``[b]``, int32: from s to max_pages * page_size, the s new positions included.
        mask: None is causal: query i of s sees the first ``lengths[n] - s + i + 1`` positions.
        scale, softcap, return_lse, kernel: as for :func:`warploom.attention`.
        precision: "exact" is as exact as q's dtype asks for; "fast" rounds queries and weights to
            8 bits where that is faster. docs/numerics.md has both bounds.
        check: look at lengths, page ids and tags first; None does on the CPU and does not on a
            GPU, where True waits for the device.

    Returns:
        o ``[b, s, h, dv]``, in q's dtype; with ``return_lse``, also lse ``[b, h, s]``, float32.

    Raises:
        ValueError: an argument is wrong, a length is beyond the pages, a page or block is not
            there.
        NotImplementedError: no kernel fits; every candidate and why it was refused are named.
    """
    check_options(scale=scale, softcap=softcap, kernel=kernel)
    if not isinstance(pages, KVPages):
        raise ValueError(f"pages is a {type(pages).__name__}: must be a wl.KVPages")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: must be 'exact' or 'fast'")
    result = ATTENTION_PAGES(
        q, pages.pool, pages.tags, pages.key_grids, pages.value_grids, page_table, lengths,
        pages.key_group, pages.value_group, pages.quantum_bytes, pages.keys_per_channel,
        *band(mask, _CAUSAL), scale, softcap, PRECISIONS[precision], kernel, check,
    )  # fmt: skip
    return result if return_lse else result[0]


def _check(
    q: torch.Tensor, pages: KVPages, page_table: torch.Tensor, lengths: torch.Tensor
) -> None:
    pages.check_shapes()
    rank("q", q, "b s h d")
    b, _, h, d = q.shape
    right = d == pages.head_dim
    wrong_shape("q", q, f"[b, s, h, {pages.head_dim}]", right, "key_grids", pages.key_grids)
    check_heads(h, pages.kv_heads)
    rank("page_table", page_table, "b max_pages")
    indices("page_table", page_table, (b, page_table.shape[1]))
    indices("lengths", lengths, (b,))
    same_device(q, pool=pages.pool, page_table=page_table, lengths=lengths)


def _outputs(q: torch.Tensor, pages: KVPages) -> Pair:
    b, s, h, _ = q.shape
    return q.new_empty(b, s, h, pages.value_dim), q.new_empty((b, h, s), dtype=torch.float32)


def _pages(
    q: torch.Tensor,
    pool: torch.Tensor,
    tags: torch.Tensor,
    key_grids: torch.Tensor,
    value_grids: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    key_group: int,
    value_group: int,
    quantum_bytes: int,
    keys_per_channel: bool = False,
    left: int = NO_LIMIT,
    right: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    precision: int = 0,
    kernel: str | None = None,
    check: bool | None = None,
) -> Pair:
    pages = KVPages(
        pool, tags, key_grids, value_grids, key_group, value_group, quantum_bytes, keys_per_channel
    )
    _check(q, pages, page_table, lengths)
    code = dtype_code(q)
    where = exec_of(q, kernel, check)
    b, s, h, d = q.shape
    if checks_on_device(where, check):
        check_lengths(lengths, s, page_table.shape[1] * pages.page_size)
        check_page_table(page_table, lengths, pages.page_size, pages.pages)
        check_tags(pages, page_table, lengths)
    o, lse = _outputs(q, pages)
    rest = (
        code, precision, b, s, h,
        *pages.core_arguments(),
        page_table.shape[1], page_table.data_ptr(), page_table.stride(0),
        lengths.data_ptr(),
        left, right,
        (d or 1) ** -0.5 if scale is None else scale,
        softcap or 0.0,
        q.data_ptr(), strides("q", q),
        o.data_ptr(), o.stride(),
        lse.data_ptr(),
    )  # fmt: skip
    space = workspace(where, q, _core.attention_pages_workspace, *rest)
    memory = (0, 0) if space is None else (space.data_ptr(), space.numel())
    _core.attention_pages(*where, *memory, *rest)
    return o, lse


def _pages_fake(
    q: torch.Tensor,
    pool: torch.Tensor,
    tags: torch.Tensor,
    key_grids: torch.Tensor,
    value_grids: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    key_group: int,
    value_group: int,
    *options: Any,
) -> Pair:
    rank("q", q, "b s h d")
    dtype_code(q)
    pages = KVPages(pool, tags, key_grids, value_grids, key_group, value_group, 64)
    return _outputs(q, pages)


def _autocast(dtype: torch.dtype, q: torch.Tensor, *rest: Any) -> Any:
    return lower(dtype, q), *rest


ATTENTION_PAGES = define(
    "attention_pages(Tensor q, Tensor pool, Tensor tags, Tensor key_grids, Tensor value_grids, "
    "Tensor page_table, Tensor lengths, int key_group, int value_group, int quantum_bytes, "
    "bool keys_per_channel=False, int left=-1, int right=0, float? scale=None, "
    "float? softcap=None, int precision=0, str? kernel_name=None, bool? check=None) "
    "-> (Tensor o, Tensor lse)",
    _pages,
    _pages_fake,
)
define_without_gradient(ATTENTION_PAGES)
define_autocast(ATTENTION_PAGES, _autocast)
