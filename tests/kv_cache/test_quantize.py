"""Quantizing: the bound, the codes to the bit, the grids, and values that are refused."""

from __future__ import annotations

import pytest
import torch
from kv_targets import TARGETS

import warploom as wl
from warploom import reference
from warploom.ops.kv_cache import LEAST_RANGE, QuantizedKV

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHORT = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
WIDTHS = [8, 4, 2]
# What a code may be off by beyond half a step: three roundings to float32 of a number up to 255.
SLACK = 2.0**-14


def samples(dtype, d=64, rows=40):
    """Normal values beside what is awkward: offsets, outliers, equal values, tiny and huge ones."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 7, d, generator=g)
    x[:, 1] += 100
    x[:, 2, ::9] *= 50
    x[:, 3] = x[:, 3, :1]
    x[:, 4] *= 1e-7
    x[:, 5] *= 1e4
    x[:, 6] = (x[:, 6] * 3).round()
    x[0, 0] = 0
    x[1, 0] = -0.0
    x[1, 0, 3] = 0
    if dtype != torch.float16:
        x[2, 0] *= 1e-39  # subnormal
        x[3, 0] *= 1e30
    return x.to(dtype)


def quantize(x, bits, group, target):
    return wl.kv_quantize(x, bits, group, kernel=f"kv_quantize_{SHORT[x.dtype]}_{target}")


def excess(x, t: QuantizedKV):
    """How far each value is from its code's, in steps beyond one half; where a step is 0, whether
    the value is met at all."""
    values = reference.kv_values(reference.kv_unpack(t.codes, t.bits), t.min, t.range, t.bits)
    step = (t.range.double() / (2**t.bits - 1)).repeat_interleave(t.group, -1)
    off = (x.double() - values).abs()
    return torch.where(step > 0, off / step - 0.5, off)


@pytest.mark.parametrize("group", [16, 64])
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_grids_and_codes_are_the_oracle_s(dtype, bits, group, target):
    x = samples(dtype)
    t = quantize(x, bits, group, target)
    lowest, extent = reference.kv_grid(x, group)
    assert torch.equal(t.min.view(torch.int16), lowest.view(torch.int16))
    assert torch.equal(t.range.view(torch.int16), extent.view(torch.int16))
    exact = reference.kv_codes(x, lowest, extent, bits)
    off = (reference.kv_unpack(t.codes, bits) - exact).abs()
    assert off.max() <= 0.5 + SLACK


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_chain_ends_within_half_a_step(dtype, target):
    """At every width, by every path, whatever the source was quantized to first."""
    x = samples(dtype)
    for first in WIDTHS:
        t = quantize(x, first, 32, target)
        assert excess(x, t).max() <= SLACK
        for to in (w for w in WIDTHS if w < first):
            shrunk = wl.kv_shrink(t, to, kernel=f"kv_shrink_{target}")
            assert shrunk.min is t.min
            assert shrunk.range is t.range
            assert excess(x, shrunk).max() <= SLACK
            for last in (w for w in WIDTHS if w < to):
                again = wl.kv_shrink(shrunk, last, kernel=f"kv_shrink_{target}")
                assert excess(x, again).max() <= SLACK
                assert torch.equal(again.codes, wl.kv_shrink(t, last).codes)


def test_the_bound_is_reached_and_not_passed_by_exact_codes():
    """Every multiple of a quarter step of a grid of 255 steps: exact arithmetic, ties included."""
    x = torch.arange(0, 255.25, 0.25)  # min 0, range 255
    x = torch.cat([x, torch.full((3,), 255.0)]).view(1, -1)
    t = wl.kv_quantize(x, 8, x.shape[1])
    assert (t.min.item(), t.range.item()) == (0, 255)
    assert excess(x, t).max() == 0
    for to in (4, 2):
        assert excess(x, wl.kv_shrink(t, to)).max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_and_values_do_not_depend_on_the_target_or_the_threads(dtype):
    x = samples(dtype)
    for bits in WIDTHS:
        torch.set_num_threads(2)
        first = quantize(x, bits, 32, TARGETS[0])
        for target in TARGETS:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                t = quantize(x, bits, 32, target)
                for a, b in zip(t[:3], first[:3], strict=True):
                    assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))
                for to in DTYPES:
                    name = f"kv_dequantize_{SHORT[to]}_"
                    a = wl.kv_dequantize(t, to, kernel=name + target)
                    b = wl.kv_dequantize(t, to, kernel=name + TARGETS[0])
                    assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_values_are_those_of_the_format(bits, target):
    """Every code on many grids, in float32 step by step as the format says."""
    g = torch.Generator().manual_seed(1)
    codes = torch.arange(2**bits, dtype=torch.uint8).repeat(64 // 2**bits or 1).expand(50, -1)
    lowest, extent = torch.randn(2, 50, 1, generator=g).to(torch.bfloat16)
    t = QuantizedKV(reference.kv_pack(codes, bits), lowest, extent.abs(), bits, codes.shape[1])
    step = t.range.float() / (2**bits - 1)
    expected = codes.float() * step + lowest.float()
    for dtype in DTYPES:
        found = wl.kv_dequantize(t, dtype, kernel=f"kv_dequantize_{SHORT[dtype]}_{target}")
        assert torch.equal(found, expected.to(dtype))


def test_equal_values_come_back_exactly():
    x = torch.tensor([[3.0] * 16, [-0.0] * 16, [-7.5] * 16], dtype=torch.bfloat16)
    for bits in WIDTHS:
        t = wl.kv_quantize(x, bits, 16)
        assert (t.range == 0).all()
        assert (t.codes == 0).all()
        assert torch.equal(wl.kv_dequantize(t), x)
        assert not t.min.signbit()[1].any()


def test_values_never_leave_the_dtype():
    """The top of a grid may lie beyond the dtype's largest number: range is rounded up."""
    for dtype in DTYPES:
        most = torch.finfo(dtype).max if dtype != torch.float32 else 3e38
        x = torch.linspace(0.3, 1, 16).mul(most).to(dtype).view(1, 16)
        for bits in WIDTHS:
            found = wl.kv_dequantize(wl.kv_quantize(x, bits, 16), dtype)
            assert found.isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cpu", TARGETS)
