"""The GPU kernels of attention to quantized pages, run by the checking emulator."""

from __future__ import annotations

from dataclasses import replace

import gpu_pages_checks as checks
import kernel_params
import pytest
import torch
from kernel_params import emulated
from test_attention_pages import CASES, CONTROLS

from warploom.testing.attention_pages import PagesCase, expected_pages, match_pages
from warploom.testing.emulator import emulator

KERNELS = emulated("pages")
each_kernel = pytest.mark.parametrize("kernel", kernel_params.names(KERNELS))
# One of each loop, for what does not depend on the head dim.
SOME = [k for k in KERNELS if "_d64_" in k.name or "plain" in k.name]
each_loop = pytest.mark.parametrize("kernel", kernel_params.names(SOME))


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        pytest.param(kernel, case, id=f"{kernel.name}-{case}")
        for kernel in KERNELS
        for case in (checks.of(case, kernel) for case in CASES)
        if max(case.d, case.value_dim) <= kernel.max_head_dim
        # The wider tiles of the same loop see what fills them.
        if "plain" in kernel.name or 2 * max(case.d, case.value_dim) > kernel.max_head_dim
    ],
)
def test_cases(kernel, case):
    with emulator(seed=1):
        checks.check(kernel, "cpu", case)


@each_kernel
@pytest.mark.parametrize("width", [16, 8, 4, 2])
def test_one_width(kernel, width):
    with emulator(seed=2):
        checks.one_width(kernel, "cpu", width)


@each_loop
def test_every_order_of_threads_gives_the_same_bits(kernel):
    case = PagesCase(lengths=(700, 40), h=4, hk=2, d=64, page=32)
    case, results = checks.of(case, kernel), []
    for seed in (1, 2, 3):
        with emulator(seed):
            results.append(checks.run(kernel, "cpu", case))
    assert checks.same(results[0], results[1])
    assert checks.same(results[0], results[2])


@each_loop
@pytest.mark.parametrize("name", CONTROLS)
def test_wrong_results_are_found(kernel, name):
    case = checks.of(PagesCase(lengths=(192, 128), h=4, hk=2, d=64, widths=(8, 4, 2)), kernel)
    x = case.make()
    expected = expected_pages(case, x)
    with emulator():
        if CONTROLS[name] is None:
            found = tuple(torch.zeros_like(t) for t in checks.run(kernel, "cpu", case, x))
        else:
            pages = replace(x.pages, **CONTROLS[name](x.pages))
            found = checks.run(kernel, "cpu", case, replace(x, pages=pages))
    with pytest.raises(AssertionError):
        match_pages(found, expected)


@each_loop
def test_both_precisions_are_one(kernel):
    with emulator():
        checks.both_precisions_are_one(kernel, "cpu")


@each_loop
def test_hidden_positions_may_hold_anything(kernel):
    with emulator():
        checks.hidden_positions_may_hold_anything(kernel, "cpu")


@each_loop
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_query_that_is_not_finite_spoils_its_row_alone(kernel, value):
    with emulator():
        checks.a_query_that_is_not_finite_spoils_its_row_alone(kernel, "cpu", value)


@each_loop
def test_constant_groups(kernel):
    with emulator():
        checks.constant_groups(kernel, "cpu")


@each_loop
def test_nothing_to_do(kernel):
    with emulator():
        checks.nothing_to_do(kernel, "cpu")


@each_loop
def test_rows_that_see_nothing(kernel):
    with emulator():
        checks.rows_that_see_nothing(kernel, "cpu")


@each_kernel
def test_bad_values_poison_their_sequence_alone(kernel):
    with emulator(seed=3):
        checks.bad_values_poison_their_sequence_alone(kernel, "cpu")
