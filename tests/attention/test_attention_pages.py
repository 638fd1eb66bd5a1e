"""Attention to quantized pages: every kernel, forced by name, against the float64 oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_params import cpu_kernels, names

import warploom as wl
from warploom.mask import full, window
from warploom.testing.attention_pages import (
    PagesCase,
    check_pages,
    expected_pages,
    match_pages,
    run_pages,
)
from warploom.testing.compare import peer_bound, peer_distance

KERNELS = names(cpu_kernels("pages"))
PRECISIONS = ["exact", "fast"]
CASES = [
    PagesCase(lengths=(320, 77), h=8, hk=2, d=128),
    PagesCase(lengths=(64,), h=3, hk=3, d=16, widths=(8,)),
    PagesCase(lengths=(200, 1, 63), s=1, h=6, hk=2, d=48, dv=80, page=16),
    PagesCase(lengths=(150,), h=4, hk=1, d=64, dv=16, page=48, quantum_bytes=256, softcap=20.0),
    PagesCase(lengths=(500, 260), s=5, h=4, hk=2, d=64, page=80, key_group=16, value_group=32),
    PagesCase(lengths=(300, 90), s=70, h=2, hk=1, d=32, mask=window(40, 3)),
    PagesCase(lengths=(400,), s=9, h=7, hk=1, d=96, page=128, mask=full(), scale=0.2),
    PagesCase(lengths=(256, 300), h=4, hk=2, d=64, keys_per_channel=True, widths=(8, 4, 2)),
    PagesCase(lengths=(230,), s=3, h=5, hk=1, d=112, page=80, keys_per_channel=True, key_group=16),
    PagesCase(lengths=(320,), h=4, hk=1, d=256, dv=240, widths=(8, 2)),
    PagesCase(lengths=(2300, 1100), h=4, hk=2, d=32, widths=(4, 2)),
    PagesCase(lengths=(200,), h=4, hk=2, d=64, offset=3.0),
    PagesCase(lengths=(130,), s=130, h=4, hk=2, d=64),
]


def of(case, kernel):
    return replace(case, dtype=kernel.dtype)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_cases(kernel, case, precision):
    check_pages(of(case, kernel), precision=precision, kernel=kernel.name)


@pytest.mark.parametrize("width", [16, 8, 4, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_width(kernel, width):
    case = PagesCase(lengths=(320, 128), h=4, hk=2, d=64, widths=(width,), dtype=kernel.dtype)
    check_pages(case, kernel=kernel.name)
    check_pages(case, precision="fast", kernel=kernel.name)


CONTROL = PagesCase(lengths=(256, 192), h=4, hk=2, d=64, widths=(8, 4, 2))


def on_a_line(tensor):
    """A copy at a multiple of 64 bytes."""
    raw = tensor.new_empty(tensor.numel() + 64)
    copy = raw[-raw.data_ptr() % 64 :][: tensor.numel()]
    return copy.copy_(tensor)


CONTROLS = {
    "zeros": None,
    "nibbles swapped": lambda p: {"pool": on_a_line(p.pool >> 4 | p.pool << 4)},
    "pages rolled": lambda p: {"tags": p.tags.roll(1, 0)},
    "heads exchanged": lambda p: {"tags": p.tags.flip(1)},
    "grids of keys and values exchanged": lambda p: {
        "key_grids": p.value_grids,
        "value_grids": p.key_grids,
    },
    "min and range exchanged": lambda p: {"key_grids": p.key_grids.flip(3)},
    "steps 5% off": lambda p: {
        "value_grids": p.value_grids * torch.tensor([1, 1.05], dtype=torch.bfloat16)[:, None]
    },
    "a tag of another width": lambda p: {"tags": torch.where(p.tags & 3 == 1, p.tags - 1, p.tags)},
    "a tag of the next quantum": lambda p: {"tags": p.tags + 4 * (p.tags < p.tags.max()).int()},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_wrong_results_are_found(dtype, name, precision):
    case = replace(CONTROL, dtype=dtype)
    x = case.make()
    expected = expected_pages(case, x)
    if CONTROLS[name] is None:
        found = tuple(torch.zeros_like(t) for t in run_pages(case, x, precision))
    else:
        pages = replace(x.pages, **CONTROLS[name](x.pages))
        found = run_pages(case, replace(x, pages=pages), precision)
    with pytest.raises(AssertionError):
        match_pages(found, expected, precision)
    match_pages(run_pages(case, x, precision), expected, precision)


@pytest.mark.parametrize("kernel", KERNELS)
def test_16_bit_pages_do_as_decode_does(kernel):
    """Of bfloat16 numbers both see the same; lse does not notice how o is stored."""
    case = PagesCase(lengths=(200, 70), h=4, hk=2, d=64, widths=(16,), dtype=kernel.dtype)
    x = case.make()
    k, v = wl.reference.kv_page_values(x.pages)
    cache = [t.nan_to_num(0).to(x.q.dtype) for t in (k, v)]
    found = run_pages(case, x, kernel=kernel.name)
    decode = kernel.name.replace("_pages_", "_decode_")
    o, lse = wl.attention_decode(
        x.q, *cache, x.lengths, x.page_table, return_lse=True, kernel=decode
    )
    assert peer_distance(found[0], o) <= peer_bound(o.dtype)
    assert peer_distance(found[1], lse) <= peer_bound(lse.dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sequence_s_result_is_its_own(kernel):
    """The same bits alone, in a batch, for any number of threads and wherever its pages lie."""
    case = PagesCase(lengths=(2500, 90, 1400), h=4, hk=2, d=64, page=32, dtype=kernel.dtype)
    x = case.make()
    for precision in PRECISIONS:
        together = run_pages(case, x, precision, kernel.name)
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for a, b in zip(run_pages(case, x, precision, kernel.name), together, strict=True):
                assert torch.equal(a, b)
        for n in range(3):
            one = replace(
                x,
                q=x.q[n : n + 1],
                page_table=x.page_table[n : n + 1],
                lengths=x.lengths[n : n + 1],
            )
            for a, b in zip(run_pages(case, one, precision, kernel.name), together, strict=True):
                assert torch.equal(a[0], b[n])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_hidden_positions_may_hold_anything(kernel, precision):
    """NaN keys and values of 16 bits behind a window do not show."""
    case = PagesCase(
        lengths=(300,), s=40, h=4, hk=2, d=48, widths=(16,), mask=window(30, 0), dtype=kernel.dtype
    )
    x = case.make()
    clean = run_pages(case, x, precision, kernel.name)
    hidden = case.lengths[0] - case.s - 30  # the first position that a row sees
    for position in range(hidden):
        page = int(x.page_table[0, position // 64])
        for head in range(2):
            for side in range(2):
                start = (int(x.pages.tags[page, head, side]) >> 2) * 64
                block = x.pages.pool[start : start + 64 * 48 * 2].view(torch.bfloat16)
                block.view(64, 48)[position % 64] = torch.nan
    for a, b in zip(run_pages(case, x, precision, kernel.name), clean, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_query_that_is_not_finite_spoils_its_row_alone(kernel, value, precision):
    case = PagesCase(lengths=(200,), s=2, h=4, hk=2, d=64, widths=(8, 2), dtype=kernel.dtype)
    x = case.make()
    q = x.q.clone()
    q[0, 1, 2, 7] = value
    clean = run_pages(case, x, precision, kernel.name)
    o, lse = run_pages(case, replace(x, q=q), precision, kernel.name)
    assert o[0, 1, 2].isnan().all()
    for head in range(4):
        for i in range(2):
            if (i, head) != (1, 2):
                assert torch.equal(o[0, i, head], clean[0][0, i, head])
                assert torch.equal(lse[0, head, i], clean[1][0, head, i])


@pytest.mark.parametrize("kernel", KERNELS)
def test_constant_groups(kernel):
    """A range of 0, where every step is 0, and queries of zeros."""
    case = PagesCase(lengths=(128,), h=4, hk=2, d=32, widths=(8, 4, 2), dtype=kernel.dtype)
    x = case.make()
    grids = {}
    for name in ("key_grids", "value_grids"):
        grids[name] = getattr(x.pages, name).clone()
        grids[name][:, :, :, 1] = 0
    constant = replace(x, pages=replace(x.pages, **grids))
    for inputs in (constant, replace(x, q=torch.zeros_like(x.q))):
        for precision in PRECISIONS:
            check_pages(case, inputs, precision, kernel.name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_to_do(kernel):
    x = PagesCase(lengths=(64, 20), h=2, d=32, dtype=kernel.dtype).make()
    for q in (x.q[:0], x.q[:, :0], x.q[:, :, :0]):
        o, lse = wl.attention_pages(
            q, x.pages, x.page_table[: q.shape[0]], x.lengths[: q.shape[0]], return_lse=True,
            kernel=kernel.name,
        )  # fmt: skip
        assert o.shape == q.shape
        assert lse.numel() == 0


def test_rows_that_see_nothing():
    case = PagesCase(lengths=(70,), s=3, h=2, d=32, mask=window(0, 0))
    x = case.make()
    q = torch.cat([x.q, x.q], 1)
    lengths = torch.tensor([6], dtype=torch.int32)
    case = replace(case, lengths=(6,), s=6)
    check_pages(case, replace(x, q=q, lengths=lengths))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": torch.tensor([129, 90], dtype=torch.int32)}, r"lengths\[0\] is 129: must be"),
        ({"lengths": torch.tensor([0, 90], dtype=torch.int32)}, r"lengths\[0\] is 0"),
        ({"lengths": torch.tensor([1, 90])}, "lengths is torch.int64"),
        (
            {"page_table": torch.tensor([[0, 9], [1, 2]], dtype=torch.int32)},
            "page_table.0, 1. is 9",
        ),
        ({"q": torch.zeros(2, 1, 4, 48)}, "q has shape"),
        ({"q": torch.zeros(2, 1, 3, 32)}, "the key/value heads must divide"),
        ({"q": torch.zeros(2, 1, 4, 32, dtype=torch.float64)}, "q is torch.float64"),
        ({"precision": "faster"}, "precision is 'faster': must be 'exact' or 'fast'"),
        ({"mask": "causal"}, "mask is 'causal'"),
        ({"softcap": -1.0}, "softcap is -1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"pages": None}, "pages is a NoneType: must be a wl.KVPages"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    case = PagesCase(lengths=(128, 90), h=4, hk=2, d=32)
    x = case.make()
    arguments = {"q": x.q, "pages": x.pages, "page_table": x.page_table, "lengths": x.lengths}
    with pytest.raises(ValueError, match=message):
        wl.attention_pages(**{**arguments, **change})


@pytest.mark.parametrize("tag", [-1, 1 << 24, -4])
def test_a_block_that_is_not_there_is_named(tag):
    x = PagesCase(lengths=(128,), h=4, hk=2, d=32).make()
    x.pages.tags[1, 0, 1] = tag
    with pytest.raises(ValueError, match=rf"tags\[1, 0, 1\] is {tag}: must be of a block within"):
        wl.attention_pages(x.q, x.pages, x.page_table, x.lengths)


def test_head_dims_that_no_kernel_takes_are_refused_by_name():
    case = PagesCase(lengths=(64,), h=1, d=272)
    with pytest.raises(NotImplementedError, match="head dims up to 256 only"):
        check_pages(case)


def test_a_gradient_is_refused():
    x = PagesCase(lengths=(64,), h=1, d=32).make()
    with pytest.raises(ValueError, match="q requires grad: attention_pages has no gradient"):
        wl.attention_pages(x.q.requires_grad_(), x.pages, x.page_table, x.lengths)


def test_compiles_and_is_checked_by_torch():
    case = PagesCase(lengths=(128, 90), h=4, hk=2, d=32)
    x = case.make()
    p = x.pages
    torch.library.opcheck(
        torch.ops.warploom.attention_pages.default,
        (x.q, p.pool, p.tags, p.key_grids, p.value_grids, x.page_table, x.lengths, 32, 32, 64),
    )
