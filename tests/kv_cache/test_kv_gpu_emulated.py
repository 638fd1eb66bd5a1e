"""The GPU kernels of the cache's format, run by the checking emulator: the CPU's bits, guards of
values, and the same result in every order of threads. The tests that take ``target`` run them too.
"""

from __future__ import annotations

import kv_gpu_checks
import pytest
import torch
from kv_targets import EMULATED, running

import warploom as wl
from warploom import _core

each_target = pytest.mark.parametrize("gpu", EMULATED)


def test_every_op_has_kernels_for_both_lane_counts():
    """Where the emulator was built, whole."""
    listed = {k.name for k in wl.list_kernels() if k.device != "cpu"}
    for target in ("sm_80", "gfx90a"):
        for op in ("shrink", "quantize_pages", "shrink_pages", "rotate"):
            assert f"kv_{op}_{target}" in listed
        for op in ("quantize", "dequantize", "append", "gather"):
            assert {f"kv_{op}_{dtype}_{target}" for dtype in ("f32", "f16", "bf16")} <= listed


@each_target
@pytest.mark.parametrize(("d", "group"), kv_gpu_checks.GROUPS)
def test_codes_and_values_are_the_cpu_s(gpu, d, group):
    with running(gpu):
        kv_gpu_checks.codes_and_values_are_the_cpu_s(gpu, "cpu", d, group)


@each_target
def test_any_alignment_and_strides(gpu):
    with running(gpu):
        kv_gpu_checks.any_alignment_and_strides(gpu, "cpu")


@each_target
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_long_blocks_shrink_in_place(gpu, seed):
    with running(gpu, seed):
        kv_gpu_checks.long_blocks_shrink_in_place(gpu, "cpu")


@each_target
def test_what_has_no_code_is_told(gpu):
    with running(gpu):
        kv_gpu_checks.what_has_no_code_is_told(gpu, "cpu")


@each_target
def test_bad_blocks_are_told_and_left_alone(gpu):
    with running(gpu):
        kv_gpu_checks.bad_blocks_are_told_and_left_alone(gpu, "cpu")


@each_target
def test_an_empty_call_touches_nothing(gpu):
    for shape in ((0, 16), (3, 0, 32)):
        with running(gpu):
            t = wl.kv_quantize(torch.zeros(shape), 4, 16, kernel=f"kv_quantize_f32_{gpu}")
            x = wl.kv_dequantize(t, torch.float32, kernel=f"kv_dequantize_f32_{gpu}")
            assert x.shape == shape
            assert wl.kv_shrink(t, 2, kernel=f"kv_shrink_{gpu}").codes.numel() == 0


@each_target
def test_blocks_apart_from_their_result(gpu):
    """What only the C interface can ask for: another pool, with strides of its own."""
    codes = torch.randint(256, (4, 9216 + 16), dtype=torch.uint8)
    out = torch.full((4, 4608 + 8), 7, dtype=torch.uint8)
    expected = out.clone()
    index = torch.tensor([3, 1], dtype=torch.int32)
    device = next(k.device for k in wl.list_kernels() if k.target == gpu)
    gpu_exec = ({"cuda": 1, "hip": 2}[device], 0, 0, 0, False, f"kv_shrink_{gpu}", 0, 0)
    for where, result in ((gpu_exec, out), ((0, 0, 0, 1, True, None, 0, 0), expected)):
        with running(gpu):
            _core.kv_shrink(
                *where, 1, 8, 4, 2, 4, 9216, codes.data_ptr(), codes.stride(0),
                result.data_ptr(), result.stride(0), index.data_ptr(),
            )  # fmt: skip
    assert torch.equal(out, expected)
    assert not torch.equal(out[3], torch.full_like(out[3], 7))
    assert (out[0] == 7).all()


@each_target
@pytest.mark.parametrize("keys_per_channel", [False, True])
def test_pages_become_the_cpu_s(gpu, keys_per_channel):
    with running(gpu):
        kv_gpu_checks.pages_become_the_cpu_s(gpu, "cpu", keys_per_channel)


@each_target
def test_rows_are_appended_as_the_cpu_does(gpu):
    with running(gpu):
        kv_gpu_checks.rows_are_appended_as_the_cpu_does(gpu, "cpu")


@each_target
def test_bad_rows_and_blocks_are_told_and_left_alone(gpu):
    with running(gpu):
        kv_gpu_checks.bad_rows_and_blocks_are_told_and_left_alone(gpu, "cpu")