def test_infinities_and_nans_are_named(cpu, dtype, value):
    x = samples(dtype)
    x[7, 5, 33] = value
    x[30, 1, 2] = value  # a later one does not hide it
    with pytest.raises(ValueError, match=rf"x\[0, 7, 5, 33\] is -?{abs(value)}: must be finite"):
        quantize(x, 4, 16, cpu)


def test_a_range_beyond_bfloat16_is_named():
    x = torch.zeros(2, 32)
    x[1, 16], x[1, 17] = 3e38, -3e38
    with pytest.raises(ValueError, match=r"x\[0, 0, 1, 16:32\] spans more than bfloat16 holds"):
        wl.kv_quantize(x, 8, 16)


def test_tiny_ranges_have_a_step():
    x = torch.zeros(1, 16)
    x[0, 0] = 1e-45
    t = wl.kv_quantize(x, 8, 16)
    assert t.range.item() == LEAST_RANGE
    assert excess(x, t).max() <= SLACK


def test_views_are_read_where_they_lie():
    x = torch.randn(2, 5, 3, 4, 96)[:, ::2, :, 1:3, 16:64]
    t = wl.kv_quantize(x, 4, 16)
    plain = wl.kv_quantize(x.contiguous(), 4, 16)
    assert t.codes.shape == (2, 3, 3, 2, 24)
    assert t.min.shape == (2, 3, 3, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(t[:3], plain[:3], strict=True))
    keys = torch.randn(4, 32, 8)  # per channel: tokens last
    per_channel = wl.kv_quantize(keys.transpose(1, 2).contiguous(), 2, 32)
    assert per_channel.min.shape == (4, 8, 1)


@pytest.mark.parametrize("shape", [(0, 16), (3, 0, 32), (2, 0)])
def test_empty(shape):
    t = wl.kv_quantize(torch.zeros(shape), 4, 16)
    assert wl.kv_dequantize(t).shape == shape
    assert wl.kv_shrink(t, 2).codes.numel() == 0


