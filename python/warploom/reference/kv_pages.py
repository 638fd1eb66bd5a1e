"""Attention to quantized pages: every block made into numbers first, then exact attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from warploom.mask import Mask
from warploom.reference.attention import Attend, Pair, attention, attention_decode
from warploom.reference.kv_cache import kv_unpack, kv_values

if TYPE_CHECKING:
    from warploom.ops.kv_pages import KVPages


def kv_block(pages: KVPages, page: int, head: int, values: bool) -> torch.Tensor:
    """What a block holds, ``[page_size, d]`` of keys or ``[page_size, dv]`` of values, float64."""
    dim = pages.value_dim if values else pages.head_dim
    tag = int(pages.tags[page, head, int(values)])
    width, size = 2 << (tag & 3), pages.page_size
    start = (tag >> 2) * pages.quantum_bytes
    raw = pages.pool[start : start + size * dim * width // 8]
    if width == 16:
        return raw.view(torch.bfloat16).view(size, dim).double()
    # Tiles of 16 rows, words of 4 bytes taking turns; the rows of values are channels.
    rows, length = (dim, size) if values else (size, dim)
    words = raw.view(rows // 16, length * width // 32, 16, 4).transpose(1, 2)
    codes = kv_unpack(words.reshape(rows, length * width // 8), width)
    grids = (pages.value_grids if values else pages.key_grids)[page, head]
    if values:
        codes = codes.T
    elif pages.keys_per_channel:  # grids [page_size / group, 2, d]: groups lie along positions
        return kv_values(codes.T, grids[:, 0].T, grids[:, 1].T, width).T
    return kv_values(codes, grids[:, 0].T, grids[:, 1].T, width)


def kv_page_values(pages: KVPages) -> Pair:
    """All keys ``[pages, page_size, hk, d]`` and values ``[..., dv]``, float64; NaN where there is
    no block."""
    shape = (pages.pages, pages.page_size, pages.kv_heads)
    k = torch.full((*shape, pages.head_dim), torch.nan, dtype=torch.float64)
    v = torch.full((*shape, pages.value_dim), torch.nan, dtype=torch.float64)
    for page, head in torch.cartesian_prod(*map(torch.arange, pages.tags.shape[:2])).tolist():
        for tensor, values in ((k, False), (v, True)):
            if pages.tags[page, head, int(values)] >= 0:
                tensor[page, :, head] = kv_block(pages, page, head, values)
    return k, v


def attention_pages(
    q: torch.Tensor,
    pages: KVPages,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    *,
    attend: Attend = attention,
) -> Pair:
    """o ``[b, s, h, dv]`` and lse ``[b, h, s]`` in the dtype of q, of q ``[b, s, h, d]``."""
    k, v = (x.to(q.dtype) for x in kv_page_values(pages))
    return attention_decode(q, k, v, lengths, page_table, mask, scale, softcap, attend=attend)
