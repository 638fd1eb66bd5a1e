"""What every GPU kernel must do with values, wherever it runs: emulated, or on a device.

Each function takes a kernel of list_kernels() and the device of the tensors, "cpu" in the emulator,
and raises AssertionError.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

import warploom as wl
from warploom.mask import causal, window
from warploom.testing.attention import (
    check_forward,
    match_merge,
    merge_inputs,
    run_backward,
    run_decode,
    run_forward,
)
from warploom.testing.cases import AttentionCase, DecodeCase


def of_width(kernel, **sizes) -> AttentionCase:
    """A case of the kernel's own head dim and dtype."""
    return AttentionCase(d=kernel.max_head_dim, dtype=kernel.dtype, **sizes)


def dtype_of(kernel) -> torch.dtype:
    return getattr(torch, kernel.dtype)


def _with_nan(case: AttentionCase, device: str, keys: slice, column: int | slice):
    x = case.make(device)
    v = x.v.clone()
    v[:, keys, :, column] = torch.nan
    return dataclasses.replace(x, v=v)


def nan_shows_in_its_column(kernel, device):
    case = of_width(kernel, sq=40, sk=40, mask=window(12, 0))
    o, lse = check_forward(case, _with_nan(case, device, slice(10, 11), 5), kernel=kernel.name)
    assert o.isnan().sum() == 13
    assert o[0, 10:23, 0, 5].isnan().all()
    assert not lse.isnan().any()


def infinity_keeps_its_sign(kernel, device, sign):
    case = of_width(kernel, sq=20, sk=20, mask=causal())
    x = case.make(device)
    v = x.v.clone()
    v[0, 7, 0, 3] = sign * torch.inf
    o, _ = run_forward(case, dataclasses.replace(x, v=v), kernel=kernel.name)
    assert (o[0, 7:, 0, 3] == sign * torch.inf).all()
    assert o.isfinite().sum() == o.numel() - 13


def gradients_ignore_what_is_hidden(kernel, device):
    case = of_width(kernel, sq=70, sk=70, mask=window(12, 0))
    x = case.make(device)
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


def any_alignment_and_strides(kernel, device):
    d = kernel.max_head_dim
    packed = torch.randn(2, 30, 3, 2, d + 3, device=device).to(dtype_of(kernel))
    q, k, v = packed[:, :, 0, :, 1 : d + 1], packed[:, :, 1, :, 2 : d + 2], packed[:, :, 2, :, :d]
    o, lse = wl.attention(q, k, v, return_lse=True, kernel=kernel.name)
    same = wl.attention(*(t.contiguous() for t in (q, k, v)), return_lse=True, kernel=kernel.name)
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


def bad_offsets_poison_the_output(kernel, device, offsets):
    x = torch.randn(9, 2, 8, device=device).to(dtype_of(kernel))
    good = torch.tensor([0, 5, 5, 9], dtype=torch.int32, device=device)
    bad = torch.tensor(offsets, dtype=torch.int32, device=device)
    for name, pair in (("cu_seqlens_q", (bad, good)), ("cu_seqlens_k", (good, bad))):
        o, lse = wl.attention_varlen(
            x, x, x, *pair, max_seqlen=6, return_lse=True, kernel=kernel.name
        )
        assert o.isnan().all()
        assert lse.isnan().all()
        with pytest.raises(wl.DeviceError, match=rf"{name}\[\d\]: offsets must rise"):
            wl.check()
        wl.check()  # told once


def bad_offsets_poison_the_gradients(kernel, device):
    case = AttentionCase(lengths_q=(5, 4), h=2, d=8, dtype=kernel.dtype)
    x = case.make(device)
    offsets = torch.tensor([0, 7, 5], dtype=torch.int32, device=device)
    bad = dataclasses.replace(x, cu_seqlens_k=offsets)
    lse = torch.zeros(2, 9, device=device)
    gradients = run_backward(case, bad, x.q, lse, kernel=kernel.name)
    assert all(g.isnan().all() for g in gradients)
    with pytest.raises(wl.DeviceError, match="cu_seqlens_k"):
        wl.check()


def bad_lengths_and_pages_poison_their_sequence(kernel, device):
    case = DecodeCase(lengths=(40, 40), h=4, hk=2, d=64, page=16, dtype=kernel.dtype)
    x = case.make(device)
    table, lengths = x.page_table.clone(), x.lengths.clone()
    table[1, 1] = x.k_cache.shape[0]
    lengths[1] = table.shape[1] * 16 + 1
    bad_page = dataclasses.replace(x, page_table=table)
    bad_length = dataclasses.replace(x, lengths=lengths)
    for name, inputs in (("page_table", bad_page), ("lengths", bad_length)):
        good, _ = run_decode(case, x, kernel=kernel.name)
        o, lse = run_decode(case, inputs, kernel=kernel.name)
        assert o[1].isnan().all()  # and waits for the kernel
        assert lse[1].isnan().all()
        assert torch.equal(o[0], good[0])
        with pytest.raises(wl.DeviceError, match=rf"{name}\[1\]: "):
            run_decode(case, x, kernel=kernel.name)  # the next call tells


