"""wl.PagedKVCache: what its calls promise, one by one."""

from __future__ import annotations

import pytest
import torch

import warploom as wl

HEADS, D, SIZE = 2, 32, 16
PAGE_BLOCKS = SIZE * D * 2 * 2 * HEADS  # of one page, 16 bits
PAGE_METADATA = HEADS * (8 + 2 * 4 * SIZE)


def cache_of(pages=40, layers=1, **options):
    """Room for about that many pages of 16 bits."""
    arguments = {"layers": layers, "kv_heads": HEADS, "head_dim": D, "page_size": SIZE}
    budget = pages * (PAGE_BLOCKS + PAGE_METADATA) + 20 * PAGE_METADATA
    return wl.PagedKVCache(**(arguments | {"max_bytes": budget} | options))


def rows(*leading, d=D, seed=None):
    generator = torch.Generator().manual_seed(seed) if seed is not None else None
    return tuple(torch.randn(*leading, HEADS, d, generator=generator).bfloat16() for _ in range(2))


def filled(cache, s, seed=0, layer=0):
    seq = cache.add_sequence()
    k, v = rows(s, seed=seed)
    cache.append(layer, seq, k, v)
    return seq, k, v


def test_a_cache_of_many_layers():
    cache = wl.PagedKVCache(
        layers=30, kv_heads=3, head_dim=64, page_size=64, bits=16, max_bytes=256 << 20, device="cpu"
    )
    seq = cache.add_sequence()
    k, v = torch.randn(200, 3, 64), torch.randn(200, 3, 64)
    for layer in range(30):
        cache.append(layer, seq, k, v)
    fork = cache.fork(seq)
    o, lse = cache.attend(7, torch.randn(2, 1, 9, 64), [seq, fork], return_lse=True)
    assert (o.shape, lse.shape) == ((2, 1, 9, 64), (2, 9, 1))
    before = cache.nbytes()
    freed = sum(cache.shrink(layer, seq, bits=4) for layer in range(30))
    # Three full pages of four, keys and values, from 16 bits to 4.
    assert freed == 30 * 3 * 3 * 2 * (64 * 64 * 2 - 64 * 64 // 2)
    assert cache.nbytes() == before - freed
    cache.validate()


def test_bytes_are_counted():
    cache = cache_of(layers=2)
    assert cache.nbytes() == 0
    seq, *_ = filled(cache, 3 * SIZE + 1)
    assert cache.nbytes() == cache.nbytes(0) == 4 * (PAGE_BLOCKS + PAGE_METADATA)
    assert cache.nbytes(1) == 0
    assert cache.shrink(0, seq, (8, 2)) == 3 * PAGE_BLOCKS // 2 * (1 + 7 / 4) / 2
    stats = cache.stats()
    assert stats["block_bytes"] + stats["metadata_bytes"] == cache.nbytes()
    assert stats["pages"] == 4
    assert stats["free_bytes"] + stats["block_bytes"] + stats["reserved_bytes"] <= cache.max_bytes
    cache.free(seq)
    assert cache.nbytes() == 0


def test_attention_is_that_of_its_pages():
    """Unequal lengths, widths of every kind, several queries."""
    cache = cache_of()
    a, ka, va = filled(cache, 75, seed=1)
    b, *_ = filled(cache, 20, seed=2)
    cache.shrink(0, a, 8, pages=[0, 1])
    cache.shrink(0, a, (4, 2), pages=[1], heads=[1])
    q = torch.randn(2, 3, 4, D)
    o, lse = cache.attend(0, q, [a, b], return_lse=True)
    table, lengths = cache.tables(0, [a, b])
    wanted = wl.attention_pages(q, cache.pages, table, lengths, return_lse=True)
    assert torch.equal(o, wanted[0])
    assert torch.equal(lse, wanted[1])
    assert torch.equal(cache.attend(0, q[1:], [b]), o[1:])
    k, v = cache.read(0, a, dtype=torch.float32)
    assert not torch.equal(k, ka.float())
    dense = wl.attention(q[:1].double().float(), k[None], v[None], wl.mask.causal())
    wl_error = (dense - o[:1]).norm() / dense.norm()
    exact = wl.attention(q[:1], ka.float()[None], va.float()[None], wl.mask.causal())
    assert wl_error < 1e-3 < (exact - o[:1]).norm() / exact.norm(), "the pages, not the originals"


def test_prefill_in_chunks_is_prefill():
    cache, whole = cache_of(bits=8, window=20, sink=4), cache_of(bits=8, window=20, sink=4)
    k, v = rows(90, seed=4)
    seq, other = cache.add_sequence(), whole.add_sequence()
    for start in range(0, 90, 7):
        cache.append(0, seq, k[start : start + 7], v[start : start + 7])
    whole.append(0, other, k, v)
    assert torch.equal(cache.widths(0, seq), whole.widths(0, other))
    for x, y in zip(cache.read(0, seq), whole.read(0, other), strict=True):
        assert torch.equal(x, y)


def test_pages_are_quantized_outside_sink_and_window():
    cache = cache_of(bits=(8, 4), sink=SIZE + 1, window=SIZE + 3)
    seq = cache.add_sequence()
    k, v = rows(200)
    for n in range(200):
        cache.append(0, seq, k[n : n + 1], v[n : n + 1])
        widths = cache.widths(0, seq)[:, 0]
        for page, pair in enumerate(widths.tolist()):
            kept = page < 2 or (page + 1) * SIZE > n + 1 - SIZE - 3
            assert pair == ([16, 16] if kept else [8, 4])
    stored, _ = cache.read(0, seq)
    assert torch.equal(stored[: 2 * SIZE], k[: 2 * SIZE])
    assert torch.equal(stored[-SIZE - 3 :], k[-SIZE - 3 :])


def test_set_bits_is_for_pages_to_come():
    cache = cache_of()
    seq, *_ = filled(cache, 2 * SIZE)
    cache.set_bits(0, (4, 8))
    assert cache.bits(0) == (4, 8)
    cache.append(0, seq, *rows(2 * SIZE))
    assert cache.widths(0, seq)[:, 1].tolist() == [[16, 16]] * 2 + [[4, 8]] * 2


def test_forks_share_until_one_writes():
    cache = cache_of()
    seq, k, v = filled(cache, SIZE + 5)
    nbytes = cache.nbytes()
    fork, third = cache.fork(seq), cache.fork(seq)
    assert cache.nbytes() == nbytes
    more = {n: rows(3, seed=n) for n in (fork, third, seq)}
    for n, (k1, v1) in more.items():
        cache.append(0, n, k1, v1)
    # Each wrote into the open page; the last one had it alone by then.
    assert cache.stats()["pages"] == 1 + 3
    for n, (k1, v1) in more.items():
        found = cache.read(0, n)
        assert torch.equal(found[0], torch.cat([k, k1]))
        assert torch.equal(found[1], torch.cat([v, v1]))
    cache.free(seq)
    assert torch.equal(cache.read(0, fork)[0][: SIZE + 5], k)
    cache.validate()


def test_an_append_to_forks_at_once_copies_once_less():
    cache = cache_of()
    seq, k, _ = filled(cache, 5)
    fork = cache.fork(seq)
    k1, v1 = rows(2, 1)
    cache.append(0, [seq, fork], k1, v1)
    assert cache.stats()["pages"] == 2
    assert torch.equal(cache.read(0, seq)[0], torch.cat([k, k1[0]]))
    assert torch.equal(cache.read(0, fork)[0], torch.cat([k, k1[1]]))


def test_a_shared_page_keeps_16_bits_while_one_wants_it():
    cache = cache_of(bits=4, window=SIZE)
    seq, *_ = filled(cache, 2 * SIZE)
    fork = cache.fork(seq)
    cache.append(0, seq, *rows(3 * SIZE))
    assert cache.widths(0, fork)[:, 0, 0].tolist() == [4, 16], "its window"
    assert cache.shrink(0, seq, 2, pages=[1]) == 0
    cache.free(fork)
    assert cache.widths(0, seq)[:, 0, 0].tolist() == [4, 4, 4, 4, 16], "nobody's window now"


def test_shrinking_what_others_share():
    cache = cache_of()
    seq, *_ = filled(cache, 3 * SIZE)
    fork = cache.fork(seq)
    cache.append(0, seq, *rows(SIZE))
    assert cache.shrink(0, seq, 8, shared=False) > 0
    assert cache.widths(0, seq)[:, 0, 0].tolist() == [16, 16, 16, 8]
    assert cache.shrink(0, seq, 8) > 0
    assert cache.widths(0, fork)[:, 0, 0].tolist() == [8, 8, 8]


def test_beams_are_reordered():
    cache = cache_of(layers=2)
    beams = [filled(cache, 20, seed=n)[0] for n in range(3)]
    for n, seq in enumerate(beams):
        cache.append(1, seq, *rows(9, seed=n))
    old = [[cache.read(layer, seq) for layer in range(2)] for seq in beams]
    cache.reorder(beams, torch.tensor([2, 0, 2]))
    for seq, source in zip(beams, (2, 0, 2), strict=True):
        for layer in range(2):
            for x, y in zip(cache.read(layer, seq), old[source][layer], strict=True):
                assert torch.equal(x, y)
    cache.validate()
    assert cache.stats()["pages"] == 2 * 2 + 2


def test_freed_bytes_serve_new_pages_wherever_they_lie():
    """All of a full cache shrunk: every slab keeps a block, and half of all bytes are free."""
    cache = cache_of(pages=12)
    seqs = []
    while cache.stats()["free_bytes"] >= PAGE_BLOCKS:
        seqs.append(filled(cache, SIZE, seed=len(seqs))[0])
    with pytest.raises(MemoryError):
        filled(cache, SIZE)
    free = cache.stats()["free_bytes"]
    freed = sum(cache.shrink(0, seq, 8) for seq in seqs)
    assert freed == len(seqs) * PAGE_BLOCKS // 2
    old = {seq: cache.read(0, seq) for seq in seqs}
    fresh = [filled(cache, SIZE, seed=100 + n) for n in range((free + freed) // PAGE_BLOCKS - 1)]
    assert cache.stats()["moved_bytes"] > 0
    cache.validate()
    for seq, (k, v) in old.items():
        assert torch.equal(cache.read(0, seq)[0], k)
        assert torch.equal(cache.read(0, seq)[1], v)
    for seq, k, v in fresh:
        assert torch.equal(cache.read(0, seq)[0], k)
        assert torch.equal(cache.read(0, seq)[1], v)


def test_exhaustion_changes_nothing_and_says_what_is_missing():
    cache = cache_of(pages=6, layers=2)
    seq, k, _ = filled(cache, 3 * SIZE + 4)
    fork = cache.fork(seq)
    stats = cache.stats()
    more = rows(2, 4 * SIZE)
    with pytest.raises(MemoryError, match=r"pages exhausted: the append lacks \d+ bytes") as told:
        cache.append(0, [seq, fork], *more)
    assert f"lacks {cache.shortfall()} bytes, and nothing of it is applied" in str(told.value)
    assert cache.stats() == stats
    assert cache.length(0, seq) == cache.length(0, fork) == 3 * SIZE + 4
    assert torch.equal(cache.read(0, seq)[0], k)
    cache.validate()
    cache.append(0, seq, *rows(SIZE))


def test_an_append_beyond_the_free_bytes_goes_in_pieces():
    """40 pages of 2 bits into room for 8 of 16."""
    cache, roomy = (cache_of(pages=n, bits=2, window=3) for n in (8, 60))
    k, v = rows(30 * SIZE, seed=5)
    for each in (cache, roomy):
        seq = each.add_sequence()
        each.append(0, seq, k, v)
    assert torch.equal(cache.widths(0, seq), roomy.widths(0, seq))
    for x, y in zip(cache.read(0, seq), roomy.read(0, seq), strict=True):
        assert torch.equal(x, y)
    cache.free(seq)
    v[-1, 1, 3] = torch.nan
    other = cache.add_sequence()
    with pytest.raises(ValueError, match=r"v\[0, 479, 1, 3\] is nan"):
        cache.append(0, other, k[: 30 * SIZE], v)
    cache.validate()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(value):
    cache = cache_of(bits=8)
    seq, *_ = filled(cache, SIZE - 1)
    fork = cache.fork(seq)
    k, v = rows(3)
    v[1, 0, 7] = value
    stats = cache.stats()
    with pytest.raises(ValueError, match=rf"v\[0, 1, 0, 7\] is {value}: must be finite"):
        cache.append(0, fork, k, v)
    assert cache.stats() == stats
    assert cache.length(0, fork) == SIZE - 1
    cache.validate()


def test_constant_groups_come_back_exactly():
    cache = cache_of(bits=2)
    seq = cache.add_sequence()
    k = torch.full((SIZE, HEADS, D), -1.5)
    cache.append(0, seq, k, torch.zeros(SIZE, HEADS, D))
    assert cache.widths(0, seq).eq(2).all()
    found = cache.read(0, seq)
    assert torch.equal(found[0], k.bfloat16())
    assert found[1].eq(0).all()


@pytest.mark.parametrize("keys_per_channel", [False, True])
def test_dims_and_groups_of_other_models(keys_per_channel):
    """Values narrower than keys, groups smaller than a head."""
    cache = wl.PagedKVCache(
        1, HEADS, 96, 32, bits=(8, 4), max_bytes=1 << 20, value_head_dim=64, group=32,
        keys_per_channel=keys_per_channel,
    )  # fmt: skip
    seq = cache.add_sequence()
    k, v = torch.randn(70, HEADS, 96), torch.randn(70, HEADS, 64)
    cache.append(0, seq, k, v)
    cache.validate()
    found = cache.read(0, seq, dtype=torch.float32)
    assert 0 < (found[0] - k).abs().amax() < 0.05
    assert 0 < (found[1] - v).abs().amax() < 0.4
    assert cache.attend(0, torch.randn(1, 2, 4, 96), [seq]).shape == (1, 2, 4, 64)


def test_whole_pages_are_evicted_to_the_bit():
    cache = cache_of(bits=4)
    seq, *_ = filled(cache, 6 * SIZE + 3)
    fork = cache.fork(seq)
    before = cache.read(0, seq)
    stay = torch.cat([torch.arange(SIZE), torch.arange(3 * SIZE, 6 * SIZE + 3)])
    pages = cache.stats()["pages"]
    cache.keep(0, seq, stay)
    for x, y in zip(cache.read(0, seq), before, strict=True):
        assert torch.equal(x, y[stay])
    assert cache.stats()["pages"] == pages, "the fork still has them all"
    for x, y in zip(cache.read(0, fork), before, strict=True):
        assert torch.equal(x, y)
    cache.append(0, seq, *rows(SIZE))
    assert torch.equal(cache.read(0, fork)[0], before[0])
    cache.validate()


def test_single_positions_are_evicted():
    cache = cache_of(bits=8)
    seq, k, _ = filled(cache, 4 * SIZE)
    stored, _ = cache.read(0, seq, dtype=torch.float32)
    stay = torch.tensor([n for n in range(4 * SIZE) if n not in (SIZE + 3, 2 * SIZE)])
    cache.keep(0, seq, stay)
    assert cache.widths(0, seq)[:, 0, 0].tolist() == [8, 8, 8, 16]
    found, _ = cache.read(0, seq, dtype=torch.float32)
    assert torch.equal(found[:SIZE], stored[:SIZE])
    step = (k.amax(-1) - k.amin(-1)).float().amax() / 255 * 1.03
    further = step / 2 + 2.0**-9 * stored.abs().amax()
    error = (found - stored[stay]).abs().amax()
    assert 0 < error <= further


def test_crop_forgets_the_end_in_all_layers():
    cache = cache_of(layers=2, bits=4)
    seq, *_ = filled(cache, 70)
    cache.append(1, seq, *rows(30))
    before = [cache.read(layer, seq) for layer in range(2)]
    cache.crop(seq, 40)
    assert (cache.length(0, seq), cache.length(1, seq)) == (40, 30)
    assert torch.equal(cache.read(0, seq)[0], before[0][0][:40])
    assert torch.equal(cache.read(1, seq)[0], before[1][0])
    cache.crop(seq, 0)
    assert cache.nbytes() == 0
    cache.append(0, seq, *rows(SIZE + 2))
    cache.validate()


def test_keys_move_to_other_positions():
    """Keys rotated in the cache attend as keys that were rotated before they came."""
    cache = cache_of()
    inv_freq = 10000.0 ** -(torch.arange(D // 2) / (D // 2))

    def rope(x, positions):
        angles = (positions[:, None] * inv_freq).unsqueeze(1)
        a, b = x.float().split(D // 2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    raw, v = rows(40)
    positions = torch.arange(40)
    seq = cache.add_sequence()
    cache.append(0, seq, rope(raw, positions), v.float())
    fork = cache.fork(seq)
    old = cache.read(0, seq)[0]
    stay = torch.cat([torch.arange(4), torch.arange(20, 40)])
    cache.keep(0, fork, stay)
    cache.rotate(0, fork, torch.arange(24) - stay, inv_freq)
    wanted = rope(raw[stay], torch.arange(24))
    error = (cache.read(0, fork, dtype=torch.float32)[0] - wanted).abs().amax()
    assert error <= 3 * 2.0**-8 * raw.abs().amax() * 1.5
    assert torch.equal(cache.read(0, seq)[0], old), "the fork's sibling turned"
    cache.validate()


def test_a_sequence_moves_to_another_cache_and_back():
    cache, host = cache_of(bits=8, layers=2), cache_of(layers=2)
    seq, *_ = filled(cache, 75)
    cache.append(1, seq, *rows(20))
    cache.shrink(0, seq, (2, 4), pages=[1])
    before = [cache.read(layer, seq) for layer in range(2)]
    away = cache.copy_to(seq, host)
    cache.free(seq)
    assert cache.nbytes() == 0
    back = host.copy_to(away, cache)
    for layer in range(2):
        for x, y in zip(cache.read(layer, back), before[layer], strict=True):
            assert torch.equal(x, y)
    assert cache.widths(0, back)[1].tolist() == [[2, 4]] * HEADS
    small = cache_of(pages=2, layers=2)
    with pytest.raises(MemoryError, match="the copy lacks"):
        cache.copy_to(back, small)
    assert small.nbytes() == 0
    assert small.stats()["sequences"] == 0
    with pytest.raises(ValueError, match="other has page_size 32: must have 16"):
        cache.copy_to(back, cache_of(layers=2, page_size=32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers is 0: must be from 1"),
        ({"kv_heads": 0}, "hk is 0"),
        ({"head_dim": 40}, "head_dim is 40: must be a positive multiple of 16"),
        ({"head_dim": 48, "group": 32}, "key_group is 32: must divide d, 48"),
        ({"value_head_dim": 72}, "value_head_dim is 72"),
        ({"value_head_dim": 48, "group": 32}, "value_group is 32: must divide dv, 48"),
        ({"group": 8}, "key_group is 8: must be a positive multiple of 16"),
        ({"page_size": 24}, "page is 24"),
        ({"page_size": 32, "group": 64, "keys_per_channel": True}, "must divide page, 32"),
        ({"bits": 3}, "bits is 3: must be 16, 8, 4 or 2"),
        ({"bits": (8, 16, 2)}, r"bits is \(8, 16, 2\)"),
        ({"max_bytes": 1000}, r"max_bytes is 1000: must be at least \d+, what sink, window"),
        ({"max_bytes": 2**37}, "max_bytes is 137438953472: must be at most 68719476736"),
        ({"sink": -1}, "sink is -1"),
        ({"window": 10**6}, r"max_bytes is \d+: must be at least"),
    ],
)
def test_wrong_caches_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cache_of(**change)


@pytest.mark.parametrize("piece", [1, 16, 1000])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 2, 32, 32, 16, 20, 40),
        (30, 3, 64, 64, 64, 1, 128),
        (2, 1, 128, 128, 64, 0, 0),
        (5, 2, 48, 32, 16, 0, 17),
        (1, 1, 16, 16, 16, 0, 0),
    ],
    ids=str,
)
def test_the_least_budget_is_enough(shape, piece):
    """Every page that it is for, in every layer, full, however they come."""
    layers, heads, d, dv, size, sink, window = shape
    if layers * piece == 30:
        piece = 8
    options = {
        "layers": layers, "kv_heads": heads, "head_dim": d, "value_head_dim": dv,
        "page_size": size, "sink": sink, "window": window,
    }  # fmt: skip
    with pytest.raises(ValueError, match="must be at least") as told:
        wl.PagedKVCache(max_bytes=0, **options)
    least = int(str(told.value).split("at least ")[1].split(",")[0])
    with pytest.raises(ValueError, match="must be at least"):
        wl.PagedKVCache(max_bytes=least - 1, **options)
    cache = wl.PagedKVCache(max_bytes=least, **options)
    seq = cache.add_sequence()
    length = (-(-sink // size) + -(-window // size) + 1) * size
    k, v = torch.randn(length, heads, d), torch.randn(length, heads, dv)
    for start in range(0, length, piece):
        for layer in range(layers):
            cache.append(layer, seq, k[start : start + piece], v[start : start + piece])
    assert cache.stats()["pages"] == layers * length // size
    assert torch.equal(cache.read(layers - 1, seq)[0], k.bfloat16())
    cache.validate()


K, V = torch.zeros(2, HEADS, D), torch.zeros(2, HEADS, D)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, s: c.append(0, 99, K, V), "unknown sequence 99"),
        (lambda c, s: c.append(1, s, K, V), "layer is 1: must be from 0 to 0"),
        (lambda c, s: c.append(-1, s, K, V), "layer is -1"),
        (lambda c, s: c.append(0, [s, s], K[None].repeat(2, 1, 1, 1), V[None].repeat(2, 1, 1, 1)),
         "is named twice"),
        (lambda c, s: c.append(0, s, K[None], V[None]), r"k has shape .*: must be \[s, hk, d\]"),
        (lambda c, s: c.append(0, [s], K[None].repeat(2, 1, 1, 1), V[None].repeat(2, 1, 1, 1)),
         "k has 2 rows of sequences: must have 1"),
        (lambda c, s: c.append(0, s, K[..., :16], V), r"k has shape \(2, 2, 16\)"),
        (lambda c, s: c.append(0, s, K, V[:1]), r"v has shape \(1, 2, 32\)"),
        (lambda c, s: c.append(0, s, K.double(), V.double()), "k is torch.float64"),
        (lambda c, s: c.append(0, s, K, V.half()), "v is torch.float16: must be torch.float32"),
        (lambda c, s: c.append(0, s, K.clone().requires_grad_(), V), "requires grad"),
        (lambda c, s: c.append(0, s, K.transpose(0, 2).contiguous().transpose(0, 2), V),
         "k has strides"),
        (lambda c, s: c.attend(0, torch.zeros(1, 1, 2, D), [99]), "unknown sequence 99"),
        (lambda c, s: c.attend(0, torch.zeros(2, 1, 2, D), [s]), r"must be \[1, s, h, 32\]"),
        (lambda c, s: c.attend(0, torch.zeros(1, 1, 3, D), [s]), "heads must divide"),
        (lambda c, s: c.attend(0, torch.zeros(1, 50, 2, D), [s]), r"lengths\[0\] is 40"),
        (lambda c, s: c.attend(0, torch.zeros(1, 1, 2, D), [s], precision="low"), "precision is"),
        (lambda c, s: c.shrink(0, s, 1), "bits is 1"),
        (lambda c, s: c.shrink(0, s, 8, pages=[3]), "pages holds 3: sequence 0 has pages 0 to 2"),
        (lambda c, s: c.shrink(0, s, 8, heads=[2]), "heads holds 2: must be from 0 to 1"),
        (lambda c, s: c.set_bits(3, 8), "layer is 3"),
        (lambda c, s: c.fork(99), "unknown sequence 99"),
        (lambda c, s: c.free(99), "unknown sequence 99"),
        (lambda c, s: c.reorder([s, 99], [0, 0]), "unknown sequence 99"),
        (lambda c, s: c.reorder([s], [1]), r"index\[0\] is 1: must be from 0 to 0"),
        (lambda c, s: c.reorder([s], [0, 0]), "index has 2 entries: must have 1"),
        (lambda c, s: c.keep(0, s, torch.tensor([3, 3])), "each more than the one before"),
        (lambda c, s: c.keep(0, s, torch.tensor([3, 40])), r"positions\[1\] is 40"),
        (lambda c, s: c.read(0, s, torch.tensor([-1])), r"positions\[0\] is -1"),
        (lambda c, s: c.crop(s, -1), "length is -1"),
        (lambda c, s: c.rotate(0, s, K[0, 0], torch.ones(4)), r"must be a number, or \(40,\)"),
        (lambda c, s: c.rotate(0, s, 1, torch.ones(17)), "half from 1 to 16"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(call, message):
    cache = cache_of()
    seq, k, _ = filled(cache, 40)
    stats = cache.stats()
    with pytest.raises(ValueError, match=message):
        call(cache, seq)
    assert cache.stats() == stats
    assert torch.equal(cache.read(0, seq)[0], k)
    cache.validate()


def test_validate_takes_all_kinds():
    cache = cache_of()
    filled(cache, 20)
    wl.kv_validate(cache)
    wl.kv_validate(cache.pages)
    with pytest.raises(ValueError, match="t is a int: must be a QuantizedKV"):
        wl.kv_validate(3)
    cache.pages.tags[0] += 4 << 20
    with pytest.raises(ValueError, match="tags"):
        wl.kv_validate(cache)
