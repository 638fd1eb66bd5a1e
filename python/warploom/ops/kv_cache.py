"""Quantized keys and values: codes on nested grids. docs/kv_cache_format.md is the format."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from warploom import _core
from warploom.ops._checks import indices, strides
from warploom.ops._execution import DTYPE_CODES, checks_on_device, exec_of
from warploom.ops._library import define, define_without_gradient
from warploom.ops._values import check_blocks

WIDTHS = (8, 4, 2)
GROUP_MULTIPLE = 16
TILE_CODES = 256  # four lines of 64 bytes at 8 bits, one at 2
LEAST_RANGE = 2.0**-110
_ROWS, _TILES = 0, 1  # wl_kv_order

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class QuantizedKV(NamedTuple):
    """``x ~ min + code * range / (2**bits - 1)``, in groups of ``group`` along the last axis."""

    codes: torch.Tensor  # [..., d * bits / 8], uint8
    min: torch.Tensor  # [..., d / group], bfloat16
    range: torch.Tensor  # like min
    bits: int
    group: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes and of the groups' parameters."""
        return sum(t.numel() * t.element_size() for t in (self.codes, self.min, self.range))


def kv_quantize(x: torch.Tensor, bits: int, group: int, kernel: str | None = None) -> QuantizedKV:
    """Quantizes groups along the last axis. Per-channel groups of tokens: pass tokens last.

    Every finite value ends within half a step, ``range / (2**bits - 1) / 2``, of where it was (and
    2**-14 of a step for rounding). Codes are the same to the bit on every target. Not
    differentiable: x that requires grad is refused while gradients are recorded.

    Args:
        x: ``[..., d]``, float32, float16 or bfloat16, last axis contiguous.
        bits: 8, 4 or 2. 16 bit is x itself, as bfloat16.
        group: values that share a grid: a multiple of 16 that divides d.
        kernel: name of the kernel to run; None takes the best.

    Raises:
        ValueError: an argument is wrong, or x holds an infinity, a NaN, or a group whose range is
            beyond bfloat16; the message names the argument and the place. On a GPU the next call or
            :func:`warploom.check` raises DeviceError instead, which names the row.
    """
    codes, minimum, extent = KV_QUANTIZE(x, bits, group, kernel)
    return QuantizedKV(codes, minimum, extent, bits, group)


def kv_dequantize(
    t: QuantizedKV, dtype: torch.dtype = torch.bfloat16, kernel: str | None = None
) -> torch.Tensor:
    """``min + code * range / (2**bits - 1)``, in float32 and then rounded to ``dtype``.

    What would round beyond the largest number of ``dtype`` becomes that number.

    Args:
        t: what :func:`kv_quantize` or :func:`kv_shrink` gave.
        dtype: torch.float32, torch.float16 or torch.bfloat16.
        kernel: name of the kernel to run; None takes the best.

    Returns:
        ``[..., d]``, contiguous.

    Raises:
        ValueError: t is not consistent or dtype is another.
    """
    x: torch.Tensor = KV_DEQUANTIZE(t.codes, t.min, t.range, t.bits, t.group, dtype, kernel)
    return x


def kv_shrink(t: QuantizedKV, to: int, kernel: str | None = None) -> QuantizedKV:
    """Rewrites the codes to fewer bits: round(q / 17) from 8 to 4, round(q / 5) from 4 to 2.

    By any path the codes at one width are the same, and as close to x as that width allows: see
    :func:`kv_quantize`. min and range are t's own tensors.

    Raises:
        ValueError: t is not consistent, or ``to`` is not 4 or 2 and less than its width.
    """
    _consistent(t.codes, t.min, t.range, t.bits, t.group)
    return t._replace(codes=KV_SHRINK(t.codes, t.bits, to, kernel), bits=to)


