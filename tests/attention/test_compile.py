"""The ops under ``torch.compile``: whole graphs, generated code, shapes that change."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import warploom as wl
from warploom import reference
from warploom.mask import causal, window
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.compare import assert_matches

# inductor writes C++ and compiles it; aot_eager traces in the same way and runs torch's own ops.
BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++"),
    ),
]

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model, backend, **options):
    """The model as one graph, and a count of its compilations."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, fullgraph=True, backend=counter, **options), counter


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def qkv(**shape):
    return list(AttentionCase(**{"b": 2, "h": 4, "hk": 2, "d": 8, **shape}).make().qkv)


def test_every_op_in_one_graph_with_dynamic_shapes(backend):
    def model(q, k, v, lengths, slots, pages):
        o, lse = wl.attention(q * 2, k, v, mask=causal(), return_lse=True)
        o, lse = wl.merge_states([o, o * 2], [lse, lse + 1])
        k_pages, v_pages = pages.clone(), pages.clone()
        wl.page_write(k_pages, v_pages, k[0], v[0], slots)
        decoded = wl.attention_decode(q[:, -1:], k_pages[:2, :4], v_pages[:2, :4], lengths)
        return o, lse, decoded + 1

    fast, counter = compiled(model, backend, dynamic=True)
    lengths = torch.tensor([2, 4], dtype=torch.int32)
    pages = torch.randn(3, 4, 2, 8)
    for s in (5, 6, 9):
        arguments = [*qkv(sq=s), lengths, torch.arange(s), pages]
        assert_same(fast(*arguments), model(*arguments))
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients(backend, dtype):
    def model(q, k, v):
        o, lse = wl.attention(q * 0.5, k, v, mask=window(2, 0), return_lse=True)
        return o.float().square().sum() + lse.sum()

    tensors = [t.requires_grad_() for t in qkv(sq=7, dtype=dtype)]
    expected = torch.autograd.grad(model(*tensors), tensors)
    fast, _ = compiled(model, backend)
    assert_same(torch.autograd.grad(fast(*tensors), tensors), expected)


def test_ragged_gradients_for_any_number_of_tokens_and_sequences(backend):
    """Marked dynamic, so that one graph serves every batch."""

    def model(q, k, v, offsets):
        o, lse = wl.attention_varlen(
            q, k, v, offsets, offsets, mask=causal(), max_seqlen=64, return_lse=True
        )
        return o.square().sum() + lse.sum()

    fast, counter = compiled(model, backend)
    for lengths in ((3, 0, 5), (17, 4, 2, 9), (1, 40)):
        x = AttentionCase(lengths_q=lengths, h=4, hk=2, d=8, mask=causal()).make()
        tensors = [t.requires_grad_() for t in x.qkv]
        expected = torch.autograd.grad(model(*tensors, x.cu_seqlens_q), tensors)
        for t in (*tensors, x.cu_seqlens_q):
            torch._dynamo.mark_dynamic(t, 0)
        assert_same(torch.autograd.grad(fast(*tensors, x.cu_seqlens_q), tensors), expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("page", [None, 4])
def test_decode_with_a_growing_batch_and_cache(backend, page):
    def model(q, k_cache, v_cache, lengths, table):
        o, lse = wl.attention_decode(
            q + 0.5, k_cache, v_cache, lengths, page_table=table, return_lse=True
        )
        return o * 2, lse

    fast, counter = compiled(model, backend, dynamic=True)
    for lengths in ((5, 9, 7), (12, 3, 20, 2, 6)):
        x = DecodeCase(lengths=lengths, s=2, h=4, hk=2, d=8, page=page).make()
        arguments = (x.q, x.k_cache, x.v_cache, x.lengths, x.page_table)
        assert_same(fast(*arguments), model(*arguments))
    assert counter.frame_count == 1


def test_merging_with_gradients(backend):
    """By the rule: what inductor writes for the code around the op rounds in its own way."""

    def model(o, lse, merge=wl.merge_states):
        merged, total = merge([o, o.flip(1)], [lse, lse.flip(2)])
        return merged.square().sum() + total.sin().sum()

    def exact(tensors):
        return torch.autograd.grad(model(*tensors, merge=reference.merge_states), tensors)

    o, lse = wl.attention(*qkv(sq=6), return_lse=True)
    tensors = [t.requires_grad_() for t in (o, lse)]
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    fast, _ = compiled(model, backend)
    found = torch.autograd.grad(fast(*tensors), tensors)
    for a, b, c in zip(found, exact(doubles), exact(tensors), strict=True):
        assert_matches("gradient", a, b, c)
