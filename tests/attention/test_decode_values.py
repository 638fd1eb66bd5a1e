"""Values in a cache that are not finite: they show in the rows that see them, and no further."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from kernel_params import cpu_kernels, emulated, names

from warploom.mask import causal, window
from warploom.testing.attention import check_decode, match_decode, run_decode
from warploom.testing.cases import DecodeCase
from warploom.testing.emulator import emulator

KERNELS = names(cpu_kernels("decode") + emulated("decode"))
CONTIGUOUS = DecodeCase(lengths=(90, 37), s=4, h=4, hk=2, d=40, dv=24, mask=window(20, 0))
PAGED = dataclasses.replace(CONTIGUOUS, page=16)


@pytest.fixture(autouse=True)
def where(kernel):
    """GPU kernels run in the emulator."""
    if kernel.device == "cpu":
        yield
    else:
        with emulator(seed=3):
            yield


def position(x, sequence: int, key: int) -> tuple[int, int]:
    """Where a key of a sequence lies in the caches."""
    if x.page_table is None:
        return sequence, key
    size = x.k_cache.shape[1]
    return int(x.page_table[sequence, key // size]), key % size


def seen_by(case: DecodeCase, sequence: int, key: int) -> torch.Tensor:
    """Which queries [b, s] see a key."""
    seen = torch.zeros(case.b, case.s, dtype=torch.bool)
    for i in range(case.s):
        seen[sequence, i] = key in case.mask.keys(i, case.s, case.lengths[sequence])
    return seen


@pytest.mark.parametrize("case", [CONTIGUOUS, PAGED], ids=["contiguous", "paged"])
@pytest.mark.parametrize("key", [66, 70, 89], ids=["some rows", "all rows", "last row"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_in_a_key_shows_in_the_rows_that_see_it(kernel, case, key):
    case = dataclasses.replace(case, dtype=kernel.dtype)
    x = case.make()
    x.k_cache[(*position(x, 0, key), 1)] = torch.nan  # kv head 1: query heads 2 and 3
    o, lse = check_decode(case, x, kernel=kernel.name)
    seen = seen_by(case, 0, key)
    assert seen.any()
    expected = torch.zeros(case.b, case.s, case.h, dtype=torch.bool)
    expected[:, :, 2:] = seen[:, :, None]
    assert torch.equal(o.isnan(), expected[..., None].expand_as(o))
    assert torch.equal(lse.isnan(), expected.transpose(1, 2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_finite_in_a_value_shows_in_its_column(kernel, value):
    case = dataclasses.replace(PAGED, dtype=kernel.dtype)
    x = case.make()
    x.v_cache[(*position(x, 0, 67), 0, 7)] = value
    o, lse = run_decode(case, x, kernel.name)
    seen = seen_by(case, 0, 67)
    assert seen.any()
    assert not seen.all()
    expected = torch.zeros(case.b, case.s, case.h, case.value_dim, dtype=torch.bool)
    expected[:, :, :2, 7] = seen[:, :, None]
    assert torch.equal(~o.isfinite(), expected)
    assert lse.isfinite().all()
    match_decode(case, (o, lse), x)


@pytest.mark.parametrize("mask", [causal(), window(20, 0)], ids=str)
@pytest.mark.parametrize("page", [None, 16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_hidden_does_not_show(kernel, page, mask):
    """Behind the lengths, before the window, and in pages that no sequence has."""
    capacity = 128 if page is None else None
    case = dataclasses.replace(
        CONTIGUOUS, page=page, capacity=capacity, mask=mask, dtype=kernel.dtype
    )
    x = case.make()
    hidden = torch.ones(x.k_cache.shape[:2], dtype=torch.bool)
    for n, length in enumerate(case.lengths):
        for key in range(length):
            hidden[position(x, n, key)] = not seen_by(case, n, key).any()
    assert hidden.any()
    clean = run_decode(case, x, kernel.name)
    x.k_cache[hidden] = torch.nan
    x.v_cache[hidden] = torch.nan
    for a, b in zip(run_decode(case, x, kernel.name), clean, strict=True):
        assert torch.equal(a, b)
    match_decode(case, clean, x)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_in_a_query_shows_in_its_row_alone(kernel):
    case = dataclasses.replace(PAGED, dtype=kernel.dtype)
    x = case.make()
    clean = run_decode(case, x, kernel.name)
    x.q[1, 2, 3, 5] = torch.nan
    o, lse = run_decode(case, x, kernel.name)
    touched = torch.zeros(case.b, case.s, case.h, dtype=torch.bool)
    touched[1, 2, 3] = True
    assert torch.equal(o.isnan().all(-1), touched)
    assert torch.equal(lse.isnan(), touched.transpose(1, 2))
    assert torch.equal(o[~touched], clean[0][~touched])
