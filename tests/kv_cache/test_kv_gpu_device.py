"""The kernels of the cache's format on this machine's GPU, against the CPU's bits."""

from __future__ import annotations

import kv_gpu_checks
import pytest
import torch

import warploom as wl
from tests.gpu_device import DEVICE, gpu, kernels  # noqa: F401

pytestmark = pytest.mark.gpu

each_target = pytest.mark.parametrize("kind", sorted({k.target for k in kernels("shrink")}))


@each_target
@pytest.mark.parametrize(("d", "group"), kv_gpu_checks.GROUPS)
def test_codes_and_values_are_the_cpu_s(kind, d, group):
    kv_gpu_checks.codes_and_values_are_the_cpu_s(kind, DEVICE, d, group)


@each_target
def test_any_alignment_and_strides(kind):
    kv_gpu_checks.any_alignment_and_strides(kind, DEVICE)


@each_target
def test_long_blocks_shrink_in_place(kind):
    kv_gpu_checks.long_blocks_shrink_in_place(kind, DEVICE)


@each_target
def test_what_has_no_code_is_told(kind):
    kv_gpu_checks.what_has_no_code_is_told(kind, DEVICE)


@each_target
def test_bad_blocks_are_told_and_left_alone(kind):
    kv_gpu_checks.bad_blocks_are_told_and_left_alone(kind, DEVICE)


def test_the_device_of_the_tensors_runs_without_a_name():
    x = torch.randn(300, 8, 128)
    expected = wl.kv_shrink(wl.kv_quantize(x, 8, 64), 2)
    found = wl.kv_shrink(wl.kv_quantize(x.to(DEVICE), 8, 64), 2)
    for a, b in zip(found[:3], expected[:3], strict=True):
        assert kv_gpu_checks.same_bits(a, b)


@each_target
@pytest.mark.parametrize("keys_per_channel", [False, True])
def test_pages_become_the_cpu_s(kind, keys_per_channel):
    kv_gpu_checks.pages_become_the_cpu_s(kind, DEVICE, keys_per_channel)


@each_target
def test_rows_are_appended_as_the_cpu_does(kind):
    kv_gpu_checks.rows_are_appended_as_the_cpu_does(kind, DEVICE)


@each_target
def test_bad_rows_and_blocks_are_told_and_left_alone(kind):
    kv_gpu_checks.bad_rows_and_blocks_are_told_and_left_alone(kind, DEVICE)