def kv_shrink_blocks(
    pool: torch.Tensor,
    index: torch.Tensor,
    count: int,
    bits: int,
    to: int,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    """Shrinks blocks of a pool in place, whose codes are in tiles (docs/kv_cache_format.md).

    Afterwards the first ``count * to / 8`` bytes of such a block are its codes, and what lies
    between them and the end of the wider ones is undefined. Other blocks are not touched.

    Args:
        pool: ``[blocks, bytes]``, uint8, of which each holds at least ``count * bits / 8`` bytes;
            bytes and the stride between blocks are multiples of 4.
        index: ``[n]``, int32, which blocks; all different.
        count: codes in a block, a multiple of 256.
        bits: their width, 8 or 4.
        to: the width wanted, 4 or 2, less than bits.
        kernel: name of the kernel to run; None takes the best.
        check: look at the index first; None does on the CPU.

    Raises:
        ValueError: an argument is wrong; nothing is written.
    """
    KV_SHRINK_BLOCKS(pool, index, count, bits, to, kernel, check)


def kv_validate(t: Any) -> None:
    """Checks what was loaded or made elsewhere: shapes, dtypes, devices, and the values of grids.

    Every code is valid at its width. min must be finite; range finite and either 0 or at least
    2**-110. Of pages, blocks must lie in the pool and apart from each other; of a cache, its books
    must agree with its pages.

    Args:
        t: a QuantizedKV, a KVPages or a PagedKVCache.

    Raises:
        ValueError: what is wrong, where, and what it must be.
    """
    if not isinstance(t, QuantizedKV):
        if not hasattr(t, "validate"):
            raise ValueError(
                f"t is a {type(t).__name__}: must be a QuantizedKV, a KVPages or a PagedKVCache"
            )
        t.validate()
        return
    _consistent(t.codes, t.min, t.range, t.bits, t.group)
    _first_wrong("min", t.min, t.min.isfinite(), "finite")
    right = t.range.isfinite() & ((t.range == 0) | (t.range >= LEAST_RANGE))
    _first_wrong("range", t.range, right, "0, or finite and at least 2**-110")


def _first_wrong(name: str, tensor: torch.Tensor, right: torch.Tensor, needed: str) -> None:
    wrong = right.logical_not().nonzero()
    if len(wrong):
        at = tuple(wrong[0].tolist())
        raise ValueError(f"{name}{list(at)} is {tensor[at].item()}: must be {needed}")


def _width(name: str, bits: int) -> None:
    if bits not in WIDTHS:
        hint = " (16 bit is bfloat16 itself)" if bits == 16 else ""
        raise ValueError(f"{name} is {bits}: must be 8, 4 or 2{hint}")


def _groups(d: int, group: int) -> None:
    if group <= 0 or group % GROUP_MULTIPLE:
        raise ValueError(f"group is {group}: must be a positive multiple of {GROUP_MULTIPLE}")
    if d % group:
        raise ValueError(f"d is {d}: must be a multiple of group, {group}")


def _code_of(name: str, dtype: torch.dtype) -> int:
    if dtype not in DTYPE_CODES:
        raise ValueError(
            f"{name} is {dtype}: must be torch.float32, torch.float16 or torch.bfloat16"
        )
    return DTYPE_CODES[dtype]


def _codes(codes: torch.Tensor, bits: int) -> int:
    """d of codes ``[..., d * bits / 8]``."""
    _width("bits", bits)
    if codes.dtype is not torch.uint8:
        raise ValueError(f"codes is {codes.dtype}: must be torch.uint8")
    if codes.dim() == 0 or codes.shape[-1] % (GROUP_MULTIPLE * bits // 8):
        raise ValueError(
            f"codes has shape {tuple(codes.shape)}: the last axis must be a multiple of "
            f"{GROUP_MULTIPLE * bits // 8} at {bits} bits"
        )
    return codes.shape[-1] * 8 // bits


def _consistent(
    codes: torch.Tensor, minimum: torch.Tensor, extent: torch.Tensor, bits: int, group: int
) -> int:
    """d of a quantized tensor whose parts fit each other."""
    d = _codes(codes, bits)
    _groups(d, group)
    for name, tensor in (("min", minimum), ("range", extent)):
        if tensor.dtype is not torch.bfloat16:
            raise ValueError(f"{name} is {tensor.dtype}: must be torch.bfloat16")
        if tensor.shape != (*codes.shape[:-1], d // group):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: must be "
                f"{(*codes.shape[:-1], d // group)} for codes of shape {tuple(codes.shape)} at "
                f"{bits} bits and groups of {group}"
            )
        if tensor.device != codes.device:
            raise ValueError(f"{name} is on {tensor.device}: must be on {codes.device} like codes")
    return d


def _quantize(x: torch.Tensor, bits: int, group: int, kernel: str | None = None) -> Triple:
    codes, minimum, extent = _quantize_fake(x, bits, group)
    strides("x", x)
    rows = x[(None,) * (4 - x.dim())] if x.dim() <= 4 else x.flatten(0, -4)
    _core.kv_quantize(
        *exec_of(x, kernel, None), 0, 0,
        _code_of("x", x.dtype), bits, *rows.shape, group,
        rows.data_ptr(), rows.stride(),
        codes.data_ptr(), minimum.data_ptr(), extent.data_ptr(),
    )  # fmt: skip
    return codes, minimum, extent


def _quantize_fake(x: torch.Tensor, bits: int, group: int, kernel: str | None = None) -> Triple:
    _code_of("x", x.dtype)
    _width("bits", bits)
    if x.dim() == 0:
        raise ValueError("x has no axes: must be [..., d]")
    *leading, d = x.shape
    _groups(d, group)
    grids = (*leading, d // group)
    return (
        x.new_empty((*leading, d * bits // 8), dtype=torch.uint8),
        x.new_empty(grids, dtype=torch.bfloat16),
        x.new_empty(grids, dtype=torch.bfloat16),
    )


def _dequantize(
    codes: torch.Tensor,
    minimum: torch.Tensor,
    extent: torch.Tensor,
    bits: int,
    group: int,
    dtype: torch.dtype,
    kernel: str | None = None,
) -> torch.Tensor:
    x = _dequantize_fake(codes, minimum, extent, bits, group, dtype)
    codes, minimum, extent = codes.contiguous(), minimum.contiguous(), extent.contiguous()
    d = x.shape[-1]
    _core.kv_dequantize(
        *exec_of(x, kernel, None), 0, 0,
        _code_of("dtype", dtype), bits, x.numel() // d if d else 0, d, group,
        codes.data_ptr(), minimum.data_ptr(), extent.data_ptr(), x.data_ptr(),
    )  # fmt: skip
    return x


def _dequantize_fake(
    codes: torch.Tensor,
    minimum: torch.Tensor,
    extent: torch.Tensor,
    bits: int,
    group: int,
    dtype: torch.dtype,
    kernel: str | None = None,
) -> torch.Tensor:
    d = _consistent(codes, minimum, extent, bits, group)
    _code_of("dtype", dtype)
    return codes.new_empty((*codes.shape[:-1], d), dtype=dtype)


def _halvings(bits: int, to: int) -> None:
    _width("bits", bits)
    _width("to", to)
    if to >= bits:
        raise ValueError(f"to is {to}: must be less than bits, {bits}")


def _shrink(codes: torch.Tensor, bits: int, to: int, kernel: str | None = None) -> torch.Tensor:
    out = _shrink_fake(codes, bits, to)
    codes = codes.contiguous()
    # Rows follow each other without gaps: one block.
    _core.kv_shrink(
        *exec_of(codes, kernel, None), 0, 0,
        _ROWS, bits, to, 1, 1, codes.numel() * 8 // bits,
        codes.data_ptr(), codes.numel(), out.data_ptr(), out.numel(), 0,
    )  # fmt: skip
    return out


def _shrink_fake(
    codes: torch.Tensor, bits: int, to: int, kernel: str | None = None
) -> torch.Tensor:
    _halvings(bits, to)
    d = _codes(codes, bits)
    return codes.new_empty((*codes.shape[:-1], d * to // 8))


def _shrink_blocks(
    pool: torch.Tensor,
    index: torch.Tensor,
    count: int,
    bits: int,
    to: int,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    _shrink_blocks_fake(pool, index, count, bits, to)
    strides("pool", pool)
    where = exec_of(pool, kernel, check)
    if checks_on_device(where, check):
        check_blocks(index, pool.shape[0])
    address, stride = pool.data_ptr(), pool.stride(0)
    _core.kv_shrink(
        *where, 0, 0,
        _TILES, bits, to, index.shape[0], pool.shape[0], count,
        address, stride, address, stride, index.data_ptr(),
    )  # fmt: skip


def _shrink_blocks_fake(
    pool: torch.Tensor, index: torch.Tensor, count: int, bits: int, to: int, *options: Any
) -> None:
    _halvings(bits, to)
    if pool.dtype is not torch.uint8:
        raise ValueError(f"pool is {pool.dtype}: must be torch.uint8")
    if pool.dim() != 2:
        raise ValueError(f"pool has shape {tuple(pool.shape)}: must be [blocks, bytes]")
    indices("index", index, (index.numel(),))
    if index.device != pool.device:
        raise ValueError(f"index is on {index.device}: must be on {pool.device} like pool")
    if count < 0 or count % TILE_CODES:
        raise ValueError(f"count is {count}: must be a multiple of {TILE_CODES}")
    if count * bits // 8 > pool.shape[1]:
        raise ValueError(
            f"count is {count}: a block of {pool.shape[1]} bytes holds at most "
            f"{pool.shape[1] * 8 // bits} codes of {bits} bits"
        )


KV_QUANTIZE = define(
    "kv_quantize(Tensor x, int bits, int group, str? kernel_name=None) "
    "-> (Tensor codes, Tensor min, Tensor range)",
    _quantize,
    _quantize_fake,
)
KV_DEQUANTIZE = define(
    "kv_dequantize(Tensor codes, Tensor min, Tensor range, int bits, int group, "
    "ScalarType dtype, str? kernel_name=None) -> Tensor",
    _dequantize,
    _dequantize_fake,
)
KV_SHRINK = define(
    "kv_shrink(Tensor codes, int bits, int to, str? kernel_name=None) -> Tensor",
    _shrink,
    _shrink_fake,
)
KV_SHRINK_BLOCKS = define(
    "kv_shrink_blocks(Tensor(a!) pool, Tensor index, int count, int bits, int to, "
    "str? kernel_name=None, bool? check=None) -> ()",
    _shrink_blocks,
    _shrink_blocks_fake,
)
define_without_gradient(KV_QUANTIZE)
define_without_gradient(KV_DEQUANTIZE)
define_without_gradient(KV_SHRINK)
define_without_gradient(KV_SHRINK_BLOCKS, mutated=(0,))
