"""Every GPU kernel, run by the checking emulator: results, guards of values, and empty calls.

A race, a missing barrier, a read of memory that nothing wrote, an access out of bounds or an output
element that no kernel wrote raises DeviceError, so each test here looks for those too.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from attention_cases import EMPTY, EMULATED_DECODE, EMULATED_FORWARD, in_dtype
from conftest import emulated

import warploom as wl
from warploom.mask import causal, window
from warploom.testing.attention import (
    check_backward,
    check_decode,
    check_forward,
    run_backward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase
from warploom.testing.emulator import emulator

SEEDS = (1, 2, 3)


def names(op: str):
    return [pytest.param(kernel, id=kernel.name) for kernel in emulated(op)]


def fits(kernel, case) -> bool:
    return max(case.d, case.dv or case.d) <= kernel.max_head_dim


def each(op: str, cases):
    return [
        pytest.param(kernel.name, case, id=f"{kernel.name}-{case}")
        for kernel in emulated(op)
        for case in in_dtype(cases, kernel.dtype)
        if fits(kernel, case)
    ]


def of_width(kernel, **sizes) -> AttentionCase:
    """A case of the kernel's own head dim and dtype."""
    return AttentionCase(d=kernel.max_head_dim, dtype=kernel.dtype, **sizes)


def test_every_op_has_kernels_for_both_lane_counts():
    for op in ("prefill", "backward", "decode", "merge", "page_write"):
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


@pytest.mark.parametrize("kernel", names("prefill"))
def test_every_order_of_threads_gives_the_same_bits(kernel):
    case = of_width(kernel, sq=40, sk=70, h=2, hk=1, mask=window(30, 0))
    results = []
    for seed in SEEDS:
        with emulator(seed=seed):
            results.append(run_forward(case, kernel=kernel.name))
    for o, lse in results[1:]:
        assert torch.equal(o, results[0][0])
        assert torch.equal(lse, results[0][1])


def _with_nan(case: AttentionCase, keys: slice, column: int | slice):
    x = case.make()
    v = x.v.clone()
    v[:, keys, :, column] = torch.nan
    return dataclasses.replace(x, v=v)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_nan_shows_in_its_column_for_those_who_see_it(kernel):
    case = of_width(kernel, sq=40, sk=40, mask=window(12, 0))
    with emulator():
        o, lse = check_forward(case, _with_nan(case, slice(10, 11), 5), kernel=kernel.name)
    assert o.isnan().sum() == 13
    assert o[0, 10:23, 0, 5].isnan().all()
    assert not lse.isnan().any()


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("sign", [1, -1])
def test_infinity_keeps_its_sign(kernel, sign):
    case = of_width(kernel, sq=20, sk=20, mask=causal())
    x = case.make()
    v = x.v.clone()
    v[0, 7, 0, 3] = sign * torch.inf
    with emulator():
        o, _ = run_forward(case, dataclasses.replace(x, v=v), kernel=kernel.name)
    assert (o[0, 7:, 0, 3] == sign * torch.inf).all()
    assert o.isfinite().sum() == o.numel() - 13


@pytest.mark.parametrize("kernel", names("backward"))
def test_gradients_ignore_what_is_hidden(kernel):
    case = of_width(kernel, sq=70, sk=70, mask=window(12, 0))
    x = case.make()
    with emulator():
        o, lse = wl.reference.attention(*(t.double() for t in x.qkv), case.mask, case.scale)
        o, lse = o.to(x.q.dtype), lse.float()
        clean = run_backward(case, x, o, lse, kernel=kernel.name)
        k, v, grad_o = x.k.clone(), x.v.clone(), x.grad_o.clone()
        k[0, 5], v[0, 5], grad_o[0, 60, 0, 3] = torch.nan, torch.nan, torch.nan
        spoilt = dataclasses.replace(x, k=k, v=v, grad_o=grad_o)
        dq, dk, dv = run_backward(case, spoilt, o, lse, kernel=kernel.name)
    rows = set(range(5, 18)) | {60}
    keys = {5} | set(range(48, 61))
    for gradient, expected, touched in ((dq, clean[0], rows), (dk, clean[1], keys)):
        assert set(gradient[0, :, 0].isnan().any(-1).nonzero().flatten().tolist()) == touched
        rest = [i for i in range(70) if i not in touched]
        assert torch.equal(gradient[0, rest], expected[0, rest])
    assert set(dv[0, 20:, 0].isnan().nonzero()[:, 1].tolist()) == {3}


@pytest.mark.parametrize("kernel", names("prefill"))
def test_any_alignment_and_strides(kernel):
    d = kernel.max_head_dim
    packed = torch.randn(2, 30, 3, 2, d + 3).to(getattr(torch, kernel.dtype))
    q, k, v = packed[:, :, 0, :, 1 : d + 1], packed[:, :, 1, :, 2 : d + 2], packed[:, :, 2, :, :d]
    with emulator():
        o, lse = wl.attention(q, k, v, return_lse=True, kernel=kernel.name)
        same = wl.attention(
            *(t.contiguous() for t in (q, k, v)), return_lse=True, kernel=kernel.name
        )
    assert torch.equal(o, same[0])
    assert torch.equal(lse, same[1])


