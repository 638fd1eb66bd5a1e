"""The comparison rule itself, and broken results that it must not let through."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from attention_cases import FORWARD

from warploom import merge_states
from warploom.mask import causal
from warploom.testing import compare
from warploom.testing.attention import (
    backward_inputs,
    check_forward,
    match_backward,
    match_decode,
    match_forward,
    match_merge,
    merge_inputs,
    run_backward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.compare import assert_matches

EXACT = torch.linspace(-2, 2, 64, dtype=torch.float64)
NOISE = 1e-3 * torch.linspace(-1, 1, 64, dtype=torch.float64).roll(7)


def test_an_error_of_torchs_size_passes():
    assert_matches("x", (EXACT - NOISE).float(), EXACT, (EXACT + NOISE).float())


@pytest.mark.parametrize(("times", "passes"), [(1.98, True), (2.02, False)])
def test_twice_torchs_error_is_the_bound_of_both_norms(times, passes):
    yardstick = (EXACT + NOISE).float()
    everywhere = (EXACT - times * NOISE).float()
    once = EXACT.clone()
    once[20] += times * NOISE.abs().max()
    for found, norm in ((everywhere, "largest"), (once.float(), "largest")):
        if passes:
            assert_matches("x", found, EXACT, yardstick)
        else:
            with pytest.raises(AssertionError, match=f"x: {norm} error"):
                assert_matches("x", found, EXACT, yardstick)


def test_a_small_bias_everywhere_fails_by_its_mean_square():
    yardstick = EXACT.clone()
    yardstick[20] += 1e-3  # one large error lets the largest of all others pass
    with pytest.raises(AssertionError, match="x: rms error"):
        assert_matches("x", (EXACT + 9e-4).float(), EXACT, yardstick.float())


def test_rounding_alone_passes_and_an_ulp_more_does_not():
    """Where torch makes no error at all: three ulps in float32, storing the result in 16 bits."""
    ulp = torch.finfo(torch.float32).eps * 2
    once = EXACT.float()
    once[-1] += 2.9 * ulp
    assert_matches("x", once, EXACT, EXACT)
    once[-1] += ulp
    with pytest.raises(AssertionError, match="largest error"):
        assert_matches("x", once, EXACT, EXACT)
    for dtype in (torch.float16, torch.bfloat16):
        stored = EXACT.to(dtype)
        assert_matches("x", stored, EXACT, EXACT)
        next_but_one = (stored.view(torch.int16) + 1).view(dtype)
        with pytest.raises(AssertionError, match="largest error"):
            assert_matches("x", next_but_one, EXACT, EXACT)


def test_a_stated_error_is_granted_and_no_more():
    found = (EXACT + 1e-4).float()
    assert_matches("x", found, EXACT, EXACT, stated=1.01e-4)
    with pytest.raises(AssertionError):
        assert_matches("x", found, EXACT, EXACT, stated=0.9e-4)


def test_one_wrong_element_among_many_fails():
    exact = EXACT.repeat(1000)
    found = exact.float()
    found[777] += 1e-4
    with pytest.raises(AssertionError, match="largest error"):
        assert_matches("x", found, exact, exact.float())


def test_watchers_hear_of_every_comparison(monkeypatch):
    heard = []
    monkeypatch.setattr(compare, "watchers", [heard.append])
    assert_matches("x", (EXACT + 1.5 * NOISE).float(), EXACT, EXACT + NOISE)
    with pytest.raises(AssertionError):
        assert_matches("y", (EXACT + 3 * NOISE).float(), EXACT, EXACT + NOISE)
    assert [found.name for found in heard] == ["x", "y"]
    assert [found.ratio("largest") for found in heard] == pytest.approx([1.5, 3.0], abs=1e-2)


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
    return o, lse + 1e-4


def scaled_output(case, x):
    o, lse = run_forward(case, x)
    return o * 1.05, lse


DTYPES = ["float32", "float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "broken",
    [zeros, shifted_mask, dropped_tile, wrong_scale, wrong_head, shifted_lse, scaled_output],
)
def test_broken_forwards_fail(broken, dtype):
    case = dataclasses.replace(CASE, dtype=dtype)
    x = case.make()
    match_forward(case, run_forward(case, x))
    with pytest.raises(AssertionError):
        match_forward(case, broken(case, x))


def zeros_decoded(case, x):
    o, lse = run_decode(case, x)
    return torch.zeros_like(o), lse


def swapped_pages(case, x):
    table = x.page_table.clone()
    table[1, 0], table[0, 0] = x.page_table[0, 0], x.page_table[1, 0]
    return run_decode(case, dataclasses.replace(x, page_table=table))


def shifted_length(case, x):
    return run_decode(case, dataclasses.replace(x, lengths=x.lengths - 1))


def dropped_page(case, x):
    fewer = dataclasses.replace(x, lengths=x.lengths - 16, page_table=x.page_table[:, 1:])
    return run_decode(case, fewer)


def shifted_decode_lse(case, x):
    o, lse = run_decode(case, x)
    return o, lse + 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "broken", [zeros_decoded, swapped_pages, shifted_length, dropped_page, shifted_decode_lse]
)
def test_broken_decodes_fail(broken, dtype):
    case = DecodeCase(lengths=(40, 64), s=2, h=4, hk=2, d=64, page=16, dtype=dtype)
    x = case.make()
    match_decode(case, run_decode(case, x), x)
    with pytest.raises(AssertionError):
        match_decode(case, broken(case, x), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broken_gradients_fail(dtype):
    case = dataclasses.replace(CASE, dtype=dtype)
    inputs = backward_inputs(case, with_lse=True)
    dq, dk, dv = run_backward(case, *inputs)
    match_backward(case, (dq, dk, dv), with_lse=True)
    x, o, lse, grad_lse = inputs
    later = dataclasses.replace(case, mask=dataclasses.replace(case.mask, right=1))
    tile = [t.clone() for t in (dq, dk, dv)]
    for gradient in tile:
        gradient[:, 32:48] = 0
    for broken in (
        (dq * 0, dk, dv),
        (dq, dk * 0, dv),
        (dq, dk, dv * 0),
        (tile[0], dk, dv),
        (dq, tile[1], dv),
        (dq, dk, tile[2]),
        (dq, dk.roll(1, 1), dv),
        (dq, dk, dv * 1.05),
        run_backward(later, *inputs),
        run_backward(case, x, o, lse + 0.05, grad_lse),
        run_backward(case, x, o, lse, None),
    ):
        with pytest.raises(AssertionError):
            match_backward(case, broken, with_lse=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_broken_merges_fail(dtype):
    o, lse = merge_inputs((2, 7, 3, 40), dtype)
    merged, total = merge_states(o, lse)
    match_merge((merged, total), o, lse)
    for broken in (
        (merged * 0, total),
        (merged, total + 1e-4),
        merge_states(o[:3], lse[:3]),
        merge_states([o[1], o[0], *o[2:]], lse),
        (torch.stack(o).nan_to_num(0).mean(0), total),
    ):
        with pytest.raises(AssertionError):
            match_merge(broken, o, lse)


def test_every_fixed_case_says_what_it_is():
    names = [str(case) for case in FORWARD]
    assert len(set(names)) == len(names)
    check_forward(FORWARD[0])