def test_bytes_count_the_grids():
    t = wl.kv_quantize(torch.zeros(8, 64), 2, 64)
    assert t.nbytes == 8 * (16 + 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: wl.kv_quantize(x, 16, 16), r"bits is 16: .* \(16 bit is bfloat16 itself\)"),
        (lambda x: wl.kv_quantize(x, 3, 16), "bits is 3: must be 8, 4 or 2"),
        (lambda x: wl.kv_quantize(x, 8, 24), "group is 24: must be a positive multiple of 16"),
        (lambda x: wl.kv_quantize(x, 8, 0), "group is 0"),
        (lambda x: wl.kv_quantize(x[:, :48], 8, 32), "d is 48: must be a multiple of group, 32"),
        (lambda x: wl.kv_quantize(x.double(), 8, 16), "x is torch.float64"),
        (lambda x: wl.kv_quantize(x[0, 0], 8, 16), "x has no axes"),
        (lambda x: wl.kv_quantize(x.t().contiguous().t(), 8, 16), "last axis must be contiguous"),
        (lambda x: wl.kv_quantize(x.requires_grad_(), 8, 16), "x requires grad"),
        (lambda x: wl.kv_quantize(x, 8, 16, kernel="none"), "no kernel named none"),
        (lambda x: wl.kv_dequantize(wl.kv_quantize(x, 8, 16), torch.float64), "dtype is"),
        (lambda x: wl.kv_shrink(wl.kv_quantize(x, 4, 16), 8), "to is 8: must be less than bits, 4"),
        (lambda x: wl.kv_shrink(wl.kv_quantize(x, 4, 16), 1), "to is 1"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises((ValueError, NotImplementedError), match=message):
        call(torch.ones(4, 64))


def test_validator():
    t = wl.kv_quantize(samples(torch.bfloat16), 4, 32)
    wl.kv_validate(t)
    nan = t.min.clone()
    nan[3, 2, 1] = torch.nan
    negative, tiny = t.range.clone(), t.range.clone()
    negative[0, 0, 1], tiny[0, 0, 0] = -1, 2.0**-120
    for wrong, message in [
        ({"min": nan}, r"min\[3, 2, 1\] is nan: must be finite"),
        ({"range": negative}, r"range\[0, 0, 1\] is -1.0"),
        ({"range": tiny}, r"range\[0, 0, 0\] is .*at least 2\*\*-110"),
        ({"bits": 8}, "min has shape"),
        ({"group": 16}, "min has shape"),
        ({"group": 33}, "group is 33"),
        ({"codes": t.codes[..., :-1]}, "codes has shape"),
        ({"codes": t.codes.int()}, "codes is torch.int32"),
        ({"range": t.range.float()}, "range is torch.float32"),
        ({"range": t.range.to("meta")}, "range is on meta"),
    ]:
        with pytest.raises(ValueError, match=message):
            wl.kv_validate(t._replace(**wrong))


def test_wrong_results_break_the_bound():
    """Zeros, grids exchanged, codes of another row, a step of the wrong width: each is seen."""
    x = samples(torch.bfloat16)[:, :1]
    t = wl.kv_quantize(x, 4, 32)
    assert excess(x, t).max() <= SLACK
    swapped = t.codes >> 4 | t.codes << 4
    for wrong in [
        t._replace(codes=torch.zeros_like(t.codes)),
        t._replace(codes=swapped),
        t._replace(codes=t.codes.roll(1, 0)),
        t._replace(min=t.min.roll(1, 0)),
        t._replace(range=t.range * 1.2),
        t._replace(min=t.range, range=t.min.abs()),
        t._replace(codes=wl.kv_quantize(x, 2, 32).codes.repeat(1, 1, 2)),
    ]:
        assert excess(x, wrong).max() > 10 * SLACK


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("kv_quantize", lambda t, x: (x, 8, 16)),
        ("kv_dequantize", lambda t, x: (*t[:3], 4, 16, torch.float16)),
        ("kv_shrink", lambda t, x: (t.codes, 4, 2)),
        (
            "kv_shrink_blocks",
            lambda t, x: (
                torch.zeros(2, 256, dtype=torch.uint8),
                torch.tensor([1], dtype=torch.int32), 256, 8, 2,
            ),
        ),
    ],
)  # fmt: skip
def test_opcheck(op, arguments):
    x = torch.randn(3, 4, 32)
    torch.library.opcheck(getattr(torch.ops.warploom, op), arguments(wl.kv_quantize(x, 4, 16), x))


def test_compiled():
    def chain(x):
        return wl.kv_dequantize(wl.kv_shrink(wl.kv_quantize(x, 8, 32), 2), torch.float32)

    x = torch.randn(5, 64)
    assert torch.equal(torch.compile(chain, fullgraph=True, backend="aot_eager")(x), chain(x))
