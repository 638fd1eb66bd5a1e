"""The same bits from call to call, for any number of threads, and from several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import runnable

from warploom.mask import causal
from warploom.testing.attention import run_backward, run_decode, run_forward
from warploom.testing.cases import AttentionCase, DecodeCase

CASE = AttentionCase(b=2, sq=1100, sk=600, h=3, hk=1, d=72, mask=causal())
DECODE = DecodeCase(lengths=(700, 33, 1), h=6, hk=2, d=64, page=32)


def best(op: str):
    """The kernels that calls without a name would run."""
    kernels = runnable(op)
    score = max(kernel.score for kernel in kernels)
    return [pytest.param(k, id=k.name) for k in kernels if k.score == score]


def assert_same(results):
    first, *others = results
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a, b)


def with_threads(call):
    """Twice with 2 threads, then with 1 and 3."""
    results = []
    for threads in (2, 2, 1, 3):
        torch.set_num_threads(threads)
        results.append(call())
    return results


def in_dtype(case, kernel):
    return type(case)(**{**case.__dict__, "dtype": kernel.dtype})


@pytest.mark.parametrize("kernel", best("prefill"))
def test_forward_repeats_bitwise(kernel):
    case = in_dtype(CASE, kernel)
    x = case.make()
    assert_same(with_threads(lambda: run_forward(case, x, kernel.name)))


@pytest.mark.parametrize("kernel", best("backward"))
def test_backward_repeats_bitwise(kernel):
    case = in_dtype(CASE, kernel)
    x = case.make()
    o, lse = run_forward(case, x)
    assert_same(with_threads(lambda: run_backward(case, x, o, lse, lse, kernel.name)))


@pytest.mark.parametrize("kernel", best("decode"))
def test_decode_repeats_bitwise(kernel):
    case = in_dtype(DECODE, kernel)
    x = case.make()
    assert_same(with_threads(lambda: run_decode(case, x, kernel.name)))


def test_python_threads_may_call_at_once():
    cases = [AttentionCase(b=1, sq=40 + n, h=2, d=32, mask=causal()) for n in range(6)]
    inputs = [case.make() for case in cases]
    expected = [run_forward(case, x) for case, x in zip(cases, inputs, strict=True)]

    def work(n):
        for _ in range(20):
            o, lse = run_forward(cases[n], inputs[n])
            run_backward(cases[n], inputs[n], o, lse)
        return o, lse

    with ThreadPoolExecutor(len(cases)) as pool:
        found = list(pool.map(work, range(len(cases))))
    for a, b in zip(found, expected, strict=True):
        assert_same([a, b])
