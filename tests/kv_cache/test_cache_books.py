"""What the books list for the ops, and what a call that is interrupted leaves."""

from __future__ import annotations

import pytest
import torch

import warploom as wl
from warploom import _core
from warploom.kv_cache import edit
from warploom.kv_cache.arena import _ints

HEADS, D, SIZE = 2, 32, 16


def cache_of(layers=1, **options):
    return wl.PagedKVCache(layers, HEADS, D, SIZE, max_bytes=1 << 20, **options)


def rows(s, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(s, HEADS, D, generator=generator).bfloat16() for _ in range(2))


def filled(cache, s, seed=0):
    seq = cache.add_sequence()
    for layer in range(cache.geometry.layers):
        cache.append(layer, seq, *rows(s, seed))
    return seq


def contents(cache, seq):
    return [x for n in range(cache.geometry.layers) for x in cache.read(n, seq)]


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def listed(cache):
    """Blocks that are to be quantized, and to be shrunk."""
    quantize, _, quantizes, shrink, _, shrinks = cache._book.work()
    return (
        _ints(quantize, quantizes, torch.int32).tolist(),
        _ints(shrink, shrinks, torch.int32).tolist(),
    )


@pytest.fixture
def lists(monkeypatch):
    """Every list that the ops were given."""
    seen = []
    work = wl.kv_cache.cache.Arena.work

    def recorded(arena):
        quantize, _, quantizes, shrink, _, shrinks = arena.book.work()
        for address, count in ((quantize, quantizes), (shrink, shrinks)):
            seen.append(_ints(address, count, torch.int32).tolist())
        work(arena)

    monkeypatch.setattr(wl.kv_cache.cache.Arena, "work", recorded)
    return seen


@pytest.mark.parametrize("sharers", [2, 3])
def test_pages_that_sharers_copied_are_quantized_once(lists, sharers):
    """The last ones that want a page in 16 bits all copy it in one append."""
    cache = cache_of(bits=8, window=SIZE)
    first = filled(cache, 2 * SIZE)
    short = cache.fork(first)
    cache.crop(short, SIZE + 4)
    cache.append(0, first, *rows(2 * SIZE, 1))
    shorts = [short] + [cache.fork(short) for _ in range(sharers - 1)]
    k, v = (x.expand(sharers, -1, -1, -1) for x in rows(1, 2))
    cache.append(0, shorts, k, v)
    assert any(lists)
    assert all(len(set(blocks)) == len(blocks) for blocks in lists)
    lone = cache_of(bits=8, window=SIZE)
    seq = filled(lone, 2 * SIZE)
    lone.append(0, seq, *rows(2 * SIZE, 1))
    assert torch.equal(cache.widths(0, first), lone.widths(0, seq))
    assert same(contents(cache, first), contents(lone, seq))
    cache.validate()


@pytest.mark.parametrize("before", [16, 8])
@pytest.mark.parametrize(
    "call",
    [
        lambda c, a, f: c.reorder([a, f], [0, 0]),
        lambda c, a, f: c.reorder([a, f], [0, 1]),
        lambda c, a, f: c.reorder([a], [0]),
        lambda c, a, f: c.free(f),
        lambda c, a, f: c.rotate(0, f, 0.0, torch.ones(1)),
        lambda c, a, f: c.crop(f, 2 * SIZE),
        lambda c, a, f: c.keep(0, f, torch.arange(SIZE, 4 * SIZE + 3)),
    ],
    ids=["reorder", "reorder to itself", "alone", "free", "rotate", "crop", "keep"],
)
def test_set_bits_leaves_the_pages_that_are_there(lists, call, before):
    """Whoever shares them, and lets go of them: only shrink narrows them, as few as it is told."""
    cache = cache_of(bits=before)
    seq = filled(cache, 6 * SIZE + 3)
    fork = cache.fork(seq)
    cache.set_bits(0, 4)
    widths, old = cache.widths(0, seq), contents(cache, seq)
    lists.clear()
    call(cache, seq, fork)
    assert not any(lists)
    assert torch.equal(cache.widths(0, seq), widths)
    assert same(contents(cache, seq), old)
    cache.shrink(0, seq, 4, pages=[0, 1])
    assert cache.widths(0, seq)[:, 0, 0].tolist() == [4, 4, before, before, before, before, 16]
    cache.validate()


def test_a_block_is_listed_once_at_its_fewest_bits():
    cache = cache_of()
    seq = filled(cache, 2 * SIZE)
    for bits in (8, 4, 8):
        cache._book.shrink(0, seq, (bits, 16), None, None, True)
    quantize, shrink = listed(cache)
    assert (len(quantize), len(set(quantize)), shrink) == (2 * HEADS, 2 * HEADS, [])
    cache._arena.work()
    assert cache.widths(0, seq)[:, :, 0].eq(4).all()
    cache.validate()


