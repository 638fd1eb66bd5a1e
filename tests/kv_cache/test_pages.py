"""Pages as arrays: what a block holds, and what KVPages refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import warploom as wl
from warploom import reference
from warploom.testing.pages import make_pages

PAGES, SIZE, HEADS, D, DV = 5, 32, 2, 64, 48


def pages_of(k, v, widths=None, **options):
    if widths is None:
        widths = 2 << torch.arange(PAGES * HEADS * 2).remainder(4).view(PAGES, HEADS, 2)
    return make_pages(k, v, widths, **options)


@pytest.fixture
def kv():
    return torch.randn(PAGES, SIZE, HEADS, D), torch.randn(PAGES, SIZE, HEADS, DV) + 1


@pytest.mark.parametrize("quantum_bytes", [64, 512])
@pytest.mark.parametrize(
    ("key_group", "keys_per_channel"), [(64, False), (16, False), (32, True), (16, True)]
)
def test_a_block_holds_what_was_put_in(kv, key_group, keys_per_channel, quantum_bytes):
    """Half a step away at most; grids are what the groups need, whichever way they lie."""
    k, v = kv
    pages = pages_of(
        k, v, key_group=key_group, keys_per_channel=keys_per_channel, quantum_bytes=quantum_bytes
    )
    pages.validate()
    assert (pages.head_dim, pages.value_dim, pages.page_size) == (D, DV, SIZE)
    for x, found in zip(kv, reference.kv_page_values(pages), strict=True):
        values = x is v
        for page in range(PAGES):
            for head in range(HEADS):
                width = 2 << (int(pages.tags[page, head, int(values)]) & 3)
                block = x[page, :, head]
                if width == 16:
                    wanted = block.bfloat16().double()
                    assert torch.equal(found[page, :, head], wanted)
                    continue
                across = keys_per_channel and not values
                groups = block.T if across else block
                group = pages.value_group if values else key_group
                groups = groups.unflatten(-1, (-1, group))
                spread = groups.amax(-1) - groups.amin(-1)
                step = (spread * 1.02 + 0.02).unsqueeze(-1).expand_as(groups).flatten(1)
                step = (step.T if across else step) / (2**width - 1)
                assert ((found[page, :, head] - block).abs() <= step / 2).all()


def test_no_block(kv):
    widths = torch.full((PAGES, HEADS, 2), 8)
    widths[3] = 0
    pages = pages_of(*kv, widths=widths)
    pages.validate()
    k, v = reference.kv_page_values(pages)
    assert k[3].isnan().all()
    assert v[3].isnan().all()
    assert not k[[0, 1, 2, 4]].isnan().any()


def test_shared_bytes_of_narrow_blocks(kv):
    """What a shrink frees may hold another block."""
    pages = pages_of(*kv, widths=torch.full((PAGES, HEADS, 2), 8))
    halved = pages.tags.clone()
    halved[0, 0, 0] -= 1  # 4 bit now: the upper half is free
    halved[0, 0, 1] = halved[0, 0, 0] + 4 * (pages.block_bytes(4) // pages.quantum_bytes)
    replace(pages, tags=halved).validate()
    halved[0, 0, 1] -= 4
    with pytest.raises(ValueError, match=r"tags\[0, 0, 0\] and tags\[0, 0, 1\]: their blocks over"):
        replace(pages, tags=halved).validate()


def grids(pages, name, at, value):
    changed = getattr(pages, name).clone()
    changed[at] = value
    return {name: changed}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"pool": p.pool.int()}, "pool is torch.int32: must be torch.uint8"),
        (lambda p: {"pool": p.pool[1:]}, "pool is not at a multiple of 64"),
        (lambda p: {"pool": p.pool[:640]}, "must be of a block within the pool's 640 bytes"),
        (lambda p: {"tags": p.tags.long()}, "tags is torch.int64"),
        (lambda p: {"tags": p.tags[..., :1]}, "tags has strides"),
        (lambda p: {"tags": p.tags[:1]}, "key_grids has shape"),
        (lambda p: {"tags": p.tags - (1 << 30)}, "must be a block's, or -1"),
        (lambda p: {"key_grids": p.key_grids[0]}, "key_grids has shape"),
        (lambda p: {"value_grids": p.value_grids.float()}, "value_grids is torch.float32"),
        (lambda p: {"value_group": 24}, "value_group is 24: must be a positive multiple of 16"),
        (lambda p: {"key_group": 0}, "key_group is 0"),
        (lambda p: {"quantum_bytes": 96}, "quantum_bytes is 96"),
        (lambda p: {"keys_per_channel": True}, "key_group is 64: must divide the 32 positions"),
        (lambda p: grids(p, "key_grids", (2, 1, 0, 0, 5), torch.inf), r"key_grids\[2, 1, 0, 0, 5"),
        (lambda p: grids(p, "value_grids", (2, 1, 0, 1, 5), -1.0), r"value_grids\[2, 1, 0, 1, 5"),
        (lambda p: grids(p, "value_grids", (0, 0, 0, 1, 0), 2.0**-111), "at least 2\\*\\*-110"),
    ],
)
def test_what_is_wrong_is_named(kv, change, message):
    pages = pages_of(*kv, widths=torch.full((PAGES, HEADS, 2), 4))
    with pytest.raises(ValueError, match=message):
        replace(pages, **change(pages)).validate()


def test_tags():
    assert [wl.kv_tag(5, width) for width in (2, 4, 8, 16)] == [20, 21, 22, 23]
    with pytest.raises(ValueError, match="width is 3: must be 16, 8, 4 or 2"):
        wl.kv_tag(0, 3)
