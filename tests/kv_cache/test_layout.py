"""Where each code lies, bit by bit, as docs/kv_cache_format.md says it."""

from __future__ import annotations

import pytest
import torch

import warploom as wl
from warploom import reference


def code_at(row: bytes, bits: int, position: int) -> int:
    """The code of one position of a packed row."""
    word, byte = divmod(position, 4)
    meet = 8 // bits
    whole = row[word // meet * 4 + byte]
    return whole >> (word % meet * bits) & ((1 << bits) - 1)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_rows(bits, target):
    """A grid from 0 to 255 of integers: at 8 bits the codes are the values."""
    values = torch.randint(256, (6, 96), generator=torch.Generator().manual_seed(2))
    values[:, 0], values[:, 1] = 0, 255
    t = wl.kv_quantize(values.float(), bits, 96, kernel=f"kv_quantize_f32_{target}")
    divisor = 255 // ((1 << bits) - 1)
    for row, packed in zip(values.tolist(), t.codes.numpy(), strict=True):
        found = [code_at(packed.tobytes(), bits, p) for p in range(96)]
        assert found == [round(value / divisor) for value in row]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_oracle_s_packing(bits):
    codes = torch.randint(1 << bits, (5, 80), dtype=torch.uint8)
    packed = reference.kv_pack(codes, bits)
    for row, line in zip(codes.tolist(), packed.numpy(), strict=True):
        assert row == [code_at(line.tobytes(), bits, p) for p in range(80)]
    assert torch.equal(reference.kv_unpack(packed, bits), codes)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_tiles(bits):
    rows = reference.kv_pack(torch.randint(1 << bits, (32, 64), dtype=torch.uint8), bits)
    block = reference.kv_tiles(rows)
    size = 16 * rows.shape[1]
    for n, row in enumerate(rows):
        tile, r = divmod(n, 16)
        for at, byte in enumerate(row.tolist()):
            t, i = divmod(at, 4)
            assert block[tile * size + 64 * t + 4 * r + i] == byte
