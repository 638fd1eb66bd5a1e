"""Every kernel that this machine runs, forced by name, against the float64 oracle."""

from __future__ import annotations

import dataclasses

import kernel_params
import pytest
import torch
from attention_cases import DECODE, EMPTY, FORWARD
from kernel_params import cpu_kernels

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


def names(op: str):
    return kernel_params.names(cpu_kernels(op))


def each(op: str, cases):
    return kernel_params.each(cpu_kernels(op), cases)


def test_every_cpu_op_has_kernels_to_test():
    for op in ("prefill", "backward", "decode", "merge", "page_write"):
        found = {(kernel.target, kernel.dtype) for kernel in cpu_kernels(op)}
        targets = {target for target, _ in found}
        assert found == {(t, d) for t in targets for d in ("float32", "float16", "bfloat16")}
        assert any(kernel.available for kernel in cpu_kernels(op))


def test_a_kernel_that_the_processor_lacks_a_feature_for_is_skipped_by_name():
    kernel = cpu_kernels("decode")[0]
    lacking = dataclasses.replace(
        kernel, target="cpu_new", available=False, reason="this processor lacks avx512bf16"
    )
    missing = dataclasses.replace(
        kernel, available=False, reason="this build of the library has no libwarploom_cpu_new.so"
    )
    (mark,) = kernel_params.names([lacking])[0].marks
    assert mark.kwargs["reason"] == "cpu_new: this processor lacks avx512bf16"
    assert not kernel_params.names([kernel])[0].marks
    assert not kernel_params.names([missing])[0].marks


@pytest.mark.parametrize(("kernel", "case"), each("prefill", FORWARD))
def test_forward(kernel, case):
    check_forward(case, kernel=kernel)


@pytest.mark.parametrize(("kernel", "case"), each("backward", FORWARD))
def test_backward(kernel, case):
    check_backward(case, kernel=kernel)
    check_backward(case, with_lse=True, kernel=kernel)


@pytest.mark.parametrize(("kernel", "case"), each("decode", DECODE))
def test_decode(kernel, case):
    check_decode(case, kernel=kernel)


@pytest.mark.parametrize(("kernel", "case"), each("prefill", EMPTY))
def test_empty_forward(kernel, case):
    o, _ = check_forward(case, kernel=kernel)
    if case.pairs == 0:
        assert not o.any()


@pytest.mark.parametrize(("kernel", "case"), each("backward", EMPTY))
def test_empty_backward(kernel, case):
    check_backward(case, with_lse=True, kernel=kernel)