def _wrong_calls(op, dtype, device):
    """Calls of one bad value each, which take a kernel's name (None: the best) and ``check``."""

    def ints(*values, dtype=torch.int32):
        return torch.tensor(values, dtype=dtype, device=device)

    rows, lse = torch.zeros(9, 2, 8, dtype=dtype, device=device), torch.zeros(2, 9, device=device)
    good = ints(0, 5, 5, 9)
    for offsets in BAD_OFFSETS if op in ("prefill", "backward") else []:
        for pair in ((ints(*offsets), good), (good, ints(*offsets))):
            if op == "prefill":
                yield lambda kernel, check, pair=pair: wl.attention_varlen(
                    rows, rows, rows, *pair, max_seqlen=6, kernel=kernel, check=check
                )
            else:
                yield lambda kernel, check, pair=pair: torch.ops.warploom.attention_backward(
                    rows, None, rows, rows, rows, rows, lse, -1, -1, None, None, kernel, check,
                    *pair, 6,
                )  # fmt: skip
    step, cache = torch.zeros(2, 3, 4, 8, dtype=dtype, device=device), rows[:8].view(2, 4, 2, 8)
    table, wild = ints(0, 1, 1, 0).view(2, 2), ints(0, 1, 1, 2).view(2, 2)
    decodes = [
        (ints(3, 5),), (ints(2, 4),), (ints(-1, 4),), (ints(3, 9), table), (ints(3, 5), wild),
        (ints(3, 5), -table),
    ]  # fmt: skip
    for arguments in decodes if op == "decode" else []:
        yield lambda kernel, check, arguments=arguments: wl.attention_decode(
            step, cache, cache, *arguments, kernel=kernel, check=check
        )
    for slots in ((0, 8, 1), (0, -2, 1), (0, 1, 2**40)) if op == "page_write" else []:
        yield lambda kernel, check, slots=slots: wl.page_write(
            cache, cache, rows[:3], rows[:3], ints(*slots, dtype=torch.int64), kernel, check
        )


def bad_values_are_refused_before_the_call(kernel, device):
    """With check=True, by the sentence that the CPU has for them; the kernel does not run."""
    elsewhere = _wrong_calls(kernel.op, dtype_of(kernel), "cpu")
    count = 0
    for call, same in zip(
        _wrong_calls(kernel.op, dtype_of(kernel), device), elsewhere, strict=True
    ):
        with pytest.raises(ValueError, match=r"\d") as expected:
            same(None, None)
        with pytest.raises(ValueError, match=r"\d") as found:
            call(kernel.name, True)
        assert str(found.value) == str(expected.value)
        wl.check()
        count += 1
    assert count >= 3


def good_values_pass_the_check(kernel, device):
    case = DecodeCase(lengths=(40, 17), h=4, hk=2, d=8, page=16, dtype=kernel.dtype)
    x = case.make(device)
    assert (x.page_table == -1).any()  # past the shorter length: never looked at
    tensors = (x.q, x.k_cache, x.v_cache, x.lengths, x.page_table)
    found = wl.attention_decode(*tensors, kernel=kernel.name, check=True)
    assert torch.equal(found, wl.attention_decode(*tensors, kernel=kernel.name))


def merge(kernel, device):
    for shape in ((2, 5, 3, 20), (1, 1, 1, 1)):
        o, lse = merge_inputs(shape, dtype_of(kernel), device=device)
        o[1][0] = torch.nan  # absent below, all of it
        lse[1][0] = -torch.inf
        result = wl.merge_states(o, lse, kernel=kernel.name)
        match_merge(result, o, lse)
        assert not result[0][-1, -1, -1].any()


def page_write(kernel, device, d):
    def zeros(width):
        return torch.zeros(4, 8, 2, width, dtype=dtype_of(kernel), device=device)

    def values(width):
        return torch.randn(7, 2, width, device=device).to(dtype_of(kernel))

    k_pages, v_pages, k, v = zeros(d), zeros(16), values(d), values(16)
    slots = torch.tensor([3, -1, 31, 8, 9, 32, 0], device=device)
    wl.page_write(k_pages, v_pages, k, v, slots, kernel=kernel.name)
    with pytest.raises(wl.DeviceError, match=r"slots\[5\]"):
        wl.check()
    written = [0, 2, 3, 4, 6]
    assert torch.equal(k_pages.flatten(0, 1)[slots[written]], k[written])
    assert torch.equal(v_pages.flatten(0, 1)[slots[written]], v[written])
    assert k_pages.count_nonzero() == len(written) * 2 * d