BAD_OFFSETS = [
    [0, 5, 3, 9],
    [0, 5, 5, 10],
    [0, 5, -3, 9],
    [1, 5, 5, 9],
    [0, 0, 0, 9],
    [0, 2**31 - 1, 0, 9],
]


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("offsets", BAD_OFFSETS, ids=str)
def test_bad_offsets_poison_the_output_and_are_named(kernel, offsets):
    x = torch.randn(9, 2, 8).to(getattr(torch, kernel.dtype))
    good = torch.tensor([0, 5, 5, 9], dtype=torch.int32)
    bad = torch.tensor(offsets, dtype=torch.int32)
    for name, pair in (("cu_seqlens_q", (bad, good)), ("cu_seqlens_k", (good, bad))):
        with emulator(seed=3):
            o, lse = wl.attention_varlen(
                x, x, x, *pair, max_seqlen=6, return_lse=True, kernel=kernel.name
            )
            assert o.isnan().all()
            assert lse.isnan().all()
            with pytest.raises(wl.DeviceError, match=rf"{name}\[\d\]: offsets must rise"):
                wl.check()
            wl.check()  # told once


@pytest.mark.parametrize("kernel", names("backward"))
def test_bad_offsets_poison_the_gradients(kernel):
    case = AttentionCase(lengths_q=(5, 4), h=2, d=8, dtype=kernel.dtype)
    x = case.make()
    bad = dataclasses.replace(x, cu_seqlens_k=torch.tensor([0, 7, 5], dtype=torch.int32))
    with emulator():
        gradients = run_backward(case, bad, x.q, torch.zeros(2, 9), kernel=kernel.name)
        assert all(g.isnan().all() for g in gradients)
        with pytest.raises(wl.DeviceError, match="cu_seqlens_k"):
            wl.check()


@pytest.mark.parametrize("kernel", names("decode"))
def test_bad_lengths_and_pages_poison_their_sequence_alone(kernel):
    case = DecodeCase(lengths=(40, 40), h=4, hk=2, d=64, page=16, dtype=kernel.dtype)
    x = case.make()
    table, lengths = x.page_table.clone(), x.lengths.clone()
    table[1, 1] = x.k_cache.shape[0]
    lengths[1] = table.shape[1] * 16 + 1
    bad_page = dataclasses.replace(x, page_table=table)
    bad_length = dataclasses.replace(x, lengths=lengths)
    for name, inputs in (("page_table", bad_page), ("lengths", bad_length)):
        with emulator(seed=2):
            good, _ = run_decode(case, x, kernel=kernel.name)
            o, lse = run_decode(case, inputs, kernel=kernel.name)
            assert o[1].isnan().all()
            assert lse[1].isnan().all()
            assert torch.equal(o[0], good[0])
            with pytest.raises(wl.DeviceError, match=rf"{name}\[1\]: "):
                run_decode(case, x, kernel=kernel.name)  # the next call tells


@pytest.mark.parametrize("kernel", names("merge"))
def test_merge(kernel):
    dtype = getattr(torch, kernel.dtype)
    o = [torch.randn(2, 5, 3, 20).to(dtype) for _ in range(4)]
    lse = [3 * torch.randn(2, 3, 5) for _ in range(4)]
    o[1][0] = torch.nan  # absent below
    lse[1][0] = -torch.inf
    for part in lse:
        part[1, 1, 2] = -torch.inf
    with emulator(seed=4):
        merged, total = wl.merge_states(o, lse, kernel=kernel.name)
        expected, expected_lse = wl.reference.merge_states([x.double() for x in o], lse)
    assert torch.allclose(total, expected_lse.float(), rtol=1e-6, atol=1e-6)
    assert torch.allclose(merged.double(), expected.double(), atol=torch.finfo(dtype).eps * 4)
    assert not merged[1, 2, 1].any()


@pytest.mark.parametrize("kernel", names("merge"))
def test_too_many_parts_are_refused(kernel):
    o, lse = torch.zeros(1, 1, 1, 8, dtype=getattr(torch, kernel.dtype)), torch.zeros(1, 1, 1)
    with emulator(), pytest.raises(ValueError, match="parts is 33"):
        wl.merge_states([o] * 33, [lse] * 33, kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("page_write"))
@pytest.mark.parametrize("d", [24, 5])
def test_page_write(kernel, d):
    dtype = getattr(torch, kernel.dtype)
    k_pages, v_pages = torch.zeros(4, 8, 2, d, dtype=dtype), torch.zeros(4, 8, 2, 16, dtype=dtype)
    k, v = torch.randn(7, 2, d).to(dtype), torch.randn(7, 2, 16).to(dtype)
    slots = torch.tensor([3, -1, 31, 8, 9, 32, 0])
    with emulator():
        wl.page_write(k_pages, v_pages, k, v, slots, kernel=kernel.name)
        with pytest.raises(wl.DeviceError, match=r"slots\[5\]"):
            wl.check()
    written = [0, 2, 3, 4, 6]
    assert torch.equal(k_pages.flatten(0, 1)[slots[written]], k[written])
    assert torch.equal(v_pages.flatten(0, 1)[slots[written]], v[written])
    assert k_pages.count_nonzero() == len(written) * 2 * d
