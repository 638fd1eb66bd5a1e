"""The comparison rule itself, and broken results that it must not let through."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from attention_cases import FORWARD

from warploom.mask import causal
from warploom.testing.attention import (
    check_backward,
    check_forward,
    match_decode,
    match_forward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.compare import assert_matches

EXACT = torch.linspace(-2, 2, 64, dtype=torch.float64)


def test_rounding_passes_and_three_times_torchs_error_does_not():
    yardstick = EXACT.bfloat16()
    assert_matches("x", yardstick, EXACT, yardstick)
    wrong = (EXACT + 8 * (yardstick.double() - EXACT)).float()
    with pytest.raises(AssertionError, match="x: rms error"):
        assert_matches("x", wrong, EXACT, yardstick, torch.float32)


def test_one_wrong_element_among_many_fails():
    exact = EXACT.repeat(1000)
    found = exact.float()
    found[777] += 1e-4
    with pytest.raises(AssertionError, match="largest error"):
        assert_matches("x", found, exact, exact.float())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_places_of_infinities_and_nans_come_first(value):
    exact = EXACT.clone()
    exact[3] = value
    assert_matches("x", exact.float(), exact, exact.float())
    with pytest.raises(AssertionError, match="in the wrong places: 1 of 64, first at"):
        assert_matches("x", EXACT.float(), exact, exact.float())
    with pytest.raises(AssertionError, match="in the wrong places"):
        assert_matches("x", exact.float(), EXACT, EXACT.float())


def test_shapes_must_be_equal():
    with pytest.raises(AssertionError, match="has shape"):
        assert_matches("x", EXACT[:1].float(), EXACT, EXACT.float())


CASE = AttentionCase(b=2, sq=90, sk=150, h=4, hk=2, d=64, mask=causal())


def zeros(case, x):
    o, lse = run_forward(case, x)
    return torch.zeros_like(o), lse


def shifted_mask(case, x):
    later = dataclasses.replace(case.mask, right=1)
    return run_forward(dataclasses.replace(case, mask=later), x)


def dropped_tile(case, x):
    shorter = dataclasses.replace(x, k=x.k[:, 16:], v=x.v[:, 16:])
    return run_forward(case, shorter)


def wrong_scale(case, x):
    return run_forward(dataclasses.replace(case, scale=1.05 * case.d**-0.5), x)


def wrong_head(case, x):
    return run_forward(case, dataclasses.replace(x, k=x.k.flip(2)))


def shifted_lse(case, x):
    o, lse = run_forward(case, x)
    return o, lse + 0.25


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "broken", [zeros, shifted_mask, dropped_tile, wrong_scale, wrong_head, shifted_lse]
)
def test_broken_forwards_fail(broken, dtype):
    case = dataclasses.replace(CASE, dtype=dtype)
    x = case.make()
    match_forward(case, run_forward(case, x))
    with pytest.raises(AssertionError):
        match_forward(case, broken(case, x))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_swapped_pages_fail(dtype):
    case = DecodeCase(lengths=(40, 64), h=4, hk=2, d=64, page=16, dtype=dtype)
    x = case.make()
    match_decode(case, run_decode(case, x), x)
    table = x.page_table.clone()
    table[1, 0], table[0, 0] = x.page_table[0, 0], x.page_table[1, 0]
    with pytest.raises(AssertionError):
        match_decode(case, run_decode(case, dataclasses.replace(x, page_table=table)), x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_broken_gradients_fail(dtype, monkeypatch):
    case = dataclasses.replace(CASE, dtype=dtype)
    check_backward(case, with_lse=True)
    from warploom.testing import attention

    right = attention.run_backward
    for broken in (
        lambda dq, dk, dv: (dq * 0, dk, dv),
        lambda dq, dk, dv: (dq, dk.roll(1, 1), dv),
        lambda dq, dk, dv: (dq, dk, dv * 1.05),
    ):
        monkeypatch.setattr(attention, "run_backward", lambda *a, f=broken: f(*right(*a)))
        with pytest.raises(AssertionError):
            check_backward(case, with_lse=True)


def test_every_fixed_case_says_what_it_is():
    names = [str(case) for case in FORWARD]
    assert len(set(names)) == len(names)
    check_forward(FORWARD[0])