@pytest.mark.parametrize("kernel", names("decode"))
def test_empty_decode(kernel):
    for shape in ((0, 1, 2, 8), (2, 0, 2, 8), (2, 1, 0, 8)):
        b, s, h, d = shape
        q = torch.zeros(shape, dtype=getattr(torch, kernel.dtype))
        cache = q.new_zeros(b, 4, h, d)
        lengths = torch.full((b,), 3, dtype=torch.int32)
        o, lse = wl.attention_decode(q, cache, cache, lengths, return_lse=True, kernel=kernel.name)
        assert o.shape == shape
        assert lse.shape == (b, h, s)


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("factor", [1e-3, 30.0])
def test_extreme_logits(kernel, factor):
    case = AttentionCase(sq=70, sk=90, h=2, d=64, mask=causal(), dtype=kernel.dtype)
    x = case.make()
    check_forward(case, dataclasses.replace(x, q=x.q * factor), kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_first_tile_far_below_the_rest(kernel):
    """The running maximum jumps: what was summed before must shrink to almost nothing."""
    case = AttentionCase(sq=20, sk=600, h=1, d=32, dtype=kernel.dtype)
    x = case.make()
    k = x.k.clone()
    k[:, 300:] = k[:, 300:] * 8
    check_forward(case, dataclasses.replace(x, k=k), kernel=kernel.name)


def _with_nan(case, keys, column=None):
    """Inputs whose k and v hold NaN at these keys."""
    x = case.make()
    k, v = x.k.clone(), x.v.clone()
    k[..., keys, :, :] = torch.nan
    v[..., keys, :, :] = torch.nan
    return dataclasses.replace(x, k=k, v=v)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_nan_shows_where_it_is_seen_and_nowhere_else(kernel):
    case = AttentionCase(sq=150, sk=150, h=2, d=64, mask=window(20, 0), dtype=kernel.dtype)
    x = _with_nan(case, [70])
    o, lse = check_forward(case, x, kernel=kernel.name)
    seen = torch.zeros(150, dtype=torch.bool)
    seen[70:91] = True
    assert torch.equal(lse.isnan(), seen.expand_as(lse))
    assert torch.equal(o.isnan(), seen[:, None, None].expand_as(o))


@pytest.mark.parametrize("kernel", names("prefill"))
def test_nan_in_one_value_shows_in_its_column_alone(kernel):
    case = AttentionCase(sq=40, sk=40, h=1, d=32, mask=causal(), dtype=kernel.dtype)
    x = case.make()
    v = x.v.clone()
    v[0, 30, 0, 5] = torch.nan
    o, lse = check_forward(case, dataclasses.replace(x, v=v), kernel=kernel.name)
    assert o[0, 30:, 0, 5].isnan().all()
    assert o.isnan().sum() == 10
    assert not lse.isnan().any()


@pytest.mark.parametrize("kernel", names("prefill"))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_show_where_they_are_seen(kernel, value):
    """Key 210 is seen by some rows of a tile only; 0 * value must not reach the others."""
    case = AttentionCase(sq=150, sk=301, h=6, hk=2, d=40, dv=24, mask=window(90, 3))
    case = dataclasses.replace(case, dtype=kernel.dtype)
    x = case.make()
    v = x.v.clone()
    v[0, 210, :, 7] = value
    v[0, 211, 1] = value
    check_forward(case, dataclasses.replace(x, v=v), kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_infinite_scores_act_as_in_the_formula(kernel):
    """All -inf: NaN. Some -inf: weight 0. One +inf: NaN, and an lse of +inf."""
    case = AttentionCase(sq=20, sk=600, h=1, d=8, dtype=kernel.dtype)
    x = case.make()
    q = x.q.abs() + 0.5
    lowest = torch.full_like(x.k, -torch.inf)
    some, one = x.k.clone(), x.k.clone()
    some[:, :520] = -torch.inf
    one[:, 530] = torch.inf
    for k in (lowest, some, one):
        check_forward(case, dataclasses.replace(x, q=q, k=k), kernel=kernel.name)


@pytest.mark.parametrize("bits", [0x7FC00001, 0x7FFFFFFF, -1, -4194303])
@pytest.mark.parametrize("kernel", [k for k in names("prefill") if k.values[0].dtype == "float32"])
def test_nan_of_any_payload_stays_nan(kernel, bits):
    case = AttentionCase(sq=20, sk=20, h=1, d=8, mask=causal())
    x = case.make()
    k = x.k.clone()
    k.view(torch.int32)[0, 3, 0, 2] = bits
    o, lse = check_forward(case, dataclasses.replace(x, k=k), kernel=kernel.name)
    assert o[0, 3:].isnan().all()
    assert lse[0, 0, 3:].isnan().all()


@pytest.mark.parametrize("kernel", names("prefill"))
def test_hidden_nan_is_absent(kernel):
    case = AttentionCase(sq=100, sk=160, h=2, d=40, mask=window(10, 4), dtype=kernel.dtype)
    o, _ = check_forward(case, _with_nan(case, list(range(50))), kernel=kernel.name)
    assert not o.isnan().any()


@pytest.mark.parametrize("kernel", names("backward"))
def test_hidden_nan_is_absent_from_gradients(kernel):
    """Keys that no query sees: their gradients are 0, and the others do not notice them."""
    case = AttentionCase(sq=100, sk=160, h=2, d=40, mask=window(10, 4), dtype=kernel.dtype)
    clean = case.make()
    o, lse = run_forward(case, clean)
    hidden = list(range(50))
    zeroed = dataclasses.replace(
        clean,
        k=clean.k.index_fill(1, torch.tensor(hidden), 0),
        v=clean.v.index_fill(1, torch.tensor(hidden), 0),
    )
    expected = run_backward(case, zeroed, o, lse, kernel=kernel.name)
    found = run_backward(case, _with_nan(case, hidden), o, lse, kernel=kernel.name)
    for name, a, b in zip(("dq", "dk", "dv"), found, expected, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kernel", names("backward"))
@pytest.mark.parametrize(
    ("name", "dq", "dk"), [("k", (70, 91), (70, 71)), ("q", (70, 71), (50, 71))]
)
def test_nan_shows_in_the_gradients_of_its_pairs_and_nowhere_else(kernel, name, dq, dk):
    case = AttentionCase(sq=150, sk=150, h=2, d=40, mask=window(20, 0), dtype=kernel.dtype)
    x = case.make()
    o, lse = run_forward(case, x)
    row = getattr(x, name).clone()
    row[:, 70] = torch.nan
    found = run_backward(case, dataclasses.replace(x, **{name: row}), o, lse, kernel=kernel.name)
    for gradient, (first, end) in zip(found, (dq, dk, dk), strict=True):
        expected = torch.zeros_like(gradient, dtype=torch.bool)
        expected[:, first:end] = True
        assert torch.equal(gradient.isnan(), expected)


@pytest.mark.parametrize("kernel", names("decode"))
def test_decode_reads_nothing_past_the_lengths(kernel):
    case = DecodeCase(lengths=(40, 3), h=4, hk=2, d=64, capacity=64, dtype=kernel.dtype)
    x = case.make()
    for n, length in enumerate(case.lengths):
        x.k_cache[n, length:] = torch.nan
        x.v_cache[n, length:] = torch.nan
    o, _ = run_decode(case, x, kernel=kernel.name)
    assert not o.isnan().any()
    check_decode(case, x, kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("decode"))
def test_decode_of_a_last_page_partly_filled_with_nan(kernel):
    case = DecodeCase(lengths=(37, 8), h=4, hk=2, d=64, page=16, dtype=kernel.dtype)
    x = case.make()
    for n, length in enumerate(case.lengths):
        if length % 16:
            page = int(x.page_table[n, length // 16])
            x.k_cache[page, length % 16 :] = torch.nan
            x.v_cache[page, length % 16 :] = torch.nan
    o, _ = run_decode(case, x, kernel=kernel.name)
    assert not o.isnan().any()


@pytest.mark.parametrize("kernel", names("decode"))
@pytest.mark.parametrize("length", [300, 40_000], ids=["one piece", "several"])
def test_infinite_scores_act_as_in_the_formula_while_decoding(kernel, length):
    """All -inf: NaN. Some -inf: weight 0. One +inf: NaN, and an lse of +inf."""
    case = DecodeCase(lengths=(length, length - 30), h=4, hk=2, d=16, dtype=kernel.dtype)
    x = case.make()
    q = x.q.abs() + 0.5
    lowest = torch.full_like(x.k_cache, -torch.inf)
    some, one, both = x.k_cache.clone(), x.k_cache.clone(), x.k_cache.clone()
    some[:, : length - 60] = -torch.inf
    one[:, length // 3] = torch.inf
    both[:, : length - 60], both[:, length - 50] = -torch.inf, torch.inf
    for k in (lowest, some, one, both):
        check_decode(case, dataclasses.replace(x, q=q, k_cache=k), kernel=kernel.name)


@pytest.mark.parametrize("kernel", names("decode"))
@pytest.mark.parametrize("name", ["q", "k_cache", "v_cache"])
def test_nan_shows_in_its_heads_while_decoding(kernel, name):
    """A NaN of kv head 1: in the rows of its group, or of its query head, and nowhere else."""
    case = DecodeCase(lengths=(150, 90), h=4, hk=2, d=40, dtype=kernel.dtype)
    x = case.make()
    poisoned = getattr(x, name).clone()
    poisoned[0, 0 if name == "q" else 70, 1, 5] = torch.nan
    o, lse = run_decode(case, dataclasses.replace(x, **{name: poisoned}), kernel=kernel.name)
    expected = torch.zeros_like(o, dtype=torch.bool)
    if name == "q":
        expected[0, :, 1] = True
    elif name == "k_cache":
        expected[0, :, 2:] = True
    else:
        expected[0, :, 2:, 5] = True
    assert torch.equal(o.isnan(), expected)
    heads = torch.zeros_like(lse, dtype=torch.bool)
    if name != "v_cache":
        heads[0] = expected[0].any(-1).T
    assert torch.equal(lse.isnan(), heads)


LAYOUTS = {
    "packed": lambda t: torch.stack([t, t, t], 2).unbind(2)[1],
    "heads first": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "unaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "wide rows": lambda t: torch.nn.functional.pad(t, (3, 2))[..., 3:-2],
    "reversed batch axis": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", names("prefill"))
def test_forward_honours_strides(kernel, layout):
    case = AttentionCase(
        b=2, sq=37, sk=70, h=4, hk=2, d=40, dv=24, mask=causal(), dtype=kernel.dtype
    )
    x = case.make()
    expected = run_forward(case, x, kernel.name)
    q, k, v = (LAYOUTS[layout](t) for t in x.qkv)
    found = run_forward(case, dataclasses.replace(x, q=q, k=k, v=v), kernel.name)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", names("backward"))
def test_backward_honours_strides(kernel, layout):
    case = AttentionCase(
        b=2, sq=37, sk=70, h=4, hk=2, d=40, dv=24, mask=causal(), dtype=kernel.dtype
    )
    x = case.make()
    o, lse = run_forward(case, x)
    expected = run_backward(case, x, o, lse, kernel=kernel.name)
    q, k, v, grad_o, o = (LAYOUTS[layout](t) for t in (*x.qkv, x.grad_o, o))
    y = dataclasses.replace(x, q=q, k=k, v=v, grad_o=grad_o)
    found = run_backward(case, y, o, lse, kernel=kernel.name)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", names("decode"))
def test_decode_honours_strides(kernel, layout):
    case = DecodeCase(lengths=(40, 33), s=2, h=4, hk=2, d=40, dv=24, dtype=kernel.dtype)
    x = case.make()
    expected = run_decode(case, x, kernel.name)
    q, k, v = (LAYOUTS[layout](t) for t in (x.q, x.k_cache, x.v_cache))
    found = run_decode(case, dataclasses.replace(x, q=q, k_cache=k, v_cache=v), kernel.name)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", names("prefill"))
def test_expanded_keys_are_read_in_place(kernel):
    case = AttentionCase(b=3, sq=9, sk=21, h=2, d=16, dtype=kernel.dtype)
    x = case.make()
    y = dataclasses.replace(x, k=x.k[:1].expand_as(x.k), v=x.v[:1].expand_as(x.v))
    check_forward(case, y, kernel=kernel.name)
