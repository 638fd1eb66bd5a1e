"""Random shapes, and the small ops against their oracles."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_params import cpu_kernels, emulated, names

import warploom as wl
from warploom import reference
from warploom.mask import Mask
from warploom.testing.attention import (
    check_backward,
    check_decode,
    check_forward,
    match_merge,
    merge_inputs,
)
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.emulator import emulator

DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])
SIDES = st.integers(-1, 40)
QUICK = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@st.composite
def attention_cases(draw, longest=90, widest=140):
    hk = draw(st.integers(1, 3))
    shape = {
        "h": hk * draw(st.integers(1, 3)),
        "hk": hk,
        "d": draw(st.integers(1, widest)),
        "dv": draw(st.integers(1, widest)),
        "dtype": draw(DTYPES),
        "mask": Mask(draw(SIDES), draw(SIDES)),
        "softcap": draw(st.sampled_from([None, 3.0])),
    }
    lengths = st.integers(0, longest)
    if draw(st.booleans()):
        pairs = draw(st.lists(st.tuples(lengths, lengths), min_size=1, max_size=4))
        lengths_q, lengths_k = zip(*pairs, strict=True)
        return AttentionCase(lengths_q=lengths_q, lengths_k=lengths_k, **shape)
    return AttentionCase(b=draw(st.integers(1, 2)), sq=draw(lengths), sk=draw(lengths), **shape)


@QUICK
@given(attention_cases())
def test_forward(case):
    check_forward(case)


@QUICK
@given(attention_cases(), st.booleans())
def test_backward(case, with_lse):
    check_backward(case, with_lse)


@st.composite
def decode_cases(draw, longest=200, widest=140):
    s, hk = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return DecodeCase(
        lengths=tuple(draw(st.lists(st.integers(s, longest), min_size=1, max_size=3))),
        s=s,
        h=hk * draw(st.integers(1, 5)),
        hk=hk,
        d=draw(st.integers(1, widest)),
        dv=draw(st.integers(1, widest)),
        page=draw(st.sampled_from([None, 1, 5, 16])),
        dtype=draw(DTYPES),
        mask=Mask(draw(SIDES), draw(SIDES)),
    )


@QUICK
@given(decode_cases())
def test_decode(case):
    check_decode(case)


@st.composite
def emulated_cases(draw, op, cases, **sizes):
    """A GPU kernel, a case of its dtype that is narrow enough, and an order of its threads."""
    kernel = draw(st.sampled_from(emulated(op)))
    widest = min(kernel.max_head_dim, 140)
    case = dataclasses.replace(draw(cases(widest=widest, **sizes)), dtype=kernel.dtype)
    return kernel.name, case, draw(st.integers(0, 1000))


@QUICK
@given(st.deferred(lambda: emulated_cases("prefill", attention_cases, longest=50)))
def test_emulated_forward(drawn):
    kernel, case, seed = drawn
    with emulator(seed=seed):
        check_forward(case, kernel=kernel)


@QUICK
@given(st.deferred(lambda: emulated_cases("backward", attention_cases, longest=30)), st.booleans())
def test_emulated_backward(drawn, with_lse):
    kernel, case, seed = drawn
    with emulator(seed=seed):
        check_backward(case, with_lse, kernel=kernel)


@QUICK
@given(st.deferred(lambda: emulated_cases("decode", decode_cases, longest=120)))
def test_emulated_decode(drawn):
    kernel, case, seed = drawn
    with emulator(seed=seed):
        check_decode(case, kernel=kernel)


@pytest.mark.parametrize("kernel", names(cpu_kernels("merge")))
@pytest.mark.parametrize("shape", [(2, 7, 3, 40), (9, 2, 17), (1, 0, 2, 8), (1, 1, 1, 1)])
def test_merge(kernel, shape):
    o, lse = merge_inputs(shape, getattr(torch, kernel.dtype))
    match_merge(wl.merge_states(o, lse, kernel=kernel.name), o, lse)


@pytest.mark.parametrize("kernel", names(cpu_kernels("page_write")))
def test_page_write(kernel):
    dtype = getattr(torch, kernel.dtype)
    k, v = torch.randn(70, 3, 20).to(dtype), torch.randn(70, 3, 9).to(dtype)
    slots = torch.randperm(96)[:70]
    slots[5] = -1
    found = [torch.zeros(12, 8, 3, 20, dtype=dtype), torch.zeros(12, 8, 3, 9, dtype=dtype)]
    expected = [t.clone() for t in found]
    wl.page_write(*found, k, v, slots, kernel=kernel.name)
    reference.page_write(*expected, k, v, slots)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
