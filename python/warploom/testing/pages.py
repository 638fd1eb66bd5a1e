"""Pages of a quantized cache made from plain keys and values, one block at a time."""

from __future__ import annotations

import torch

from warploom.ops.kv_pages import PAGE_WIDTHS, KVPages, kv_tag
from warploom.reference.kv_cache import kv_codes, kv_grid, kv_pack, kv_tiles


def make_pages(
    k: torch.Tensor,
    v: torch.Tensor,
    widths: torch.Tensor,
    *,
    key_group: int | None = None,
    value_group: int | None = None,
    keys_per_channel: bool = False,
    quantum_bytes: int = 64,
    seed: int = 0,
) -> KVPages:
    """Pages of k ``[pages, page_size, hk, d]`` and v ``[..., dv]``, each block in its own width.

    Args:
        widths: ``[pages, hk, 2]``, 16, 8, 4 or 2; 0: no block.
        key_group: None is d, or page_size with keys_per_channel.
        value_group: None is dv.
        seed: of the order of the blocks in the pool, and of what lies between them.
    """
    count, size, heads, d = k.shape
    dv = v.shape[3]
    key_group = key_group or (size if keys_per_channel else d)
    value_group = value_group or dv
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count * heads * 2, generator=generator).tolist()
    places = torch.cartesian_prod(*map(torch.arange, (count, heads, 2))).tolist()
    room = (
        count * heads * sum(-(-2 * size * dim // quantum_bytes) * quantum_bytes for dim in (d, dv))
    )
    # Aligned as a pool must be; what no block covers is arbitrary.
    raw = torch.randint(256, (room + 64,), dtype=torch.uint8, generator=generator)
    pool = raw[-raw.data_ptr() % 64 :]
    rows, length = (size // key_group, d) if keys_per_channel else (d // key_group, size)
    key_grids = torch.full((count, heads, rows, 2, length), torch.nan, dtype=torch.bfloat16)
    value_grids = torch.full(
        (count, heads, dv // value_group, 2, size), torch.nan, dtype=torch.bfloat16
    )
    tags = torch.full((count, heads, 2), -1, dtype=torch.int32)
    end = 0
    for n in order:
        page, head, side = places[n]
        width = int(widths[page, head, side])
        if width == 0:
            continue
        assert width in PAGE_WIDTHS
        x = (v if side else k)[page, :, head]
        if width == 16:
            block = x.to(torch.bfloat16).contiguous().view(torch.uint8).flatten()
        else:
            across = keys_per_channel and not side
            groups = x.T.contiguous() if across else x
            lowest, extent = kv_grid(groups, value_group if side else key_group)
            codes = kv_codes(groups, lowest, extent, width).round().to(torch.uint8)
            grids = (value_grids if side else key_grids)[page, head]
            grids[:, 0], grids[:, 1] = lowest.T, extent.T
            codes = codes.T if across else codes  # [positions, channels]
            block = kv_tiles(kv_pack((codes.T if side else codes).contiguous(), width))
        start = -(-end // quantum_bytes)
        end = start * quantum_bytes + block.numel()
        pool[start * quantum_bytes : end] = block
        tags[page, head, side] = kv_tag(start, width)
    return KVPages(
        pool, tags, key_grids, value_grids, key_group, value_group, quantum_bytes, keys_per_channel
    )
