"""Random shapes, and the small ops against their oracles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_params import cpu_kernels, names

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

DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])
SIDES = st.integers(-1, 40)
QUICK = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@st.composite
def attention_cases(draw):
    hk = draw(st.integers(1, 3))
    shape = {
        "h": hk * draw(st.integers(1, 3)),
        "hk": hk,
        "d": draw(st.integers(1, 140)),
        "dv": draw(st.integers(1, 140)),
        "dtype": draw(DTYPES),
        "mask": Mask(draw(SIDES), draw(SIDES)),
        "softcap": draw(st.sampled_from([None, 3.0])),
    }
    lengths = st.integers(0, 90)
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


@QUICK
@given(st.data())
def test_decode(data):
    s, hk = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    check_decode(
        DecodeCase(
            lengths=tuple(data.draw(st.lists(st.integers(s, 200), min_size=1, max_size=3))),
            s=s,
            h=hk * data.draw(st.integers(1, 5)),
            hk=hk,
            d=data.draw(st.integers(1, 140)),
            dv=data.draw(st.integers(1, 140)),
            page=data.draw(st.sampled_from([None, 1, 5, 16])),
            dtype=data.draw(DTYPES),
            mask=Mask(data.draw(SIDES), data.draw(SIDES)),
        )
    )


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
