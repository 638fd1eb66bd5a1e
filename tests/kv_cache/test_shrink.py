"""Shrinking: every code, every path, rows and tiles, in place, and what must fail."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import warploom as wl
from warploom import reference
from warploom.ops.kv_cache import KV_SHRINK, TILE_CODES

STEPS = [(8, 4), (4, 2), (8, 2)]


def all_codes(bits: int, copies: int = 3) -> torch.Tensor:
    """Rows in which every code stands at every place of a word and beside every other."""
    levels = 2**bits
    first = torch.arange(levels).repeat_interleave(levels)
    second = torch.arange(levels).repeat(levels)
    pairs = torch.stack([first, second], -1).flatten()
    rows = [pairs.roll(shift) for shift in range(copies)]
    width = max(pairs.numel(), 1024)
    return torch.stack([r.repeat(width // r.numel()) for r in rows]).to(torch.uint8)


@pytest.mark.parametrize(("bits", "to"), STEPS)
def test_every_code_rounds_to_nearest(bits, to, target):
    """By integers alone: the kernel's code is the one nearest to q / (17 or 5), and none ties."""
    divisor = (2**bits - 1) // (2**to - 1)
    packed = reference.kv_pack(torch.arange(2**bits, dtype=torch.uint8).repeat(256), bits)
    found = reference.kv_unpack(KV_SHRINK(packed, bits, to, f"kv_shrink_{target}"), to)
    for q, code in enumerate(found[: 2**bits].tolist()):
        assert code == (2 * q + divisor) // (2 * divisor)
        assert abs(Fraction(q, divisor) - code) < Fraction(1, 2), "never a tie"
    assert torch.equal(found, found[: 2**bits].repeat(256))


@pytest.mark.parametrize(("h", "divisor"), [(4, 17), (2, 5)])
def test_the_multiply_and_shift_form_is_the_same(h, divisor):
    """The published form: ((2^2h - 2^h + 1)(q + 2^(h-1))) >> 3h."""
    for q in range(4**h):
        shifted = ((4**h - 2**h + 1) * (q + 2 ** (h - 1))) >> (3 * h)
        assert shifted == round(Fraction(q, divisor))


@pytest.mark.parametrize(("bits", "to"), STEPS)
def test_every_pair_of_codes_at_every_place(bits, to, target):
    codes = all_codes(bits)
    packed = reference.kv_pack(codes, bits)
    found = KV_SHRINK(packed, bits, to, f"kv_shrink_{target}")
    assert torch.equal(found, reference.kv_pack(reference.kv_shrunk(codes, bits, to), to))


@pytest.mark.parametrize("d", [16, 48, 80, 128])
@pytest.mark.parametrize("rows", [0, 1, 3, 1500])
def test_rows_of_any_length(rows, d, target):
    codes = torch.randint(256, (rows, d), dtype=torch.uint8, generator=torch.Generator())
    for to in (4, 2):
        found = KV_SHRINK(codes, 8, to, f"kv_shrink_{target}")
        expected = reference.kv_pack(reference.kv_shrunk(codes, 8, to), to)
        assert torch.equal(found, expected)


def test_two_halvings_are_one():
    codes = all_codes(8)
    assert torch.equal(KV_SHRINK(KV_SHRINK(codes, 8, 4), 4, 2), KV_SHRINK(codes, 8, 2))
    nearest = ((codes.int() + 42) // 85).to(torch.uint8)  # 85 = 17 * 5, odd: no tie either
    assert torch.equal(reference.kv_unpack(KV_SHRINK(codes, 8, 2), 2), nearest)


def pool_of(codes: torch.Tensor, bits: int, spare: int) -> torch.Tensor:
    """Blocks of tiles, each followed by bytes that are nobody's."""
    blocks = [reference.kv_tiles(reference.kv_pack(block, bits)) for block in codes]
    pool = torch.full((len(blocks), blocks[0].numel() + spare), 0xA5, dtype=torch.uint8)
    for row, block in zip(pool, blocks, strict=True):
        row[: block.numel()] = block
    return pool


@pytest.mark.parametrize(("bits", "to"), STEPS)
@pytest.mark.parametrize("d", [16, 64, 80])
def test_blocks_shrink_in_place(bits, to, d, target):
    codes = torch.randint(2**bits, (5, 64, d), dtype=torch.uint8, generator=torch.Generator())
    pool = pool_of(codes, bits, spare=12)
    before, index = pool.clone(), torch.tensor([3, 0, 4], dtype=torch.int32)
    wl.kv_shrink_blocks(pool, index, 64 * d, bits, to, kernel=f"kv_shrink_{target}")
    expected = pool_of(reference.kv_shrunk(codes, bits, to), to, spare=0)
    for n in range(5):
        if n in index:
            assert torch.equal(pool[n, : expected.shape[1]], expected[n])
            assert torch.equal(pool[n, -12:], before[n, -12:])
        else:
            assert torch.equal(pool[n], before[n])


def test_wrong_layouts_do_not_pass():
    """Zeros, half bytes swapped, rows taken for tiles, truncation: the comparison sees each."""
    codes = all_codes(8)[:, :1024]
    right = KV_SHRINK(codes, 8, 4)
    truncated = reference.kv_pack(codes >> 4, 4)
    swapped = right >> 4 | right << 4
    tiles = reference.kv_tiles(codes[:1].repeat(16, 1)).view(16, -1)
    wrong = [torch.zeros_like(right), truncated, swapped, KV_SHRINK(tiles, 8, 4)[:1]]
    for other in wrong:
        assert not torch.equal(other, right[: len(other)])


def blocks(**changes):
    arguments = {
        "pool": torch.zeros(4, 512, dtype=torch.uint8),
        "index": torch.tensor([0, 1], dtype=torch.int32),
        "count": 512,
        "bits": 8,
        "to": 4,
    }
    return wl.kv_shrink_blocks(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 16}, "bits is 16: must be 8, 4 or 2"),
        ({"to": 3}, "to is 3: must be 8, 4 or 2"),
        ({"bits": 4, "to": 4}, "to is 4: must be less than bits, 4"),
        ({"count": 100}, f"count is 100: must be a multiple of {TILE_CODES}"),
        ({"count": 768}, "a block of 512 bytes holds at most 512 codes"),
        ({"pool": torch.zeros(4, 512)}, "pool is torch.float32"),
        ({"pool": torch.zeros(4, dtype=torch.uint8)}, r"must be \[blocks, bytes\]"),
        ({"index": torch.tensor([0, 1])}, "index is torch.int64: must be torch.int32"),
        ({"index": torch.tensor([0, 4], dtype=torch.int32)}, r"index\[1\] is 4: .* 0 to 3"),
        ({"index": torch.tensor([2, -1], dtype=torch.int32)}, r"index\[1\] is -1"),
        ({"index": torch.tensor([2, 2], dtype=torch.int32)}, r"index\[1\] is 2, a second time"),
    ],
)
def test_wrong_blocks_are_refused(changes, message):
    pool = torch.full((4, 512), 200, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        blocks(**({"pool": pool} | changes))
    assert (pool == 200).all(), "a refused call wrote"
