"""Checks of shapes, dtypes, devices and strides: nothing here reads a tensor's values."""

from __future__ import annotations

from typing import Any

import torch

from warploom.mask import NO_LIMIT, Mask
from warploom.ops._execution import DTYPE_CODES

# b, h, hk, d, dv, sq, sk, tq, tk: the order of wl_attention_problem
Sizes = tuple[int, int, int, int, int, int, int, int, int]


def band(mask: Mask | None, default: tuple[int, int] = (NO_LIMIT, NO_LIMIT)) -> tuple[int, int]:
    """The mask's two sides."""
    if mask is None:
        return default
    if not isinstance(mask, Mask):
        raise ValueError(
            f"mask is {mask!r}: must be wl.mask.full(), causal() or window(left, right)"
        )
    return mask.left, mask.right


def check_options(*, scale: Any = None, softcap: Any = None, kernel: Any = None) -> None:
    """Numbers and a name, or None; what a number's value must be, the core checks."""
    for name, number in (("scale", scale), ("softcap", softcap)):
        if number is None or isinstance(number, (float, int)):
            continue
        if not hasattr(number, "__float__"):
            raise ValueError(f"{name} is {number!r}: must be a number or None")
    if kernel is not None and not isinstance(kernel, str):
        raise ValueError(
            f"kernel is {kernel!r}: must be a kernel's name, from wl.list_kernels(), or None"
        )


def dtype_code(
    q: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    *,
    like: str = "q",
    **others: Any,
) -> int:
    """The dtype's code, the same for all of them; ``like`` is the first one's name."""
    dtype = q.dtype
    code = DTYPE_CODES.get(dtype)
    if code is None:
        raise ValueError(
            f"{like} is {dtype}: must be torch.float32, torch.float16 or torch.bfloat16"
        )
    if k is not None and k.dtype is not dtype:
        raise ValueError(f"k is {k.dtype}: must be {dtype} like {like}")
    if v is not None and v.dtype is not dtype:
        raise ValueError(f"v is {v.dtype}: must be {dtype} like {like}")
    for name, other in others.items():
        if other.dtype is not dtype:
            raise ValueError(f"{name} is {other.dtype}: must be {dtype} like {like}")
    return code


def same_device(q: torch.Tensor, *, like: str = "q", **others: torch.Tensor | None) -> None:
    """All of them on the device of the first, which ``like`` names: torch picks an implementation
    by the mix of devices it finds."""
    for name, other in others.items():
        if other is not None and other.device != q.device:
            raise ValueError(f"{name} is on {other.device}: must be on {q.device} like {like}")


def strides(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides, of which the last must be 1."""
    found = tensor.stride()
    if found[-1] != 1 and tensor.shape[-1] > 1:
        raise ValueError(
            f"{name} has strides {found}: the last axis must be contiguous; call .contiguous()"
        )
    return found


def indices(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.int32
) -> None:
    """A tensor of integers of that shape, whose last axis is contiguous."""
    if tensor.dtype is not dtype:
        raise ValueError(f"{name} is {tensor.dtype}: must be {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: must be {shape}")
    strides(name, tensor)


def rank(name: str, tensor: torch.Tensor, axes: str) -> None:
    """As many axes as ``axes`` names, e.g. "b s h d"."""
    if tensor.dim() != len(axes.split()):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}: must have {len(axes.split())} axes, "
            f"[{', '.join(axes.split())}]"
        )


def dense_sizes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Sizes:
    """Of q ``[b, sq, h, d]``, k ``[b, sk, hk, d]`` and v ``[b, sk, hk, dv]``."""
    try:  # in place of looking at ranks first: every call comes through here
        b, sq, h, d = q.shape
        bk, sk, hk, dk = k.shape
        bv, sv, hv, dv = v.shape
    except ValueError:
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            rank(name, tensor, "b s h d")
        raise
    if bk != b or dk != d or bv != b or sv != sk or hv != hk:
        wrong_shape("k", k, f"[{b}, sk, hk, {d}]", bk == b and dk == d, "q", q)
        wrong_shape("v", v, f"[{b}, {sk}, {hk}, dv]", False, "k", k)
    if hk == 0 or h % hk != 0:
        check_heads(h, hk)
    return b, h, hk, d, dv, sq, sk, 0, 0


def ragged_sizes(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen: int | None,
) -> Sizes:
    """Of q ``[tq, h, d]``, k ``[tk, hk, d]``, v ``[tk, hk, dv]`` and offsets ``[b + 1]``."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        rank(name, tensor, "tokens h d")
    rank("cu_seqlens_q", cu_seqlens_q, "sequences+1")
    tq, h, d = q.shape
    tk, hk, dk = k.shape
    tv, hv, dv = v.shape
    if dk != d or tv != tk or hv != hk:
        wrong_shape("k", k, f"[tokens, hk, {d}]", dk == d, "q", q)
        wrong_shape("v", v, f"[{tk}, {hk}, dv]", False, "k", k)
    check_heads(h, hk)
    offsets = cu_seqlens_q.shape[0]
    if offsets == 0:
        raise ValueError("cu_seqlens_q is empty: must have one offset more than sequences")
    indices("cu_seqlens_q", cu_seqlens_q, (offsets,))
    indices("cu_seqlens_k", cu_seqlens_k, (offsets,))
    if max_seqlen is not None and max_seqlen < 0:
        raise ValueError(f"max_seqlen is {max_seqlen}: must not be negative")
    sq, sk = (tq, tk) if max_seqlen is None else (max_seqlen, max_seqlen)
    return offsets - 1, h, hk, d, dv, sq, sk, tq, tk


def wrong_shape(
    name: str, tensor: torch.Tensor, needed: str, right: bool, other_name: str, other: torch.Tensor
) -> None:
    """Raises unless ``right``."""
    if not right:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}: must be {needed} for {other_name} of shape "
            f"{tuple(other.shape)}"
        )


def check_heads(h: int, hk: int) -> None:
    if h > 0 and (hk == 0 or h % hk != 0):
        raise ValueError(
            f"k has {hk} heads and q {h}: the key/value heads must divide the query heads"
        )
