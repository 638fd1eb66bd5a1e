"""The kernels for 64-bit Arm, run by qemu, on the cases and by the rule of every other kernel.

``make check-aarch64`` compiles them and runs this. On an Arm machine they are the kernels that all
other tests run.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import kernel_params
import pytest
import torch
from attention_cases import DECODE, EMPTY, FORWARD
from served import Served

from warploom import reference
from warploom.kernels import list_kernels
from warploom.mask import window
from warploom.testing.attention import (
    backward_inputs,
    match_backward,
    match_decode,
    match_forward,
    match_merge,
    merge_inputs,
)
from warploom.testing.cases import AttentionCase, DecodeCase

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / os.environ.get("WARPLOOM_TEST_BUILD", "build/cpu") / "attention_serve"
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

if not PROGRAM.exists():
    pytest.skip("cpu_aarch64 is built and run by `make check-aarch64`", allow_module_level=True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arm():
    assert QEMU, "qemu-aarch64 is not found: apt-get install qemu-user"
    with Served([QEMU, "-L", "/usr/aarch64-linux-gnu", str(PROGRAM)]) as library:
        yield library


def kernels(op: str):
    return [k for k in list_kernels() if k.op == op and k.target == "cpu_aarch64"]


def names(op: str):
    return [pytest.param(kernel, id=kernel.name) for kernel in kernels(op)]


def each(op: str, cases):
    return kernel_params.each(kernels(op), cases)


@pytest.mark.parametrize(("kernel", "case"), each("prefill", FORWARD + EMPTY))
def test_forward(arm, kernel, case):
    match_forward(case, arm.forward(case, case.make(), kernel))


@pytest.mark.parametrize(("kernel", "case"), each("backward", FORWARD + EMPTY))
def test_backward(arm, kernel, case):
    x, o, lse, grad_lse = backward_inputs(case, with_lse=True)
    match_backward(case, arm.backward(case, x, o, lse, grad_lse, kernel), with_lse=True)


@pytest.mark.parametrize(("kernel", "case"), each("decode", DECODE))
def test_decode(arm, kernel, case):
    x = case.make()
    match_decode(case, arm.decode(case, x, kernel), x)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_nan_shows_where_it_is_seen_and_nowhere_else(arm, kernel):
    case = AttentionCase(sq=150, sk=150, h=2, d=64, mask=window(20, 0), dtype=kernel.dtype)
    x = case.make()
    k, v = x.k.clone(), x.v.clone()
    k[:, 70] = v[:, 70] = torch.nan
    x = dataclasses.replace(x, k=k, v=v)
    match_forward(case, arm.forward(case, x, kernel.name), x)


@pytest.mark.parametrize("kernel", names("decode"))
def test_decode_reads_nothing_past_the_lengths(arm, kernel):
    case = DecodeCase(lengths=(40, 3), h=4, hk=2, d=64, capacity=64, dtype=kernel.dtype)
    x = case.make()
    for n, length in enumerate(case.lengths):
        x.k_cache[n, length:] = x.v_cache[n, length:] = torch.nan
    match_decode(case, arm.decode(case, x, kernel.name), x)


@pytest.mark.parametrize("kernel", names("merge"))
def test_merge(arm, kernel):
    o, lse = merge_inputs((2, 7, 3, 40), getattr(torch, kernel.dtype))
    match_merge(arm.merge(o, lse, kernel.name), o, lse)


@pytest.mark.parametrize("kernel", names("page_write"))
def test_page_write(arm, kernel):
    dtype = getattr(torch, kernel.dtype)
    k, v = torch.randn(70, 3, 20).to(dtype), torch.randn(70, 3, 9).to(dtype)
    slots = torch.randperm(96)[:70]
    slots[5] = -1
    pages = [torch.zeros(12, 8, 3, 20, dtype=dtype), torch.zeros(12, 8, 3, 9, dtype=dtype)]
    found = arm.page_write(*pages, k, v, slots, kernel.name)
    reference.page_write(*pages, k, v, slots)
    for a, b in zip(found, pages, strict=True):
        assert torch.equal(a, b)


def test_arguments_are_refused_with_a_reason(arm):
    case = AttentionCase(sq=3, d=8)
    with pytest.raises(RuntimeError, match="nothing_like_it"):
        arm.forward(case, case.make(), "nothing_like_it")
