"""The cache's format, one formula at a time: codes in float64 and in integers."""

from __future__ import annotations

import torch

LEAST_RANGE = 2.0**-110


def kv_grid(x: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """min and range ``[..., d / group]`` of x ``[..., d]``: bfloat16, rounded outwards."""
    groups = x.float().unflatten(-1, (-1, group))
    lowest = _rounded(groups.amin(-1) + 0.0, up=False)  # of two zeros, the positive one
    width = groups.amax(-1) - lowest.float()
    extent = _rounded(width, up=True)
    tiny = (width > 0) & (width < LEAST_RANGE)
    return lowest, extent.masked_fill(tiny, LEAST_RANGE)


def kv_codes(
    x: torch.Tensor, lowest: torch.Tensor, extent: torch.Tensor, bits: int
) -> torch.Tensor:
    """The nearest points of the grids, ``[..., d]``, as float64 before they are rounded."""
    groups: torch.Tensor = x.double().unflatten(-1, (lowest.shape[-1], -1))
    width = extent.double().unsqueeze(-1)
    steps = (groups - lowest.double().unsqueeze(-1)) * ((1 << bits) - 1) / width
    return steps.masked_fill(width == 0, 0).reshape(x.shape)


def kv_values(
    codes: torch.Tensor, lowest: torch.Tensor, extent: torch.Tensor, bits: int
) -> torch.Tensor:
    """What codes ``[..., d]`` stand for, in float64."""
    groups: torch.Tensor = codes.double().unflatten(-1, (lowest.shape[-1], -1))
    step = extent.double().unsqueeze(-1) / ((1 << bits) - 1)
    return (lowest.double().unsqueeze(-1) + groups * step).reshape(codes.shape)


def kv_shrunk(codes: torch.Tensor, bits: int, to: int) -> torch.Tensor:
    """Codes at fewer bits: every halving rounds to nearest, which is never a tie."""
    while bits > to:
        bits //= 2
        codes = (codes.double() / (2**bits + 1)).round().to(torch.uint8)
    return codes


def kv_pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """``[..., d]`` to ``[..., d * bits / 8]``.

    Four neighbouring codes are a word. Words meet byte by byte, the first in the lowest bits.
    """
    meet = 8 // bits
    words = codes.reshape(*codes.shape[:-1], codes.shape[-1] // (4 * meet), meet, 4)
    packed = torch.zeros_like(words[..., 0, :])
    for n in range(meet):
        packed |= words[..., n, :] << (n * bits)
    return packed.reshape(*codes.shape[:-1], codes.shape[-1] // meet)


def kv_unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of :func:`kv_pack`."""
    meet = 8 // bits
    words = packed.reshape(*packed.shape[:-1], packed.shape[-1] // 4, 4)
    parts = [words >> (n * bits) & ((1 << bits) - 1) for n in range(meet)]
    return torch.stack(parts, -2).reshape(*packed.shape[:-1], packed.shape[-1] * meet)


def kv_tiles(packed: torch.Tensor) -> torch.Tensor:
    """Rows ``[rows, bytes]`` in tiles of 16: their words of 4 bytes take turns. One block, flat."""
    rows, size = packed.shape
    return packed.view(rows // 16, 16, size // 4, 4).transpose(1, 2).flatten()


def _rounded(x: torch.Tensor, up: bool) -> torch.Tensor:
    """To bfloat16, towards one side."""
    near = x.to(torch.bfloat16)
    past = near.float() < x if up else near.float() > x
    end = torch.tensor(torch.inf if up else -torch.inf, dtype=torch.bfloat16)
    return torch.where(past, torch.nextafter(near, end), near)