def test_pages_that_are_gone_are_not_listed():
    cache = cache_of()
    seq = filled(cache, 2 * SIZE)
    cache._book.shrink(0, seq, (8, 8), None, None, True)
    cache._book.free(seq)
    assert listed(cache) == ([], [])
    cache.validate()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("what", ["write", "work"])
def test_keep_that_is_interrupted_changes_nothing(monkeypatch, what, at):
    cache = cache_of(bits=8)
    seq = filled(cache, 5 * SIZE + 3)
    fork = cache.fork(seq)
    old, stats = contents(cache, seq), cache.stats()
    done = getattr(cache._arena, what)
    calls = []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == at + 1:
            raise Stopped
        done(*arguments)

    monkeypatch.setattr(cache._arena, what, fails)
    with pytest.raises(Stopped):
        cache.keep(0, seq, torch.arange(2, 5 * SIZE))
    monkeypatch.undo()
    assert same(contents(cache, seq), old)
    assert {**cache.stats(), "reserved_bytes": 0, "free_bytes": 0} == {
        **stats, "reserved_bytes": 0, "free_bytes": 0,
    }  # fmt: skip
    cache.validate()
    cache.append(0, cache.fork(seq), *rows(SIZE))
    assert same(contents(cache, fork), old)
    cache.keep(0, seq, torch.arange(2, 5 * SIZE))
    assert cache.length(0, seq) == 5 * SIZE - 2
    cache.validate()


def test_a_rebuild_under_way_is_nobodys_yet():
    cache = cache_of(bits=8)
    seq = filled(cache, 4 * SIZE)
    row = cache._book.row(0, seq)
    cache._book.rebuild(0, seq, 2 * SIZE, [-1, -1], [8] * 4 * HEADS)
    assert _core.kv_book_next(cache._address) is not None
    _core.kv_book_commit(cache._address)
    assert cache._book.row(0, seq) == row
    fork = cache.fork(seq)
    assert cache._book.row(0, fork) == row
    _core.kv_book_abort(cache._address)
    cache.free(fork)
    cache.validate()
    assert cache._book.row(0, seq) == row


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_crop_is_of_all_layers_or_none(monkeypatch, error):
    cache = cache_of(layers=3, bits=8)
    seq = filled(cache, 4 * SIZE)
    old, stats, keep = contents(cache, seq), cache.stats(), edit.keep

    def fails(arena, layer, *arguments):
        if layer == 2:
            raise error
        keep(arena, layer, *arguments)

    monkeypatch.setattr(edit, "keep", fails)
    with pytest.raises(error):
        cache.crop(seq, SIZE + 5)
    monkeypatch.undo()
    assert same(contents(cache, seq), old)
    assert cache.stats()["pages"] == stats["pages"]
    assert cache.stats()["sequences"] == 1
    cache.crop(seq, SIZE + 5)
    assert same(contents(cache, seq), [x[: SIZE + 5] for x in old])
    cache.validate()


@pytest.mark.parametrize("before", [16, 8])
def test_after_an_op_failed_the_books_know_what_it_did(monkeypatch, before):
    name = "kv_quantize_pages" if before == 16 else "kv_shrink_pages"
    op = getattr(_core, name)

    def fails(*arguments):
        *others, count, blocks, bits = arguments
        assert count > 3
        op(*others, 3, blocks, bits)
        raise MemoryError

    cache, whole = cache_of(bits=before), cache_of(bits=before)
    seq, other = filled(cache, 3 * SIZE), filled(whole, 3 * SIZE)
    monkeypatch.setattr(_core, name, fails)
    with pytest.raises(MemoryError):
        cache.shrink(0, seq, 4)
    monkeypatch.undo()
    assert listed(cache) == ([], [])
    assert cache.widths(0, seq).eq(4).sum() == 3
    cache.validate()
    cache.shrink(0, seq, 4)
    whole.shrink(0, other, 4)
    assert same(contents(cache, seq), contents(whole, other))
    assert cache.nbytes() == whole.nbytes()
    cache.validate()


def test_shortfall_is_of_the_last_append():
    cache = wl.PagedKVCache(1, HEADS, D, SIZE, max_bytes=40_000)
    seq = filled(cache, 3)
    with pytest.raises(MemoryError):
        cache.append(0, seq, *rows(100 * SIZE))
    assert cache.shortfall() > 0
    cache.append(0, seq, *rows(1))
    assert cache.shortfall() == 0


def test_validate_compares_tags_with_the_books():
    cache = cache_of(bits=8)
    seq = filled(cache, 3 * SIZE)
    page = cache._arena.page_ids(0, seq)[1]
    cache.pages.tags[page, 1, 0] -= 1  # the same place, of 4 bits
    with pytest.raises(ValueError, match=rf"tags of page {page}, head 1, keys: .* the books have"):
        cache.validate()
    cache.pages.tags[page, 1, 0] += 1
    cache.validate()
