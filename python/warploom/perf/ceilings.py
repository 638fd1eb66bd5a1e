"""What a machine can do at most: contenders, so that they are sampled in turns with a case."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from warploom import _core
from warploom.perf.case import Contender, Context, Metric, Role
from warploom.perf.timing import Call

if TYPE_CHECKING:
    import torch

_NATIVE_SECONDS = 0.1
_WORKSPACE_BYTES = 512 * 2**20
_PEAKS = {"float32": "f32_fma", "bfloat16": "bf16_dot"}
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def gemm(dtype: str, context: Context) -> Contender:
    """torch's matrix product: what a tuned library reaches, 2048³ on a CPU, 8192³ on a GPU."""
    size = 64 if context.quick else 8192 if context.on_cuda else 2048

    def prepare() -> Call:
        import torch

        generator = torch.Generator().manual_seed(0)
        a, b = (
            torch.randn(size, size, generator=generator).to(context.device, getattr(torch, dtype))
            for _ in range(2)
        )
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    return Contender(f"torch GEMM {SHORT[dtype]}", Role.CEILING, 2.0 * size**3, prepare)


def peak(dtype: str, context: Context) -> list[Contender]:
    """The processor's multiply-add rate from registers, where a native loop measures it."""
    if context.on_cuda or dtype not in _PEAKS:
        return []
    return [_native(f"peak {SHORT[dtype]}", _PEAKS[dtype], context)]


def compute(dtype: str, context: Context) -> list[Contender]:
    """The ceilings of work bound by arithmetic."""
    return [gemm(dtype, context), *peak(dtype, context)]


def read_bandwidth(context: Context) -> Contender:
    """Bytes read from memory a second; on a GPU a copy's, reads plus writes."""
    if not context.on_cuda:
        return _native("read bandwidth", "read", context)
    return _cuda_copy("copy bandwidth", context)


def copy_bandwidth(context: Context) -> Contender:
    """Bytes read plus bytes written, from memory to memory."""
    if not context.on_cuda:
        return _native("copy bandwidth", "copy", context)
    return _cuda_copy("copy bandwidth", context)


def _cuda_copy(name: str, context: Context) -> Contender:
    count = 2**20 if context.quick else 2**30

    def prepare() -> Call:
        import torch

        source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=context.device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return Contender(name, Role.CEILING, 2.0 * count, prepare)


def _native(name: str, kind: str, context: Context) -> Contender:
    seconds = 0.002 if context.quick else _NATIVE_SECONDS

    def rate() -> float:
        space = _workspace() if kind in ("read", "copy") else None
        where, size = (0, 0) if space is None else (space.data_ptr(), space.numel())
        return _core.perf_ceiling(
            kind, context.threads, seconds, workspace=where, workspace_bytes=size
        )

    return Contender(name, Role.CEILING, rate=rate, optional=True)


@cache
def _workspace() -> torch.Tensor:
    """Memory that no cache holds, kept until the process ends: taking it takes long."""
    import torch

    return torch.ones(_WORKSPACE_BYTES, dtype=torch.uint8)


def everything(context: Context) -> list[tuple[Contender, Metric]]:
    """All ceilings of a device, to be shown before anything is compared with one."""
    rates = [c for dtype in ("bfloat16", "float32") for c in compute(dtype, context)]
    listed = [(contender, Metric.FLOPS) for contender in rates]
    listed.append((read_bandwidth(context), Metric.BYTES))
    if not context.on_cuda:
        listed.append((copy_bandwidth(context), Metric.BYTES))
    return listed
