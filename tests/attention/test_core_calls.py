"""What the C interface refuses that no tensor can ask for: sizes and strides that overflow, what no
feature or op is, and what a GPU kernel or its workspace is too small for."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import pytest
import torch
from core_calls import Call
from kernel_params import emulated

import warploom as wl
from warploom import _core
from warploom.kernels import DEVICE_CODES
from warploom.testing.emulator import emulator

FAR = 2**61
OPS = ("prefill", "backward", "decode", "merge", "page_write")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call("forward", b=2**62), f"b is {2**62}: must be at most 2^56"),
        (Call("forward", sq=2**56 + 1), f"sq is {2**56 + 1}: must be at most 2^56"),
        (Call("forward", b=2**30, sq=2**30), "b is 1073741824, h is 1 and sequences have up to"),
        (Call("forward", h=2**28, hk=2**28, sk=2**28), "k is 1 x 268435456 x 268435456"),
        (Call("forward", sq=2**50, d=2**10), "q is 1 x 1125899906842624 x 1 x 1024: must have at"),
        (Call("forward", sk=2**50, dv=2**10, d=8), "v is 1 x 1125899906842624 x 1 x 1024"),
        (Call("forward", sq=2**55, d=0, dv=0), "q is 1 x 36028797018963968 x 1 x 0"),
        (Call("forward", strides=(8, FAR, 8, 1), sq=5), f"q has strides (8, {FAR}, 8)"),
        (Call("forward", strides=(8, -FAR, 8, 1), sq=5), f"q has strides (8, -{FAR}, 8)"),
        (Call("forward", strides=(8, -(2**63), 8, 1)), f"q has strides (8, -{2**63}, 8)"),
        (Call("forward", other_strides={"o": (8, FAR, 8, 1)}), "o has strides"),
        (Call("forward", ragged=True, check=False, tq=2**60), f"tq is {2**60}: must be at most"),
        (Call("forward", ragged=True, check=False, b=2**30, sq=2**30), "sequences have up to"),
        (Call("backward", other_strides={"grad_o": (8, FAR, 8, 1)}), "grad_o has strides"),
        (Call("backward", other_strides={"dk": (8, FAR, 8, 1)}), "dk has strides"),
        (Call("decode", s=2**55), "q is 1 x 36028797018963968 x 1 x 8: must have at most"),
        (Call("decode", capacity=2**55), "k_cache is 1 x 36028797018963968 x 1 x 8"),
        (
            Call("decode", paged=True, pages=2**31, capacity=2**31),
            "k_cache is 2147483648 x 2147483648 x 1 x 8",
        ),
        (
            Call("decode", paged=True, pages=2, max_pages=2**40, capacity=2**20),
            f"max_pages * capacity is {2**60}: must be at most 2^56",
        ),
        (
            Call("decode", paged=True, b=3, pages=2, max_pages=2, page_table_stride=FAR),
            f"page_table has strides (0, {FAR}, 0)",
        ),
        (Call("merge", s=2**55), "o is 1 x 36028797018963968 x 1 x 8: must have at most"),
        (
            Call("merge", s=2, other_strides={"o_parts": (8, FAR, 8, 1)}),
            "o_parts has strides",
        ),
        (Call("page_write", pages=2**31, capacity=2**31), "k_pages is 2147483648 x 2147483648"),
        (Call("page_write", tokens=2**54), "slots would have more than 2^56 bytes"),
        (Call("page_write", tokens=-1), "tokens is -1: must not be negative"),
        (Call("forward", device=1), "check is 1: must be 0 on a GPU"),
    ],
    ids=lambda value: value.op if isinstance(value, Call) else None,
)
def test_what_would_overflow_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call.run()


@pytest.mark.parametrize("op", ["forward", "backward", "decode", "merge", "page_write"])
def test_the_same_calls_with_small_sizes_run(op):
    Call(op, pages=2 if op == "page_write" else 0).run()


def test_sizes_that_only_strides_make_small_are_taken():
    """2^40 keys that are all one row: a window reads a few."""
    Call("forward", sk=2**40, strides=(0, 0, 0, 1), left=1, right=0).run()


def on_gpu(op: str, kernel, **sizes) -> Call:
    dtype = ["float32", "float16", "bfloat16"].index(kernel.dtype)
    device = DEVICE_CODES[kernel.device]
    strides = (0, 0, 0, 1)
    return Call(
        op, device=device, check=False, kernel=kernel.name, dtype=dtype, strides=strides, **sizes
    )


def each_target(cases):
    """The cases, each with one kernel of every dtype and GPU target."""
    one = {op: {(k.target, k.dtype): k for k in emulated(op)} for op in OPS}
    return [
        pytest.param(op, *rest, kernel, id=f"{kernel.name}-{rest[0]}")
        for op, *rest in cases
        for kernel in one["prefill" if op == "forward" else op].values()
    ]


TOO_LARGE = [
    ("forward", {"sk": 2**29 + 1}, "sk is 536870913: GPU kernels take at most 536870912"),
    ("forward", {"b": 2**30}, "b is 1073741824: GPU kernels take at most 536870912"),
    ("backward", {"sq": 2**30}, "sq is 1073741824: GPU kernels take"),
    ("decode", {"capacity": 2**30}, "capacity is 1073741824: GPU kernels take"),
    ("decode", {"s": 2**15, "h": 2**15}, "h / hk * s is 1073741824: GPU kernels take"),
    ("merge", {"h": 2**30}, "h is 1073741824: GPU kernels take"),
    ("page_write", {"pages": 1, "capacity": 2**30}, "capacity is 1073741824: GPU kernels take"),
]


@pytest.mark.parametrize(("op", "sizes", "message", "kernel"), each_target(TOO_LARGE))
def test_gpu_kernels_refuse_what_32_bits_cannot_hold(op, sizes, message, kernel):
    call = on_gpu(op, kernel, **sizes)
    call.workspace, call.workspace_bytes = call.memory.data_ptr(), 2**40
    with emulator(), pytest.raises(ValueError, match=re.escape(message)):
        call.run()


WITH_WORKSPACE = [
    ("backward", {"sq": 5, "h": 3, "hk": 3}),
    ("decode", {"capacity": 4096, "h": 3, "hk": 3}),
]


@pytest.mark.parametrize(("op", "sizes", "kernel"), each_target(WITH_WORKSPACE))
def test_a_workspace_that_is_too_small_is_refused(op, sizes, kernel):
    call = on_gpu(op, kernel, **sizes)
    with emulator():
        needed = call.needed_workspace()
    assert needed > 0
    space = torch.empty(needed + 32, dtype=torch.uint8)
    start = space.data_ptr() + -space.data_ptr() % 16
    for address, size, message in (
        (0, needed, f"workspace has 0 bytes: this call needs {needed}"),
        (start, needed - 1, f"workspace has {needed - 1} bytes: this call needs {needed}"),
        (start + 4, needed, "must be at a multiple of 16 bytes"),
    ):
        call.workspace, call.workspace_bytes = address, size
        with emulator(), pytest.raises(ValueError, match=re.escape(message)):
            call.run()


def explain(op="prefill", device=0, dtype=0, d=8, dv=8, features=0):
    return _core.attention_explain(op, device, 0, dtype, d, dv, features, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: explain("flash"),
            "op is flash: must be one of prefill, backward, decode, pages, merge, page_write",
        ),
        (lambda: explain(""), "op is : must be one of prefill"),
        (lambda: explain(device=3), "device is 3: must be 0 (cpu), 1 (cuda) or 2 (hip)"),
        (lambda: explain(dtype=3), "dtype is 3: must be 0, 1 or 2"),
        (lambda: explain(d=-1), "d is -1 and dv is 8: neither may be negative"),
        (lambda: explain(features=1 << 40), "features is 0x10000000000: there are 8, from bit 0"),
    ],
)
def test_explain_refuses_what_is_not_there(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def core_library() -> ctypes.CDLL:
    """The C interface itself."""
    folder = Path(json.loads(_core.describe_system())["library_folder"])
    core = ctypes.CDLL(str(next(folder.glob("libwarploom.so*"))))
    core.wl_last_error.restype = ctypes.c_char_p
    return core


@pytest.mark.parametrize(
    "function",
    [
        "attention_forward",
        "attention_backward",
        "attention_backward_workspace",
        "attention_decode",
        "attention_decode_workspace",
        "attention_merge",
        "page_write",
    ],
)
def test_no_struct_and_a_struct_of_another_version_are_refused(function):
    core, needed = core_library(), ctypes.c_int64()
    more = [ctypes.byref(needed)] if function.endswith("_workspace") else []
    call = getattr(core, f"wl_{function}")
    assert call(None, *more) == 1  # WL_INVALID
    assert core.wl_last_error() == b"params is NULL"
    other = (ctypes.c_uint32 * 256)(8)  # nothing after the size may be read
    assert call(other, *more) == 1
    assert core.wl_last_error().startswith(b"struct_size is 8: this library's is ")


def test_explain_refuses_null():
    class Request(ctypes.Structure):
        _fields_ = (
            ("struct_size", ctypes.c_uint32),
            ("op", ctypes.c_char_p),
            ("device", ctypes.c_int32),
            ("device_index", ctypes.c_int32),
            ("dtype", ctypes.c_int32),
            ("d", ctypes.c_int64),
            ("dv", ctypes.c_int64),
            ("features", ctypes.c_uint64),
            ("kernel", ctypes.c_char_p),
        )

    core, needed = core_library(), ctypes.c_size_t()

    def told(request):
        assert core.wl_attention_explain(request, None, 0, ctypes.byref(needed)) == 1  # WL_INVALID
        return core.wl_last_error().decode()

    assert told(None) == "request is NULL"
    request = Request(ctypes.sizeof(Request))
    assert told(ctypes.byref(request)).startswith("op is NULL: must be one of prefill, backward")
    request.struct_size -= 8
    assert "struct_size is " in told(ctypes.byref(request))


# (op, what it needs, what every kernel of that dtype and device lacks)
LACKING = [
    ("attention", {"paged": True}, "it lacks PAGED"),
    ("attention", {"paged": True, "grad_lse": True}, "it lacks PAGED, GRAD_LSE"),
    ("attention_backward", {"paged": True}, "it lacks PAGED"),
    ("attention_varlen_backward", {"paged": True}, "it lacks PAGED"),
    ("attention_decode", {"grad_lse": True}, "it lacks GRAD_LSE"),
    ("merge_states", {"softcap": 2.0, "mask": "causal"}, "it lacks WINDOW, SOFTCAP"),
    ("page_write", {"grouped": True}, "it lacks GROUPED"),
]


@pytest.mark.parametrize(("op", "needs", "reason"), LACKING)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features_that_an_op_does_not_have_are_named(op, needs, reason, dtype):
    found = wl.explain(op, dtype=dtype, head_dim=64, **needs)
    assert found.kernel is None
    short = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
    asked = [c for c in found.candidates if f"_{short}_" in c.name and "cpu" in c.target]
    assert asked
    assert {c.reason for c in asked} == {reason}


FITTING = [
    ("attention", {"mask": "causal", "softcap": 1.0, "grouped": True, "value_dim": 32}),
    ("attention_varlen", {"mask": "window"}),
    ("attention_backward", {"grad_lse": True}),
    ("attention_varlen_backward", {"grad_lse": True, "value_dim": 32}),
    ("attention_decode", {"paged": True, "grouped": True}),
    ("merge_states", {}),
    ("page_write", {"value_dim": 32}),
]


@pytest.mark.parametrize(("op", "needs"), FITTING)
def test_features_that_an_op_has_find_a_kernel(op, needs):
    for dtype in ("float32", "float16", "bfloat16"):
        assert wl.explain(op, dtype=dtype, head_dim=64, **needs).kernel
