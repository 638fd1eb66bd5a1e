"""What every GPU kernel of attention to quantized pages must do, emulated or on a device.

Each function takes a kernel of list_kernels() and the device of the tensors, "cpu" in the emulator.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import warploom as wl
from warploom.mask import window
from warploom.testing.attention_pages import (
    PagesCase,
    PagesInputs,
    expected_pages,
    match_pages,
    run_pages,
)


def of(case: PagesCase, kernel) -> PagesCase:
    return replace(case, dtype=kernel.dtype)


def moved(x: PagesInputs, device) -> PagesInputs:
    """The same on a device; a copy, wherever that is."""
    pages = replace(
        x.pages,
        **{name: on_a_line(getattr(x.pages, name), device) for name in ("pool", "tags")},
        **{name: getattr(x.pages, name).to(device) for name in ("key_grids", "value_grids")},
    )
    tensors = {name: getattr(x, name).clone().to(device) for name in ("q", "page_table", "lengths")}
    return replace(x, pages=pages, **tensors)


def on_a_line(tensor: torch.Tensor, device) -> torch.Tensor:
    """A copy at a multiple of 64 bytes."""
    raw = torch.empty(tensor.numel() + 64, dtype=tensor.dtype, device=device)
    at = -raw.data_ptr() % 64 // tensor.element_size()
    return raw[at : at + tensor.numel()].view(tensor.shape).copy_(tensor)


def run(kernel, device, case, x=None, precision="exact"):
    found = run_pages(case, moved(x or case.make(), device), precision, kernel.name)
    return tuple(t.cpu() for t in found)


def check(kernel, device, case, x=None, precision="exact"):
    x = x or case.make()
    found = run(kernel, device, case, x, precision)
    match_pages(found, expected_pages(case, x), precision, case.spread)
    return found


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def one_width(kernel, device, width):
    case = PagesCase(lengths=(150, 64), h=4, hk=2, d=kernel.max_head_dim, page=32, widths=(width,))
    check(kernel, device, of(case, kernel))


def both_precisions_are_one(kernel, device):
    case = of(PagesCase(lengths=(200,), h=4, hk=2, d=64, widths=(8, 4, 2)), kernel)
    assert same(run(kernel, device, case), run(kernel, device, case, precision="fast"))


def hidden_positions_may_hold_anything(kernel, device):
    case = PagesCase(lengths=(300,), s=40, h=4, hk=2, d=48, widths=(16,), mask=window(30, 0))
    case = of(case, kernel)
    x = case.make()
    clean = run(kernel, device, case, x)
    for position in range(300 - 40 - 30):
        page = int(x.page_table[0, position // 64])
        for tag in x.pages.tags[page].flatten().tolist():
            block = x.pages.pool[(tag >> 2) * 64 :][: 64 * 48 * 2].view(torch.bfloat16)
            block.view(64, 48)[position % 64] = torch.nan
    assert same(run(kernel, device, case, x), clean)


def a_query_that_is_not_finite_spoils_its_row_alone(kernel, device, value):
    case = of(PagesCase(lengths=(200,), s=2, h=4, hk=2, d=64, widths=(8, 2)), kernel)
    x = case.make()
    q = x.q.clone()
    q[0, 1, 2, 7] = value
    clean = run(kernel, device, case, x)
    o, lse = run(kernel, device, case, replace(x, q=q))
    assert o[0, 1, 2].isnan().all()
    o[0, 1, 2], lse[0, 2, 1] = clean[0][0, 1, 2], clean[1][0, 2, 1]
    assert same((o, lse), clean)


def constant_groups(kernel, device):
    case = of(PagesCase(lengths=(128,), h=4, hk=2, d=32, widths=(8, 4, 2)), kernel)
    x = case.make()
    for name in ("key_grids", "value_grids"):
        getattr(x.pages, name)[:, :, :, 1] = 0
    check(kernel, device, case, x)
    check(kernel, device, case, replace(x, q=torch.zeros_like(x.q)))


def nothing_to_do(kernel, device):
    x = moved(of(PagesCase(lengths=(64, 20), h=2, d=32), kernel).make(), device)
    for q in (x.q[:0], x.q[:, :0], x.q[:, :, :0]):
        o, lse = wl.attention_pages(
            q, x.pages, x.page_table[: q.shape[0]], x.lengths[: q.shape[0]], return_lse=True,
            kernel=kernel.name,
        )  # fmt: skip
        assert o.shape == q.shape
        assert lse.numel() == 0


def rows_that_see_nothing(kernel, device):
    case = of(PagesCase(lengths=(6,), s=6, h=2, d=32, mask=window(0, 0)), kernel)
    check(kernel, device, case)


def bad_values_poison_their_sequence_alone(kernel, device):
    case = of(PagesCase(lengths=(90, 90), h=4, hk=2, d=64, page=32), kernel)
    x = case.make()
    good = run(kernel, device, case, x)
    page = int(x.page_table[1, 1])

    def changed(name, at, value):
        tensor = getattr(x, name).clone()
        tensor[at] = value
        return replace(x, **{name: tensor})

    def tagged(value):
        tags = x.pages.tags.clone()
        tags[page, :, 1] = value
        return replace(x, pages=replace(x.pages, tags=tags))

    for inputs, told in (
        (changed("lengths", 1, 97), r"lengths\[1\]: must be from s"),
        (changed("lengths", 1, 0), r"lengths\[1\]"),
        (changed("page_table", (1, 1), x.pages.pages), r"page_table\[1\]: a page id must be"),
        (changed("page_table", (1, 1), -1), r"page_table\[1\]"),
        (tagged(-1), rf"tags\[{page}\]: the blocks of a page in use must be there"),
        (tagged(x.pages.pool.numel() // 64 * 4), rf"tags\[{page}\]"),
    ):
        there = moved(inputs, device)
        o, lse = (t.cpu() for t in run_pages(case, there, kernel=kernel.name))
        with pytest.raises(wl.DeviceError, match=told):
            wl.check()
        assert o[1].isnan().all()
        assert lse[1].isnan().all()
        assert same((o[0], lse[0]), (good[0][0], good[1][0]))
        with pytest.raises(ValueError, match=told[: told.index("\\")]):
            wl.attention_pages(
                there.q, there.pages, there.page_table, there.lengths, kernel=kernel.name,
                check=True,
            )  # fmt: skip
        wl.check()
