"""Keys and values as a cache of some width would give them back."""

from __future__ import annotations

import torch

import warploom
from warploom.methods.pm_kvq.layout import KEYS, Layout


def as_stored(x: torch.Tensor, width: int, kind: int, layout: Layout) -> torch.Tensor:
    """``[b, hk, s, d]`` through the codes of one width; 16 is bfloat16.

    Per channel, a last page that is not full is quantized as far as it goes, by itself.
    """
    if width == 16:
        return x.to(torch.bfloat16).to(x.dtype)
    if kind == KEYS and layout.keys_per_channel:
        return _per_channel(x, width, layout)
    codes = warploom.kv_quantize(x.contiguous(), width, layout.group)
    return warploom.kv_dequantize(codes, x.dtype)


def _per_channel(x: torch.Tensor, width: int, layout: Layout) -> torch.Tensor:
    b, hk, s, d = x.shape
    page = layout.page_size
    padding = -s % page
    if padding:  # the last key again: no group's range grows
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, padding, -1)], 2)
    groups = x.unflatten(2, (-1, page)).transpose(3, 4).contiguous()
    back = warploom.kv_dequantize(warploom.kv_quantize(groups, width, layout.key_group), x.dtype)
    return back.transpose(3, 4).reshape(b, hk, s + padding, d)[:, :, :s]
