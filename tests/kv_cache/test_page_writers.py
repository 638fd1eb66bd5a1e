"""Ops on pages: append, quantize, shrink, gather, rotate and copy, against the oracle of blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import warploom as wl
from warploom import reference
from warploom.testing.pages import make_pages

PAGES, SIZE, HEADS, D, DV = 4, 32, 2, 64, 48
SHAPES = [
    {"key_group": 64, "value_group": 48},
    {"key_group": 16, "value_group": 16},
    {"key_group": 32, "keys_per_channel": True},
    {"key_group": 16, "keys_per_channel": True, "quantum_bytes": 256},
]
STEPS = [(16, 8), (16, 4), (16, 2), (8, 4), (8, 2), (4, 2)]


def pages_of(widths=16, seed=1, **options):
    """Pages of random numbers, and the numbers: bfloat16, so that width 16 holds them exactly."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.randn(PAGES, SIZE, HEADS, D, generator=generator).bfloat16()
    v = torch.randn(PAGES, SIZE, HEADS, DV, generator=generator).bfloat16() + 1
    if isinstance(widths, int):
        widths = torch.full((PAGES, HEADS, 2), widths)
    return make_pages(k, v, widths, seed=seed, **options), k, v


def mixed(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 << torch.randint(4, (PAGES, HEADS, 2), generator=generator)


def copy_of(pages):
    parts = {n: getattr(pages, n).clone() for n in ("tags", "key_grids", "value_grids")}
    raw = torch.empty(pages.pool.numel() + 64, dtype=torch.uint8)
    pool = raw[-raw.data_ptr() % 64 :][: pages.pool.numel()]
    pool.copy_(pages.pool)
    return replace(pages, pool=pool, **parts)


def bytes_of(pages):
    return [
        t.view(torch.uint8).clone()
        for t in (pages.pool, pages.tags, pages.key_grids, pages.value_grids)
    ]


def unchanged(pages, before):
    return all(torch.equal(a, b) for a, b in zip(bytes_of(pages), before, strict=True))


def blocks(*places):
    return torch.tensor([(p * HEADS + h) * 2 + side for p, h, side in places], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_append_writes_rows_and_nothing_else(dtype, target):
    pages, k_old, v_old = pages_of()
    k = torch.randn(5, D, HEADS).transpose(1, 2).contiguous()[..., :D].to(dtype)
    k[0, 0, 0], k[0, 0, 1] = 2.0**-133 if dtype is not torch.float16 else 2.0**-24, -0.0
    v = torch.randn(5, HEADS, DV, dtype=torch.float32).to(dtype)
    slots = torch.tensor([40, -1, 3, 127, 64])
    suffix = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    wl.kv_append(pages, k, v, slots, kernel=f"kv_append_{suffix}_{target}")
    for found, x, old in zip(reference.kv_page_values(pages), (k, v), (k_old, v_old), strict=True):
        wanted = old.double().flatten(0, 1).clone()
        for row, slot in enumerate(slots.tolist()):
            if slot >= 0:
                wanted[slot] = x[row].bfloat16().double()
        assert torch.equal(found.flatten(0, 1), wanted)
        assert torch.equal(found.flatten(0, 1).signbit(), wanted.signbit())


def test_append_takes_sequences_and_strides():
    """[b, s, hk, d] from [b, hk, s, d], as models have it."""
    pages, *_ = pages_of()
    k, v = torch.randn(2, HEADS, 3, D), torch.randn(2, HEADS, 3, DV)
    slots = torch.tensor([[0, 1, 2], [64, 65, 66]])
    wl.kv_append(pages, k.transpose(1, 2), v.transpose(1, 2), slots)
    found, _ = wl.kv_gather(pages, slots.flatten())
    assert torch.equal(found, k.transpose(1, 2).flatten(0, 1).bfloat16())


@pytest.mark.parametrize("name", ["k", "v"])
@pytest.mark.parametrize(
    "value", [torch.inf, -torch.inf, torch.nan, 2.0**127, -(2.0**127) * 0.9999]
)
def test_append_refuses_numbers_without_a_grid(name, value):
    pages, *_ = pages_of()
    before = bytes_of(pages)
    rows = {"k": torch.randn(700, HEADS, D), "v": torch.randn(700, HEADS, DV)}
    rows[name][633, 1, 17] = value
    rows[name][690, 1, 17] = value
    slots = torch.full((700,), -1)
    slots[:100] = torch.arange(100)
    with pytest.raises(ValueError, match=rf"{name}\[0, 633, 1, 17\] is .*nothing is written"):
        wl.kv_append(pages, **rows, slots=slots)
    assert unchanged(pages, before)


def test_what_append_takes_can_be_quantized():
    """The largest magnitudes of both signs in one group."""
    pages, *_ = pages_of()
    largest = torch.tensor(2.0**127).bfloat16().nextafter(torch.tensor(0.0).bfloat16())
    rows = torch.stack([largest, -largest]).repeat(SIZE * HEADS * D // 2).view(SIZE, HEADS, D)
    wl.kv_append(pages, rows, rows[..., :DV], torch.arange(SIZE))
    wl.kv_quantize_pages(pages, blocks((0, 0, 0), (0, 1, 1)), 8)
    assert torch.equal(reference.kv_page_values(pages)[0][0, :, 0], rows[:, 0].double())


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantize_gives_the_codes_of_kv_quantize(options, bits, target):
    """Codes, grids and tags to the bit, whatever the place of the block; the rest stays."""
    pages, k, v = pages_of(**options)
    which = [(2, 1, 0), (0, 0, 1), (3, 1, 1), (1, 0, 0)]
    before = copy_of(pages)
    wl.kv_quantize_pages(pages, blocks(*which), bits, kernel=f"kv_quantize_pages_{target}")
    for page, head, side in torch.cartesian_prod(*map(torch.arange, (PAGES, HEADS, 2))).tolist():
        place = (page, head, side)
        assert pages.tags[place] >> 2 == before.tags[place] >> 2, "a block moved"
        found = reference.kv_block(pages, page, head, bool(side))
        if place not in which:
            assert torch.equal(found, reference.kv_block(before, page, head, bool(side)))
            continue
        assert 2 << (int(pages.tags[place]) & 3) == bits
        x = (v if side else k)[page, :, head]
        across = pages.keys_per_channel and not side
        t = wl.kv_quantize(
            x.T.contiguous() if across else x, bits, pages.value_group if side else pages.key_group
        )
        grids = (pages.value_grids if side else pages.key_grids)[page, head]
        assert torch.equal(grids[:, 0].T, t.min)
        assert torch.equal(grids[:, 1].T, t.range)
        wanted = reference.kv_values(reference.kv_unpack(t.codes, bits), t.min, t.range, bits)
        assert torch.equal(found, wanted.T if across else wanted)


def test_quantized_rows_are_those_of_kv_quantize():
    pages, k, _ = pages_of(key_group=16)
    wl.kv_quantize_pages(pages, blocks((1, 1, 0)), 4)
    t = wl.kv_quantize(k[1, :, 1], 4, 16)
    start = int(pages.tags[1, 1, 0] >> 2) * pages.quantum_bytes
    tiles = reference.kv_tiles(t.codes)
    assert torch.equal(pages.pool[start : start + tiles.numel()], tiles)
    assert torch.equal(pages.key_grids[1, 1, :, 0].T, t.min)
    assert torch.equal(pages.key_grids[1, 1, :, 1].T, t.range)


@pytest.mark.parametrize(("bits", "to"), [s for s in STEPS if s[0] < 16])
def test_shrink_rewrites_codes_alone(bits, to, target):
    pages, *_ = pages_of(bits)
    which = [(3, 1, 1), (0, 0, 0), (2, 0, 1)]
    before = copy_of(pages)
    wl.kv_shrink_pages(pages, blocks(*which), to, kernel=f"kv_shrink_pages_{target}")
    for name in ("key_grids", "value_grids"):
        assert torch.equal(
            getattr(pages, name).view(torch.int16), getattr(before, name).view(torch.int16)
        )
    for place in which:
        page, head, side = place
        assert pages.tags[place] >> 2 == before.tags[place] >> 2
        assert 2 << (int(pages.tags[place]) & 3) == to
        start = int(before.tags[place] >> 2) * pages.quantum_bytes
        dim = DV if side else D
        rows = dim if side else SIZE

        def codes(p, width, start=start, rows=rows, count=SIZE * dim):
            raw = p.pool[start : start + count * width // 8]
            tiles = raw.view(rows // 16, -1, 16, 4).transpose(1, 2).reshape(rows, -1)
            return reference.kv_unpack(tiles, width)

        assert torch.equal(codes(pages, to), reference.kv_shrunk(codes(before, bits), bits, to))
    for place in torch.cartesian_prod(*map(torch.arange, (PAGES, HEADS, 2))).tolist():
        if tuple(place) not in which:
            page, head, side = place
            found = reference.kv_block(pages, page, head, bool(side))
            assert torch.equal(found, reference.kv_block(before, page, head, bool(side)))


def test_each_block_has_bits_of_its_own():
    widths = torch.full((PAGES, HEADS, 2), 8)
    widths[1] = 4
    pages, *_ = pages_of(widths)
    wl.kv_shrink_pages(
        pages,
        blocks((0, 0, 0), (1, 0, 0), (2, 1, 1)),
        torch.tensor([4, 2, 2], dtype=torch.int32),
    )
    found = 2 << (pages.tags & 3)
    assert (found[0, 0, 0], found[1, 0, 0], found[2, 1, 1]) == (4, 2, 2)
    assert (found[0, 0, 1], found[1, 1, 1]) == (8, 4)


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gather_reads_any_width(options, dtype, target):
    pages, *_ = pages_of(mixed(), **options)
    slots = torch.randperm(PAGES * SIZE)[:75]
    suffix = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    found = wl.kv_gather(pages, slots, dtype, kernel=f"kv_gather_{suffix}_{target}")
    for x, exact in zip(found, reference.kv_page_values(pages), strict=True):
        exact = exact.flatten(0, 1)[slots]
        # Of float32's three roundings, and the one to dtype.
        largest = exact.abs().amax() * 2
        ulp = {torch.float32: 2.0**-22, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
        assert ((x.double() - exact).abs() <= exact.abs() * ulp + largest * 2.0**-22).all()


def turned(k, angles, interleaved):
    """RoPE by angles [..., half], in float64."""
    half = angles.shape[-1]
    x = k.double().clone()
    a, b = (
        (x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2])
        if interleaved
        else (
            x[..., :half],
            x[..., half : 2 * half],
        )
    )
    cos, sin = angles.cos(), angles.sin()
    first, second = a * cos - b * sin, b * cos + a * sin
    a.copy_(first)
    b.copy_(second)
    return x


@pytest.mark.parametrize("options", SHAPES[:3])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("half", [D // 2, 12])
@pytest.mark.parametrize("shape", [(), (2,), (2, SIZE)])
def test_rotate_moves_keys(options, interleaved, half, shape, target):
    pages, *_ = pages_of(mixed(3), **options)
    before = copy_of(pages)
    index = torch.tensor([3, 1], dtype=torch.int32)
    delta = torch.randint(-300, 300, shape).double()
    inv_freq = 10000.0 ** -(torch.arange(half) / half)
    wl.kv_rotate(pages, index, delta, inv_freq, interleaved, kernel=f"kv_rotate_{target}")
    pages.validate()
    old, found = (reference.kv_page_values(p)[0] for p in (before, pages))
    assert torch.equal(pages.tags, before.tags)
    for n, page in enumerate(index.tolist()):
        each = delta[n] if delta.dim() else delta
        angles = (each.expand(SIZE)[:, None] * inv_freq.double()).unsqueeze(1)
        wanted = turned(old[page], angles, interleaved)
        for head in range(HEADS):
            error = (found[page, :, head] - wanted[:, head]).abs()
            length = wanted[:, head].abs().amax() * 1.5
            width = 2 << (int(pages.tags[page, head, 0]) & 3)
            if width == 16:
                assert (error <= length * 2.0**-8).all()
                continue
            grids = pages.key_grids[page, head, :, 1].double() / (2**width - 1)
            step = grids.repeat_interleave(pages.key_group, 0)
            step = step if pages.keys_per_channel else step.T
            assert (error <= step * (0.5 + 2.0**-13) + length * 2.0**-21).all()
        moved = (found[page] - old[page]).abs().amax()
        assert moved > 0.5, "nothing turned"
    for page in (0, 2):
        assert torch.equal(found[page], old[page])
    assert torch.equal(reference.kv_page_values(pages)[1], reference.kv_page_values(before)[1]), (
        "values turned"
    )


def test_rotating_back_and_forth_stays_near():
    pages, k, _ = pages_of()
    inv_freq = 10000.0 ** -(torch.arange(32) / 32)
    index = torch.arange(PAGES, dtype=torch.int32)
    for delta in (100, -60, -40):
        wl.kv_rotate(pages, index, delta, inv_freq)
    error = (reference.kv_page_values(pages)[0] - k.double()).abs().amax()
    assert error <= 3 * 2.0**-8 * 1.5 * k.abs().amax()


def test_positions_that_nothing_was_written_to_do_not_stop_a_turn():
    pages, *_ = pages_of()
    start = int(pages.tags[0, 0, 0] >> 2) * pages.quantum_bytes
    block = pages.pool[start : start + SIZE * D * 2].view(torch.bfloat16).view(SIZE, D)
    block[5:] = torch.nan
    wl.kv_rotate(pages, torch.tensor([0], dtype=torch.int32), 3, torch.ones(4))
    assert block[:5].isfinite().all()


def test_threads_do_not_change_a_bit():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pages, *_ = pages_of()
        every = torch.arange(PAGES * HEADS * 2, dtype=torch.int32)
        wl.kv_quantize_pages(pages, every, 8)
        wl.kv_rotate(pages, torch.arange(PAGES, dtype=torch.int32), 7, torch.ones(32))
        wl.kv_shrink_pages(pages, every, 4)
        results.append(reference.kv_page_values(pages))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("quantum_bytes", [64, 512])
def test_pages_copy_to_the_bit(quantum_bytes):
    """To another pool, with another quantum, and of any mixture of widths."""
    widths = mixed(5)
    source, *_ = pages_of(widths)
    target, *_ = pages_of(widths[[1, 3, 0, 2]], seed=9, quantum_bytes=quantum_bytes)
    other = copy_of(target)
    here, there = torch.tensor([3, 1], dtype=torch.int32), torch.tensor([1, 0], dtype=torch.int32)
    wl.kv_copy_pages(source, here, target, there)
    target.validate()
    pairs = zip(*map(reference.kv_page_values, (source, target, other)), strict=True)
    for a, b, old in pairs:
        assert torch.equal(b[there.long()], a[here.long()])
        assert torch.equal(b[2:], old[2:])


def test_wrong_pages_do_not_pass():
    """What the comparisons above must see: zeros, K and V scales exchanged, another page."""
    pages, *_ = pages_of(8)
    right = reference.kv_page_values(pages)
    for change in (
        {"key_grids": torch.zeros_like(pages.key_grids)},
        {"tags": pages.tags.roll(1, 0)},
        {"tags": pages.tags.roll(1, 1)},
        {"key_grids": pages.key_grids.flip(3)},
        {"pool": (pages.pool >> 4) | (pages.pool << 4)},
    ):
        wrong = copy_of(pages)
        for name, value in change.items():
            getattr(wrong, name).copy_(value)
        assert not torch.equal(reference.kv_page_values(wrong)[0], right[0])


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


ROWS = {"k": torch.zeros(2, HEADS, D), "v": torch.zeros(2, HEADS, DV), "slots": torch.arange(2)}


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (
            "kv_append",
            {**ROWS, "slots": torch.tensor([0, 128])},
            r"slots\[1\] is 128: .* -1 to 127",
        ),
        ("kv_append", {**ROWS, "slots": torch.tensor([-2, 1])}, r"slots\[0\] is -2"),
        ("kv_append", {**ROWS, "slots": i32(0, 1)}, "slots is torch.int32: must be torch.int64"),
        ("kv_append", {**ROWS, "slots": torch.arange(3)}, r"slots has shape \(3,\)"),
        (
            "kv_append",
            {**ROWS, "slots": torch.tensor([0, 40])},
            "keys of page 1, head 0 have 8 bits",
        ),
        ("kv_append", {**ROWS, "k": torch.zeros(2, 3, D)}, r"k has shape \(2, 3, 64\)"),
        ("kv_append", {**ROWS, "v": torch.zeros(2, HEADS, D)}, r"v has shape \(2, 2, 64\)"),
        ("kv_append", {**ROWS, "k": torch.zeros(2, HEADS, D).double()}, "k is torch.float64"),
        ("kv_append", {**ROWS, "v": ROWS["v"].half()}, "v is torch.float16: must be torch.float32"),
        ("kv_append", {**ROWS, "k": torch.zeros(HEADS, D)}, "must have 3 axes"),
        ("kv_quantize_pages", {"blocks": i32(0, 16), "bits": 8}, r"blocks\[1\] is 16: .* 0 to 15"),
        ("kv_quantize_pages", {"blocks": i32(0, 4), "bits": 4}, r"of 8 bits: must have 16"),
        ("kv_quantize_pages", {"blocks": i32(0, 0), "bits": 4}, "blocks holds 0 twice"),
        ("kv_quantize_pages", {"blocks": i32(0), "bits": 16}, r"bits\[0\] is 16"),
        ("kv_quantize_pages", {"blocks": torch.arange(2), "bits": 8}, "blocks is torch.int64"),
        ("kv_quantize_pages", {"blocks": i32(8), "bits": 8}, "page 2 has no block of keys"),
        ("kv_shrink_pages", {"blocks": i32(0), "bits": 4}, "of 16 bits: must have 8 or 4"),
        (
            "kv_shrink_pages",
            {"blocks": i32(4), "bits": 8},
            r"bits\[0\] is 8: .* than the block's 8",
        ),
        ("kv_gather", {"slots": torch.tensor([5, -1])}, r"slots\[1\] is -1: must be from 0"),
        ("kv_gather", {"slots": torch.tensor([70])}, "page 2 has no block"),
        ("kv_gather", {"slots": torch.tensor([0]), "dtype": torch.int8}, "dtype is torch.int8"),
        ("kv_rotate", {"index": i32(0, 0)}, "index holds 0 twice"),
        ("kv_rotate", {"index": i32(4)}, r"index\[0\] is 4: must be from 0 to 3"),
        ("kv_rotate", {"index": i32(0), "inv_freq": torch.ones(33)}, "half from 1 to 32"),
        ("kv_rotate", {"index": i32(0), "delta": torch.zeros(3)}, r"delta has shape \(3,\)"),
        ("kv_rotate", {"index": i32(0), "delta": torch.nan}, "delta holds an infinity or a NaN"),
    ],
)
def test_what_is_wrong_is_named(op, arguments, message):
    widths = torch.full((PAGES, HEADS, 2), 16)
    widths[1], widths[2] = 8, 0
    pages, *_ = pages_of(widths)
    before = bytes_of(pages)
    if op == "kv_rotate":
        arguments = {"delta": 1.0, "inv_freq": torch.ones(4), **arguments}
    with pytest.raises(ValueError, match=message):
        getattr(wl, op)(pages, **arguments)
    assert unchanged(pages, before), "a refused call wrote"


def test_a_block_without_a_grid_is_named_and_stays():
    pages, *_ = pages_of()
    start = int(pages.tags[1, 1, 1] >> 2) * pages.quantum_bytes
    block = pages.pool[start : start + SIZE * DV * 2].view(torch.bfloat16).view(SIZE, DV)
    block[9, 30] = -torch.inf
    with pytest.raises(ValueError, match="values of page 1, head 1, position 9, channel 30: -inf"):
        wl.kv_quantize_pages(pages, blocks((0, 0, 0), (1, 1, 1)), 8)
    assert int(pages.tags[1, 1, 1]) & 3 == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_index": i32(4)}, r"source_index\[0\] is 4: must be from 0 to 3"),
        ({"target_index": i32(1), "source_index": i32(0)}, "keys of page 0, head 0 are 16 bit"),
        ({"source_index": i32(0, 3), "target_index": i32(0, 0)}, "names a page twice"),
        ({"source_index": i32(2)}, "not there"),
    ],
)
def test_wrong_copies_are_refused(change, message):
    widths = torch.full((PAGES, HEADS, 2), 16)
    widths[1], widths[2] = 8, 0
    source, *_ = pages_of(widths)
    target, *_ = pages_of(widths, seed=2)
    before = bytes_of(target)
    arguments = {"source_index": i32(0), "target_index": i32(0)} | change
    with pytest.raises(ValueError, match=message):
        wl.kv_copy_pages(source, arguments["source_index"], target, arguments["target_index"])
    assert unchanged(target, before)
    other, *_ = pages_of(widths, key_group=16)
    with pytest.raises(ValueError, match="target has key_group 16: must have 64 like source"):
        wl.kv_copy_pages(source, i32(0), other, i32(0))
