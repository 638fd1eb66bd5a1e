"""The same bits from call to call, for any number of threads, and from several at once."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from kernel_params import cpu_kernels, emulated, names

import warploom as wl
from warploom.mask import causal
from warploom.testing.attention import (
    merge_inputs,
    run_backward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.emulator import emulator

CASE = AttentionCase(b=2, sq=1100, sk=600, h=3, hk=1, d=72, mask=causal())
DECODE = DecodeCase(lengths=(700, 33, 1), h=6, hk=2, d=64, page=32)
OPS = ("prefill", "backward", "decode", "merge")


def best(op: str):
    """The kernels that calls without a name would run."""
    kernels = [kernel for kernel in cpu_kernels(op) if kernel.available]
    score = max(kernel.score for kernel in kernels)
    return [kernel for kernel in kernels if kernel.score == score]


def assert_same(results):
    first, *others = results
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a, b)


def call_of(kernel, forward=CASE, decode=DECODE, seed=0):
    """A call of the kernel on inputs of its own."""
    dtype, name = kernel.dtype, kernel.name
    if kernel.op == "merge":
        o, lse = merge_inputs((2, 50 + seed, 3, 40), getattr(torch, dtype))
        return lambda: wl.merge_states(o, lse, kernel=name)
    if kernel.op == "decode":
        case = dataclasses.replace(decode, dtype=dtype)
        inputs = case.make(seed=seed)
        return lambda: run_decode(case, inputs, name)
    case = dataclasses.replace(forward, dtype=dtype)
    x = case.make(seed=seed)
    if kernel.op == "prefill":
        return lambda: run_forward(case, x, name)
    o, lse = run_forward(case, x)
    return lambda: run_backward(case, x, o, lse, lse, name)


@pytest.mark.parametrize("kernel", names(kernel for op in OPS for kernel in cpu_kernels(op)))
def test_calls_repeat_bitwise_for_any_number_of_threads(kernel):
    call = call_of(kernel)
    results = []
    for threads in (2, 2, 1, 3):
        torch.set_num_threads(threads)
        results.append(call())
    assert_same(results)


def at_once(calls, repeats):
    """What each call returned last, in Python threads that start together."""
    start = Barrier(len(calls))

    def work(call):
        start.wait(timeout=60)
        return [call() for _ in range(repeats)][-1]

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(work, calls))


def test_python_threads_may_call_every_op_at_once():
    forward = AttentionCase(sq=60, h=2, d=32, mask=causal())
    decode = DecodeCase(lengths=(130, 33), h=4, hk=2, d=64, page=32)
    calls = [
        call_of(kernel, forward, decode, seed)
        for op in OPS
        for kernel in best(op)
        for seed in (0, 1)
    ]
    expected = [call() for call in calls]
    for found, one in zip(at_once(calls, repeats=20), expected, strict=True):
        assert_same([found, one])


def test_python_threads_may_emulate_at_once():
    """The emulator runs one launch at a time: threads wait, and see their own results."""
    forward = AttentionCase(sq=33, h=2, d=64, mask=causal())
    decode = DecodeCase(lengths=(40, 7), h=4, hk=2, d=64, page=16)

    def emulating(call):
        def work():
            with emulator(seed=1):
                return call()

        return work

    kernels = [
        next(kernel for kernel in emulated(op) if (kernel.target, kernel.dtype) == (target, dtype))
        for op in OPS
        for target, dtype in (("sm_80", "bfloat16"), ("gfx90a", "float32"))
    ]
    calls = [emulating(call_of(kernel, forward, decode)) for kernel in kernels]
    expected = [call() for call in calls]
    for found, one in zip(at_once(calls, repeats=3), expected, strict=True):
        assert_same([found, one])


def test_a_thread_that_emulates_leaves_the_others_on_the_cpu():
    kernel = emulated("prefill")[0]
    forward = AttentionCase(sq=20, d=kernel.max_head_dim, dtype=kernel.dtype)
    call = call_of(kernel, forward)
    with emulator(), ThreadPoolExecutor(1) as pool:
        call()
        with pytest.raises(NotImplementedError, match=kernel.name):
            pool.submit(call).result()
