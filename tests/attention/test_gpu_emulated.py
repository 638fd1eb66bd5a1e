"""Every GPU kernel, run by the checking emulator: results, guards of values, and empty calls.

A race, a missing barrier, a read of memory that nothing wrote, an access out of bounds or an output
element that no kernel wrote raises DeviceError, so each test here looks for those too.
"""

from __future__ import annotations

import dataclasses

import gpu_checks
import kernel_params
import pytest
import torch
from attention_cases import EMPTY, EMULATED_DECODE, EMULATED_FORWARD
from gpu_checks import of_width
from kernel_params import emulated

import warploom as wl
from warploom.mask import causal, full, window
from warploom.testing.attention import (
    backward_inputs,
    check_backward,
    check_decode,
    check_forward,
    merge_inputs,
    run_backward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.emulator import emulator

SEEDS = (1, 2, 3)


def names(op: str):
    return kernel_params.names(emulated(op))


def each(op: str, cases):
    return kernel_params.each(emulated(op), cases)


def test_every_op_has_kernels_for_both_lane_counts():
    for op in ("prefill", "backward", "decode", "pages", "merge", "page_write"):
        targets = {(k.target, k.dtype) for k in emulated(op)}
        for target in ("sm_80", "gfx90a"):
            for dtype in ("float32", "float16", "bfloat16"):
                assert (target, dtype) in targets


@pytest.mark.parametrize(("kernel", "case"), each("prefill", EMULATED_FORWARD))
def test_forward(kernel, case):
    with emulator(seed=1):
        check_forward(case, kernel=kernel)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_forward_over_many_tiles(kernel):
    with emulator(seed=2):
        check_forward(
            of_width(kernel, sq=150, sk=280, h=2, hk=1, mask=causal()), kernel=kernel.name
        )
        check_forward(of_width(kernel, sq=140, sk=300, mask=window(40, 9)), kernel=kernel.name)


@pytest.mark.parametrize(("kernel", "case"), each("backward", EMULATED_FORWARD))
def test_backward(kernel, case):
    with emulator(seed=1):
        check_backward(case, with_lse=True, kernel=kernel)


@pytest.mark.parametrize("kernel", names("backward"))
def test_backward_over_many_tiles(kernel):
    with emulator(seed=2):
        case = of_width(kernel, sq=150, sk=140, h=2, hk=1, mask=causal(), softcap=3.0)
        check_backward(case, kernel=kernel.name)


@pytest.mark.parametrize(("kernel", "case"), each("decode", EMULATED_DECODE))
def test_decode(kernel, case):
    with emulator(seed=1):
        check_decode(case, kernel=kernel)


@pytest.mark.parametrize("kernel", names("decode"))
def test_decode_in_parts(kernel):
    case = DecodeCase(
        lengths=(1100, 3), s=3, h=8, hk=2, d=kernel.max_head_dim, page=32, dtype=kernel.dtype
    )
    with emulator(seed=2):
        check_decode(case, kernel=kernel.name)


@pytest.mark.parametrize(("kernel", "case"), each("prefill", EMPTY))
def test_empty_forward(kernel, case):
    with emulator():
        check_forward(case, kernel=kernel)


@pytest.mark.parametrize(("kernel", "case"), each("backward", EMPTY))
def test_empty_backward(kernel, case):
    with emulator():
        check_backward(case, with_lse=True, kernel=kernel)


def call_of(kernel):
    """A call whose work is cut among several blocks, and whose parts are then put together."""
    name = kernel.name
    if kernel.op == "decode":
        case = DecodeCase(
            lengths=(600, 40), h=4, hk=2, d=kernel.max_head_dim, page=32, dtype=kernel.dtype
        )
        inputs = case.make()
        return lambda: run_decode(case, inputs, name)
    if kernel.op == "merge":
        o, lse = merge_inputs((1, 9, 2, 24), getattr(torch, kernel.dtype))
        return lambda: wl.merge_states(o, lse, kernel=name)
    case = of_width(kernel, sq=40, sk=70, h=2, hk=1, mask=window(30, 0))
    if kernel.op == "prefill":
        return lambda: run_forward(case, kernel=name)
    x, o, lse, grad_lse = backward_inputs(case, with_lse=True)
    return lambda: run_backward(case, x, o, lse, grad_lse, name)


@pytest.mark.parametrize(
    "kernel", names("prefill") + names("backward") + names("decode") + names("merge")
)
def test_every_order_of_threads_gives_the_same_bits(kernel):
    call, results = call_of(kernel), []
    for seed in SEEDS:
        with emulator(seed=seed):
            results.append(call())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_nan_shows_in_its_column_for_those_who_see_it(kernel):
    with emulator():
        gpu_checks.nan_shows_in_its_column(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("sign", [1, -1])
def test_infinity_keeps_its_sign(kernel, sign):
    with emulator():
        gpu_checks.infinity_keeps_its_sign(kernel, "cpu", sign)


def _infinite_keys(k: torch.Tensor, some: int, one: int):
    """All scores -inf; some of them; one +inf; one +inf among finite ones and -inf."""
    lowest, first, single, both = (k.clone() for _ in range(4))
    lowest[:] = -torch.inf
    first[:, :some] = -torch.inf
    single[:, one] = torch.inf
    both[:, :some], both[:, one] = -torch.inf, torch.inf
    return lowest, first, single, both


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("mask", [full(), window(20, 0)], ids=["full", "window"])
def test_infinite_scores_act_as_in_the_formula(kernel, mask):
    """All -inf: NaN. One +inf: NaN, and an lse of +inf. A row that sees nothing: 0 all the same."""
    case = AttentionCase(sq=150, sk=140, h=1, d=8, mask=mask, dtype=kernel.dtype)
    x = case.make()
    q = x.q.abs() + 0.5
    for k in _infinite_keys(x.k, some=100, one=110):
        with emulator(seed=1):
            check_forward(case, dataclasses.replace(x, q=q, k=k), kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("decode"))
@pytest.mark.parametrize("length", [70, 600], ids=["one part", "split"])
def test_infinite_scores_act_as_in_the_formula_while_decoding(kernel, length):
    case = DecodeCase(lengths=(length, length - 30), h=4, hk=2, d=8, dtype=kernel.dtype)
    x = case.make()
    q = x.q.abs() + 0.5
    for k in _infinite_keys(x.k_cache, some=length - 60, one=length - 40):
        with emulator(seed=1):
            check_decode(case, dataclasses.replace(x, q=q, k_cache=k), kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("backward"))
def test_gradients_ignore_what_is_hidden(kernel):
    with emulator():
        gpu_checks.gradients_ignore_what_is_hidden(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("prefill"))
def test_any_alignment_and_strides(kernel):
    with emulator():
        gpu_checks.any_alignment_and_strides(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("offsets", gpu_checks.BAD_OFFSETS, ids=str)
def test_bad_offsets_poison_the_output_and_are_named(kernel, offsets):
    with emulator(seed=3):
        gpu_checks.bad_offsets_poison_the_output(kernel, "cpu", offsets)


@pytest.mark.parametrize("kernel", names("backward"))
def test_bad_offsets_poison_the_gradients(kernel):
    with emulator():
        gpu_checks.bad_offsets_poison_the_gradients(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("decode"))
def test_bad_lengths_and_pages_poison_their_sequence_alone(kernel):
    with emulator(seed=2):
        gpu_checks.bad_lengths_and_pages_poison_their_sequence(kernel, "cpu")


CHECKED = names("prefill") + names("backward") + names("decode") + names("page_write")


@pytest.mark.parametrize("kernel", CHECKED)
def test_bad_values_are_refused_before_the_call_where_it_checks(kernel):
    with emulator():
        gpu_checks.bad_values_are_refused_before_the_call(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("decode"))
def test_good_values_pass_the_check(kernel):
    with emulator():
        gpu_checks.good_values_pass_the_check(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("merge"))
def test_merge(kernel):
    with emulator(seed=4):
        gpu_checks.merge(kernel, "cpu")


@pytest.mark.parametrize("kernel", names("merge"))
def test_too_many_parts_are_refused(kernel):
    o, lse = torch.zeros(1, 1, 1, 8, dtype=getattr(torch, kernel.dtype)), torch.zeros(1, 1, 1)
    with emulator(), pytest.raises(ValueError, match="parts is 33"):
        wl.merge_states([o] * 33, [lse] * 33, kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("page_write"))
@pytest.mark.parametrize("d", [24, 5])
def test_page_write(kernel, d):
    with emulator():
        gpu_checks.page_write(kernel, "cpu", d)
