"""The measured ceilings: what they refuse, and that what they give is a speed."""

import ctypes
import math
from collections.abc import Iterator

import pytest

from warploom import _core

TARGETS = ["baseline", "v3", "avx512"]


@pytest.fixture(scope="module")
def memory() -> Iterator[dict[str, int]]:
    """What `read` and `copy` work on, set up once for all tests."""
    size = 128 << 20
    buffer = ctypes.create_string_buffer(b"1" * size, size)
    yield {"workspace": ctypes.addressof(buffer), "workspace_bytes": size}
    del buffer


def assert_is_speed(value: float) -> None:
    assert math.isfinite(value)
    assert value > 0


@pytest.mark.parametrize("kind", ["f32_fma", "read"])
def test_value_is_positive_and_finite_with_two_threads(kind: str, memory: dict[str, int]) -> None:
    assert_is_speed(_core.perf_ceiling(kind, threads=2, seconds=0.01, **memory))


@pytest.mark.parametrize("kind", ["f32_fma", "bf16_dot", "read", "copy"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_measures_or_says_why_not(
    kind: str, target: str, memory: dict[str, int]
) -> None:
    name = f"perf_{kind}_cpu_{target}"
    try:
        value = _core.perf_ceiling(kind, threads=1, seconds=0.01, kernel=name, **memory)
    except NotImplementedError as error:
        message = str(error)
    else:
        return assert_is_speed(value)
    assert name in message
    assert "lacks" in message or "no kernel named" in message


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"kind is 'flops'.*f32_fma, bf16_dot, read, copy"):
        _core.perf_ceiling("flops")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 61.0])
def test_seconds_must_be_bounded(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds is"):
        _core.perf_ceiling("read", seconds=seconds)


def test_bad_threads_and_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is -1"):
        _core.perf_ceiling("f32_fma", threads=-1)
    with pytest.raises(ValueError, match="device is 7"):
        _core.perf_ceiling("f32_fma", device=7)


def test_kernel_of_another_kind_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="kernel of another op"):
        _core.perf_ceiling("read", kernel="perf_copy_cpu_baseline")
    with pytest.raises(NotImplementedError, match="it runs on"):
        _core.perf_ceiling("read", device=1)


def test_own_memory_serves_where_none_is_given() -> None:
    assert_is_speed(_core.perf_ceiling("read", threads=1, seconds=0.01))


def test_small_workspace_is_refused() -> None:
    with pytest.raises(ValueError, match="workspace_bytes is 4096: must be at least 134217728"):
        _core.perf_ceiling("read", workspace=4096, workspace_bytes=4096)
