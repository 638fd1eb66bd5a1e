"""What every GPU kernel of the cache's format must do, wherever it runs: emulated, or on a device.

Each function takes a target and the device of the tensors, "cpu" in the emulator. Bits are compared
with those of the CPU.
"""

from __future__ import annotations

import pytest
import torch

import warploom as wl
from warploom.ops.kv_cache import KV_SHRINK

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
WIDTHS = (8, 4, 2)


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(found.cpu().view(torch.uint8), expected.cpu().view(torch.uint8))


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values of many sizes, on grids of many sizes."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=g) * 10.0 ** torch.randint(-6, 5, shape[:-1], generator=g)[
        ..., None
    ].to(torch.float32)
    return (x + torch.randn(shape[:-1], generator=g)[..., None]).clamp(-6e4, 6e4).to(dtype)


# d, group: a strip, several to a warp, teams that are no power of two, more strips than lanes.
GROUPS = [(16, 16), (64, 16), (96, 48), (128, 128), (160, 80), (2048, 2048), (2400, 1200)]


def codes_and_values_are_the_cpu_s(target, device, d, group):
    for short, dtype in DTYPES.items():
        x = values(5, 3, d, dtype=dtype)
        for bits in WIDTHS:
            expected = wl.kv_quantize(x, bits, group)
            found = wl.kv_quantize(
                x.to(device), bits, group, kernel=f"kv_quantize_{short}_{target}"
            )
            for a, b in zip(found[:3], expected[:3], strict=True):
                assert same_bits(a, b)
            back = wl.kv_dequantize(found, dtype, kernel=f"kv_dequantize_{short}_{target}")
            assert same_bits(back, wl.kv_dequantize(expected, dtype))


def any_alignment_and_strides(target, device):
    """Rows that start anywhere, and codes at multiples of 4 bytes alone."""
    for short, dtype in DTYPES.items():
        x = values(4, 3, 2, 67, dtype=dtype)[:, ::2, :, 1:65]
        moved = values(4, 3, 2, 67, dtype=dtype).to(device)[:, ::2, :, 1:65]
        for bits in WIDTHS:
            expected = wl.kv_quantize(x, bits, 32)
            found = wl.kv_quantize(moved, bits, 32, kernel=f"kv_quantize_{short}_{target}")
            assert same_bits(found.codes, expected.codes)
            room = torch.zeros(found.codes.numel() + 4, dtype=torch.uint8, device=device)
            codes = room[4:].view(found.codes.shape).copy_(found.codes)
            back = wl.kv_dequantize(
                found._replace(codes=codes), dtype, kernel=f"kv_dequantize_{short}_{target}"
            )
            assert same_bits(back, wl.kv_dequantize(expected, dtype))
            if bits > 2:
                kernel = f"kv_shrink_{target}"
                assert same_bits(KV_SHRINK(codes, bits, 2, kernel), KV_SHRINK(codes.cpu(), bits, 2))


def long_blocks_shrink_in_place(target, device):
    """Several turns of a block of threads, whose results lie where others were read."""
    g = torch.Generator().manual_seed(3)
    for bits, to in ((8, 4), (4, 2), (8, 2)):
        for spare in (0, 4):
            pool = torch.randint(256, (3, 20480 + spare), dtype=torch.uint8, generator=g)
            index = torch.tensor([2, 0], dtype=torch.int32)
            count, moved = 20480 * 8 // bits, pool.clone().to(device)
            wl.kv_shrink_blocks(
                moved, index.to(device), count, bits, to, kernel=f"kv_shrink_{target}"
            )
            expected = pool.clone()
            wl.kv_shrink_blocks(expected, index, count, bits, to)
            size = count * to // 8
            assert same_bits(moved[index.long(), :size], expected[index.long(), :size])
            assert same_bits(moved[1], pool[1])


def what_has_no_code_is_told(target, device):
    for value in (torch.inf, -torch.inf, torch.nan):
        x = values(6, 3, 96)
        x[4, 1, 77] = value
        wl.kv_quantize(x.to(device), 4, 48, kernel=f"kv_quantize_f32_{target}")
        with pytest.raises(wl.DeviceError, match=r"x\[13\]: the row must be finite"):
            wl.check()
        wl.check()  # told once
    x = torch.zeros(2, 32, device=device)
    x[1, 16], x[1, 17] = 3e38, -3e38
    wl.kv_quantize(x, 8, 16, kernel=f"kv_quantize_f32_{target}")
    with pytest.raises(wl.DeviceError, match=r"x\[1\]: .* no group may span"):
        wl.check()


def bad_blocks_are_told_and_left_alone(target, device):
    pool = torch.randint(256, (3, 512), dtype=torch.uint8)
    for wrong in (3, -1):
        moved = pool.clone().to(device)
        index = torch.tensor([2, wrong], dtype=torch.int32, device=device)
        arguments = (index, 512, 8, 4, f"kv_shrink_{target}")
        wl.kv_shrink_blocks(moved, *arguments, check=False)
        with pytest.raises(wl.DeviceError, match=r"index\[1\]: must be from 0 to the number"):
            wl.check()
        assert same_bits(moved[:2], pool[:2])
        assert not same_bits(moved[2], pool[2])
        moved = pool.clone().to(device)
        with pytest.raises(ValueError, match=rf"index\[1\] is {wrong}: must be from 0 to 2"):
            wl.kv_shrink_blocks(moved, *arguments, check=True)
        twice = torch.tensor([1, 0, 1], dtype=torch.int32, device=device)
        with pytest.raises(ValueError, match=r"index\[2\] is 1, a second time: blocks must diff"):
            wl.kv_shrink_blocks(moved, twice, *arguments[1:], check=True)
        assert same_bits(moved, pool)
        wl.check()
