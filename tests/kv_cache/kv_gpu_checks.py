"""What every GPU kernel of the cache's format must do, wherever it runs: emulated, or on a device.

Each function takes a target and the device of the tensors, "cpu" in the emulator. Bits are compared
with those of the CPU.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import warploom as wl
from warploom.ops.kv_cache import KV_SHRINK
from warploom.ops.kv_pages import KVPages
from warploom.testing.pages import make_pages

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


def pages_of(keys_per_channel: bool, **options) -> KVPages:
    k, v = values(4, 32, 2, 48).tanh(), values(4, 32, 2, 80).tanh()
    widths = torch.full((4, 2, 2), 16)
    return make_pages(k, v, widths, keys_per_channel=keys_per_channel, key_group=16, **options)


def moved(pages: KVPages, device) -> KVPages:
    """A copy, its pool at a multiple of 64 bytes."""
    raw = torch.empty(pages.pool.numel() + 64, dtype=torch.uint8, device=device)
    pool = raw[-raw.data_ptr() % 64 :][: pages.pool.numel()].copy_(pages.pool)
    rest = {n: getattr(pages, n).clone().to(device) for n in ("tags", "key_grids", "value_grids")}
    return replace(pages, pool=pool, **rest)


def same_pages(found: KVPages, expected: KVPages) -> bool:
    """Tags, and what blocks and their grids hold, to the bit."""
    tags = expected.tags
    if not torch.equal(found.tags.cpu(), tags):
        return False
    for page, head, side in torch.cartesian_prod(*map(torch.arange, tags.shape)).tolist():
        tag, grids = int(tags[page, head, side]), ("key_grids", "value_grids")[side]
        start = (tag >> 2) * expected.quantum_bytes
        size = expected.block_bytes(2 << (tag & 3), values=bool(side))
        if not torch.equal(found.pool[start : start + size].cpu(), expected.pool[start:][:size]):
            return False
        here, there = (getattr(p, grids)[page, head].cpu() for p in (found, expected))
        if tag & 3 != 3 and not same_bits(here, there):
            return False
    return True


def pages_become_the_cpu_s(target, device, keys_per_channel):
    """Blocks quantized, shrunk by one and two halvings in one launch, read, and turned."""
    pages = pages_of(keys_per_channel)
    found, expected = moved(pages, device), moved(pages, "cpu")
    blocks = torch.tensor([0, 1, 2, 5, 6, 7, 9, 12, 13], dtype=torch.int32)
    bits = torch.tensor([8, 8, 4, 2, 8, 4, 8, 4, 8], dtype=torch.int32)
    wl.kv_quantize_pages(expected, blocks, bits)
    wl.kv_quantize_pages(
        found, blocks.to(device), bits.to(device), kernel=f"kv_quantize_pages_{target}"
    )
    wl.check()
    assert same_pages(found, expected)
    blocks, bits = blocks[[0, 1, 2, 4, 5]], torch.tensor([4, 2, 2, 2, 2], dtype=torch.int32)
    wl.kv_shrink_pages(expected, blocks, bits)
    wl.kv_shrink_pages(
        found, blocks.to(device), bits.to(device), kernel=f"kv_shrink_pages_{target}"
    )
    wl.check()
    assert same_pages(found, expected)
    assert not same_pages(found, pages)
    slots = torch.tensor([0, 127, 33, 64, 31, 95])
    for short, dtype in DTYPES.items():
        rows = wl.kv_gather(found, slots.to(device), dtype, kernel=f"kv_gather_{short}_{target}")
        for a, b in zip(rows, wl.kv_gather(expected, slots, dtype), strict=True):
            assert same_bits(a, b)
    index, frequencies = torch.tensor([0, 3, 2], dtype=torch.int32), torch.linspace(0.001, 1, 20)
    for delta, interleaved in ((7.0, False), (torch.tensor([3.0, -2, 500]), True)):
        wl.kv_rotate(expected, index, delta, frequencies, interleaved)
        wl.kv_rotate(
            found, index.to(device), delta, frequencies.to(device), interleaved,
            kernel=f"kv_rotate_{target}",
        )  # fmt: skip
        wl.check()
        assert same_pages(found, expected)


def rows_are_appended_as_the_cpu_does(target, device):
    for short, dtype in DTYPES.items():
        pages = pages_of(False)
        found, expected = moved(pages, device), moved(pages, "cpu")
        k, v = values(2, 3, 3, 48, dtype=dtype)[:, :, 1:], values(2, 3, 2, 80, dtype=dtype)
        slots = torch.tensor([[5, 127, -1], [64, 0, 31]])
        wl.kv_append(expected, k, v, slots)
        wl.kv_append(
            found, k.to(device), v.to(device), slots.to(device),
            kernel=f"kv_append_{short}_{target}",
        )  # fmt: skip
        wl.check()
        assert same_pages(found, expected)
        assert not same_pages(found, pages)


def bad_rows_and_blocks_are_told_and_left_alone(target, device):
    pages = pages_of(False)
    k, v = values(3, 2, 48).tanh().to(device), values(3, 2, 80).tanh().to(device)
    slots = torch.tensor([1, 2, 3], device=device)
    kernel = f"kv_append_f32_{target}"

    def told(message, call, *arguments, **options):
        found = moved(pages, device)
        call(found, *arguments, **options)
        with pytest.raises(wl.DeviceError, match=message):
            wl.check()
        wl.check()
        return found

    for value in (torch.nan, torch.inf, -torch.inf, 2.0**127):
        spoilt = k.clone()
        spoilt[1, 0, 7] = value
        expected = moved(pages, "cpu")
        wl.kv_append(expected, k.cpu(), v.cpu(), slots.cpu())
        found = told(r"rows\[1\]: .* must be finite", wl.kv_append, spoilt, v, slots, kernel=kernel)
        at = (int(pages.tags[0, 0, 0]) >> 2) * 64 + 2 * 48 * 2  # position 2 of that head's keys
        expected.pool[at : at + 96] = pages.pool[at : at + 96]
        assert same_pages(found, expected)
    for slot in (128, -2):
        wrong = torch.tensor([1, slot, 3], device=device)
        told(r"slots\[1\]", wl.kv_append, k, v, wrong, kernel=kernel)
    coded = moved(pages, device)
    blocks = torch.tensor([0], dtype=torch.int32, device=device)
    wl.kv_quantize_pages(coded, blocks, 8, kernel=f"kv_quantize_pages_{target}")
    wl.kv_append(coded, k, v, slots, kernel=kernel)
    with pytest.raises(wl.DeviceError, match=r"pages\[0\]: .* 16 bits"):
        wl.check()

    def numbers(*n):
        return torch.tensor(n, dtype=torch.int32, device=device)

    for op, bits, wrong in (
        ("quantize_pages", 8, 16), ("quantize_pages", 8, -1), ("quantize_pages", 16, 3),
        ("shrink_pages", 2, 3), ("shrink_pages", 2, 16),
    ):  # fmt: skip
        found = told(
            r"blocks\[0\]", getattr(wl, f"kv_{op}"), numbers(wrong), numbers(bits),
            kernel=f"kv_{op}_{target}",
        )  # fmt: skip
        assert same_pages(found, pages)
    spoilt = moved(pages, device)
    at = (int(pages.tags[1, 1, 1]) >> 2) * 64
    spoilt.pool[at : at + 2].view(torch.bfloat16).fill_(torch.inf)
    before = moved(spoilt, "cpu")
    wl.kv_quantize_pages(spoilt, numbers(7), 4, kernel=f"kv_quantize_pages_{target}")
    with pytest.raises(wl.DeviceError, match=r"block_values\[0\]: .* finite"):
        wl.check()
    assert same_pages(spoilt, before)
    nowhere = torch.tensor([128], device=device)
    rows = wl.kv_gather(moved(pages, device), nowhere, kernel=f"kv_gather_bf16_{target}")
    assert all(x.isnan().all() for x in rows)
    with pytest.raises(wl.DeviceError, match=r"slots\[0\]"):
        wl.check()
