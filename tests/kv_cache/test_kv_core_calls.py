"""What the C interface refuses that no tensor can ask for."""

from __future__ import annotations

import pytest
import torch

from warploom import _core

FAR = 2**57
EXEC = (0, 0, 0, 1, True, None, 0, 0)


def quantize(memory, **changes):
    at = memory.data_ptr()
    fields = {
        "exec": EXEC, "dtype": 0, "bits": 8, "n0": 1, "n1": 1, "n2": 1, "d": 16, "group": 16,
        "x": at, "strides": (16, 16, 16, 1), "codes": at, "min": at, "range": at,
    } | changes  # fmt: skip
    where, *rest = fields.values()
    _core.kv_quantize(*where, *rest)


def dequantize(memory, **changes):
    at = memory.data_ptr()
    fields = {
        "dtype": 0, "bits": 8, "rows": 1, "d": 16, "group": 16,
        "codes": at, "min": at, "range": at, "x": at,
    } | changes  # fmt: skip
    _core.kv_dequantize(*EXEC, *fields.values())


def shrink(memory, **changes):
    at = memory.data_ptr()
    fields = {
        "order": 1, "bits": 8, "to": 4, "blocks": 1, "pool": 1, "count": 256, "codes": at,
        "stride": 256, "out": at, "out_stride": 256, "index": 0,
    } | changes  # fmt: skip
    _core.kv_shrink(*EXEC, *fields.values())


@pytest.mark.parametrize(
    ("call", "changes", "message"),
    [
        (quantize, {"exec": (7, *EXEC[1:])}, "device is 7"),
        (quantize, {"dtype": 3}, "dtype is 3: must be 0, 1 or 2"),
        (quantize, {"bits": 16}, "bits is 16: must be 8, 4 or 2"),
        (quantize, {"n1": -1}, r"n\[1\] is -1"),
        (quantize, {"n0": FAR}, rf"n\[0\] is {FAR}"),
        (quantize, {"n0": 2**40, "n1": 2**40}, r"must have at most 2\^56 elements"),
        (quantize, {"group": 8}, "group is 8"),
        (quantize, {"d": 24}, "d is 24: must be a multiple of group, 16"),
        (quantize, {"strides": (16, -16, 16, 1)}, "x has stride -16 on axis 1"),
        (quantize, {"n0": 4, "strides": (FAR, 16, 16, 1)}, f"x has stride {FAR} on axis 0"),
        (quantize, {"x": 0}, "x is NULL"),
        (quantize, {"codes": 0}, "codes is NULL"),
        (quantize, {"codes": 4098}, "codes is at 0x1002: must be at a multiple of 4 bytes"),
        (dequantize, {"rows": FAR}, f"rows is {FAR}"),
        (dequantize, {"range": 0}, "range is NULL"),
        (dequantize, {"x": 0}, "x is NULL"),
        (shrink, {"order": 2}, "order is 2"),
        (shrink, {"bits": 2, "to": 2}, "to is 2: must be less than bits, 2"),
        (shrink, {"blocks": 2}, "blocks is 2: must be at most pool, 1"),
        (shrink, {"count": 16}, "count is 16: must be a multiple of 256"),
        (shrink, {"order": 0, "count": 8}, "count is 8: must be a multiple of 16"),
        (shrink, {"stride": 128}, "stride is 128: must be a multiple of 4, at least the 256"),
        (shrink, {"stride": 258}, "stride is 258"),
        (shrink, {"pool": 2**50}, r"stride is 256: .* reach at most 2\^56"),
        (shrink, {"out_stride": 128}, "out overlaps codes"),
        (shrink, {"codes": 0}, "codes is NULL"),
    ],
)
def test_refused(call, changes, message):
    memory = torch.full((128,), 1.5)
    with pytest.raises(ValueError, match=message):
        call(memory, **changes)
    assert (memory == 1.5).all(), "a refused call wrote"


def test_a_shift_of_part_of_a_block_is_refused():
    memory = torch.zeros(512, dtype=torch.uint8)
    with pytest.raises(ValueError, match="out overlaps codes"):
        shrink(memory, out=memory.data_ptr() + 64)
    shrink(memory, out=memory.data_ptr() + 256)


def test_an_empty_call_touches_nothing():
    quantize(torch.zeros(1), n0=0, x=0, codes=0, min=0, range=0)
    dequantize(torch.zeros(1), rows=0, x=0, codes=0, min=0, range=0)
    shrink(torch.zeros(1), blocks=0, codes=0, out=0)
