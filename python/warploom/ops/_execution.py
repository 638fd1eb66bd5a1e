"""Where a call runs: the ``wl_exec`` of a tensor, and the emulator in place of a GPU."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import torch

from warploom import _core
from warploom.kernels import DEVICE_CODES, list_kernels

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
CPU, CUDA, HIP = 0, 1, 2

# device, device_index, stream, threads, check, kernel
Exec = tuple[int, int, int, int, bool, str | None]

_get_num_threads = torch.get_num_threads


class _Emulation(threading.local):
    active = False


emulation = _Emulation()
_used: set[tuple[int, int]] = set()


def exec_of(tensor: torch.Tensor, kernel: str | None, check: bool | None) -> Exec:
    """Where a call on this tensor runs; while this thread emulates, a GPU kernel takes CPU tensors.

    ``check`` None means that the core looks at values on the CPU. It never does on a GPU, whose
    memory the host does not read: see :func:`checks_on_device`.
    """
    if tensor.is_cpu:
        if kernel is not None and emulation.active:
            device = _kernel_devices().get(kernel, CPU)
            if device != CPU:
                return (device, 0, 0, 0, False, kernel)
        return (CPU, 0, 0, _get_num_threads(), check is None or check, kernel)
    device = HIP if torch.version.hip else CUDA
    index = tensor.device.index
    _used.add((device, index))
    stream = torch.cuda.current_stream(index).cuda_stream
    return (device, index, stream, 0, False, kernel)


def checks_on_device(where: Exec, check: bool | None) -> bool:
    """Whether an op must look at its values by torch (``_values``) before the call."""
    return bool(check) and where[0] != CPU


def workspace(
    where: Exec, tensor: torch.Tensor, query: Callable[..., int], *arguments: object
) -> torch.Tensor | None:
    """The device memory that a kernel asks for, on torch's allocator; CPU kernels need none."""
    if where[0] == CPU:
        return None
    size = query(*where, 0, 0, *arguments)
    return tensor.new_empty(size, dtype=torch.uint8) if size else None


def check() -> None:
    """Waits for the GPUs that ops ran on and raises what their kernels found wrong.

    Values that live on a GPU (page ids, lengths, offsets) are guarded by the kernels: one that
    meets a bad value poisons its output with NaN and leaves word, which the next call or this
    function reports.

    Raises:
        DeviceError: a kernel met a bad value, or the device failed.
    """
    if emulation.active:
        _core.check(CUDA, 0)
        return
    for device, index in sorted(_used):
        _core.check(device, index)


@functools.cache
def _kernel_devices() -> dict[str, int]:
    return {kernel.name: DEVICE_CODES[kernel.device] for kernel in list_kernels()}
