"""Writers of quantized pages, and readers of single positions."""

from __future__ import annotations

import math
from typing import Any

import torch

from warploom import _core
from warploom.ops._checks import dtype_code, indices, rank, same_device, strides
from warploom.ops._execution import exec_of
from warploom.ops._library import define, define_without_gradient
from warploom.ops.kv_pages import NO_BLOCK, KVPages

_Rows = tuple[torch.Tensor, torch.Tensor]
_SIDES = ("keys", "values")


def kv_append(
    pages: KVPages,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    """Writes rows of keys and values into blocks of 16 bits, rounded to bfloat16, in place.

    Args:
        pages: what is written.
        k: ``[n, hk, d]``, or ``[b, s, hk, d]``, as attention is to see them: after RoPE. float32,
            float16 or bfloat16, last axis contiguous.
        v: ``[n, hk, dv]``, or ``[b, s, hk, dv]``; dtype of k.
        slots: ``[n]`` or ``[b, s]``, int64: page * page_size + offset, all different; -1 skips.
        kernel: name of the kernel to run; None takes the best.
        check: look at slots and tags first; None does on the CPU.

    Raises:
        ValueError: an argument is wrong, a block is not of 16 bits, or k or v holds an infinity, a
            NaN, or a value of 2**127 or more (skipped rows among them); nothing is written. On a
            GPU the next call or :func:`warploom.check` raises DeviceError instead, and what is
            wrong, a head's row of k or of v, is not written.
    """
    KV_APPEND(*pages_parts(pages), k, v, slots, kernel, check)


def kv_quantize_pages(
    pages: KVPages,
    blocks: torch.Tensor,
    bits: torch.Tensor | int,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    """Blocks of 16 bits to 8, 4 or 2 where they lie: writes codes, grids and tags.

    A block's codes begin where it did; what is left of it is undefined and free for others. Codes
    are the same to the bit as those of :func:`warploom.kv_quantize`, on every target.

    Args:
        pages: what is written.
        blocks: ``[n]``, int32, all different: ``(page * hk + head) * 2``, and 1 more for values.
        bits: 8, 4 or 2; or ``[n]``, int32.
        kernel, check: as for :func:`kv_append`.

    Raises:
        ValueError: an argument is wrong; nothing is written. Or a block holds an infinity, a NaN or
            a group beyond bfloat16, which :func:`kv_append` never wrote: the message names it; it
            stays as it was, while others may have been quantized. On a GPU the next call or
            :func:`warploom.check` raises DeviceError instead, for either.
    """
    KV_QUANTIZE_PAGES(*pages_parts(pages), blocks, _each(bits, blocks), kernel, check)


def kv_shrink_pages(
    pages: KVPages,
    blocks: torch.Tensor,
    bits: torch.Tensor | int,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    """Blocks of 8 or 4 bits to fewer where they lie, by one or two halvings in one pass.

    Codes and tags are rewritten; grids stay. Arguments and errors as for
    :func:`kv_quantize_pages`; blocks may be of different widths.
    """
    KV_SHRINK_PAGES(*pages_parts(pages), blocks, _each(bits, blocks), kernel, check)


def kv_gather(
    pages: KVPages,
    slots: torch.Tensor,
    dtype: torch.dtype = torch.bfloat16,
    kernel: str | None = None,
    check: bool | None = None,
) -> _Rows:
    """Keys ``[n, hk, d]`` and values ``[n, hk, dv]`` of single positions, whatever their width.

    What 16 bits hold comes back exactly (in bfloat16 or float32); a code comes back as
    ``min + code * range / (2**bits - 1)`` in float32, rounded to ``dtype``.

    Args:
        pages: what is read.
        slots: ``[n]``, int64: page * page_size + offset.
        dtype: torch.float32, torch.float16 or torch.bfloat16.
        kernel, check: as for :func:`kv_append`.

    Raises:
        ValueError: an argument is wrong, or a slot lies in no block.
    """
    k, v = KV_GATHER(*pages_parts(pages), slots, dtype, kernel, check)
    return k, v


def kv_rotate(
    pages: KVPages,
    index: torch.Tensor,
    delta: torch.Tensor | float,
    inv_freq: torch.Tensor,
    interleaved: bool = False,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    """Moves stored keys by ``delta`` positions of rotary embedding (RoPE), in place.

    Pair i of the first ``2 * len(inv_freq)`` channels turns by ``delta * inv_freq[i]``: what
    RoPE would have given at the other position. Angles are taken in float64, the turn in float32.
    A block of 16 bits is rounded to bfloat16 again, at most 2**-8 of the pair's length away; one
    of codes is quantized anew at its width, at most half a step of its new grid (and 2**-14 of one,
    and the turn's own rounding, 2**-22 of the pair's length) away from the turned key that its
    codes stood for.

    Args:
        pages: what is written.
        index: ``[n]``, int32, all different: which pages.
        delta: a number; ``[n]``, one to a page; or ``[n, page_size]``, one to a position.
        inv_freq: ``[half]``, as the model's: radians to a position. 2 * half is at most d;
            channels beyond stay.
        interleaved: pairs are channels 2 i and 2 i + 1; else i and i + half.
        kernel, check: as for :func:`kv_append`.

    Raises:
        ValueError: an argument is wrong; nothing is written.
    """
    turned = torch.as_tensor(delta, dtype=torch.float64, device=index.device)
    if turned.dim() > 2:
        raise ValueError(
            f"delta has shape {tuple(turned.shape)}: must be a number, [n] or [n, page_size]"
        )
    if not bool(turned.isfinite().all()):
        raise ValueError("delta holds an infinity or a NaN: must be finite")
    KV_ROTATE(*pages_parts(pages), index, turned, inv_freq, interleaved, kernel, check)


def kv_copy_pages(
    source: KVPages, source_index: torch.Tensor, target: KVPages, target_index: torch.Tensor
) -> None:
    """Copies pages into pages of another pool, which may be on another device.

    Blocks must have the widths of those that they are copied from: tags say where a block lies, so
    the target's own are kept. Codes and grids arrive as they were, to the bit.

    Args:
        source, target: equal in page size, heads, head dims and groups.
        source_index: ``[n]``, int32: pages to read.
        target_index: ``[n]``, int32, all different: pages to write.

    Raises:
        ValueError: an argument is wrong; nothing is written.
    """
    _same_kind(source, target)
    for name, index, pages in (
        ("source_index", source_index, source),
        ("target_index", target_index, target),
    ):
        indices(name, index, (source_index.numel(),))
        wrong = ((index < 0) | (index >= pages.pages)).nonzero()
        if len(wrong):
            n = int(wrong[0])
            raise ValueError(f"{name}[{n}] is {int(index[n])}: must be from 0 to {pages.pages - 1}")
    if target_index.unique().numel() != target_index.numel():
        raise ValueError("target_index names a page twice: pages must differ")
    here = source_index.to(source.pool.device).long()
    there = target_index.to(target.pool.device).long()
    tags, into = source.tags[here].cpu(), target.tags[there].cpu()
    wrong = ((tags == NO_BLOCK) | (into == NO_BLOCK) | ((tags & 3) != (into & 3))).nonzero()
    if len(wrong):
        n, head, side = wrong[0].tolist()
        raise ValueError(
            f"the {_SIDES[side]} of page {int(source_index[n])}, head {head} are "
            f"{_width(tags[n, head, side])} and of the target's page {int(target_index[n])} "
            f"{_width(into[n, head, side])}: must be of the same width"
        )
    step = math.gcd(
        source.quantum_bytes,
        target.quantum_bytes,
        source.block_bytes(2),
        source.block_bytes(2, values=True),
    )
    for side in range(2):
        for code in (tags[..., side] & 3).unique().tolist():
            chosen = (tags[..., side] & 3) == code
            bytes_ = source.block_bytes(2 << code, values=bool(side))
            rows = []
            for pages, all_tags in ((source, tags), (target, into)):
                starts = (all_tags[..., side][chosen].long() >> 2) * pages.quantum_bytes
                each = starts.unsqueeze(1) // step + torch.arange(bytes_ // step)
                rows.append(each.flatten().to(pages.pool.device))
            data = _in_steps(source.pool, step)[rows[0]].to(target.pool.device)
            _in_steps(target.pool, step).index_copy_(0, rows[1], data)
    for name in ("key_grids", "value_grids"):
        grids = getattr(source, name)[here].to(target.pool.device)
        getattr(target, name).index_copy_(0, there, grids)


def _in_steps(pool: torch.Tensor, step: int) -> torch.Tensor:
    return pool[: pool.numel() // step * step].view(-1, step)


def _width(tag: torch.Tensor) -> str:
    return "not there" if int(tag) == NO_BLOCK else f"{2 << (int(tag) & 3)} bit"


def _same_kind(source: KVPages, target: KVPages) -> None:
    for name in (
        "page_size", "kv_heads", "head_dim", "value_dim", "key_group", "value_group",
        "keys_per_channel",
    ):  # fmt: skip
        a, b = getattr(source, name), getattr(target, name)
        if a != b:
            raise ValueError(f"target has {name} {b}: must have {a} like source")


def _each(bits: torch.Tensor | int, blocks: torch.Tensor) -> torch.Tensor:
    if isinstance(bits, torch.Tensor):
        return bits
    return torch.full_like(blocks, bits, dtype=torch.int32)


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, int, bool]


def pages_parts(pages: KVPages) -> Parts:
    """The pages as arguments of an op."""
    return (
        pages.pool, pages.tags, pages.key_grids, pages.value_grids,
        pages.key_group, pages.value_group, pages.quantum_bytes, pages.keys_per_channel,
    )  # fmt: skip


def rows_of(pages: KVPages, k: torch.Tensor, v: torch.Tensor) -> tuple[int, int]:
    """How many rows of k and v there are along the two axes before the heads."""
    rank("k", k, "b s hk d" if k.dim() == 4 else "n hk d")
    for name, x, dim in (("k", k, pages.head_dim), ("v", v, pages.value_dim)):
        wanted = (*k.shape[:-2], pages.kv_heads, dim)
        if x.shape != wanted:
            axes = "b, s" if k.dim() == 4 else "n"
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}: must be [{axes}, {pages.kv_heads}, {dim}]"
                + (f" with {tuple(k.shape[:-2])} like k" if name == "v" else "")
            )
    return (k.shape[0], k.shape[1]) if k.dim() == 4 else (1, k.shape[0])


def _append(*arguments: Any) -> None:
    *parts, k, v, slots, kernel, check = _with_options(arguments, 11)
    KVPages(*parts).check_shapes()
    pages = _append_fake(*parts, k, v, slots)
    where = exec_of(pages.pool, kernel, check)
    n0, n1 = rows_of(pages, k, v)
    k, v = (x if x.dim() == 4 else x.unsqueeze(0) for x in (k, v))
    _core.kv_append(
        *where, 0, 0, *pages.core_arguments(), dtype_code(k, v=v, like="k"), n0, n1,
        k.data_ptr(), strides("k", k), v.data_ptr(), strides("v", v), slots.data_ptr(),
    )  # fmt: skip


def _append_fake(*arguments: Any) -> KVPages:
    parts, (k, v, slots) = arguments[:8], arguments[8:11]
    pages = KVPages(*parts)
    rows_of(pages, k, v)
    dtype_code(k, v=v, like="k")
    indices("slots", slots, tuple(k.shape[:-2]), torch.int64)
    if not slots.is_contiguous():
        raise ValueError(f"slots has strides {slots.stride()}: must be contiguous")
    same_device(pages.pool, k=k, v=v, slots=slots, like="pool")
    return pages


def _with_options(arguments: tuple[Any, ...], needed: int) -> tuple[Any, ...]:
    """kernel and check, which may be left out, are None then."""
    return (*arguments, *(None,) * (needed + 2 - len(arguments)))


def _blocks(function: Any) -> Any:
    def run(*arguments: Any) -> None:
        *parts, blocks, bits, kernel, check = _with_options(arguments, 10)
        KVPages(*parts).check_shapes()
        pages = _blocks_fake(*parts, blocks, bits)
        function(
            *exec_of(pages.pool, kernel, check), 0, 0, *pages.core_arguments(),
            blocks.numel(), blocks.data_ptr(), bits.data_ptr(),
        )  # fmt: skip

    return run


def _blocks_fake(*arguments: Any) -> KVPages:
    parts, (blocks, bits) = arguments[:8], arguments[8:10]
    pages = KVPages(*parts)
    indices("blocks", blocks, (blocks.numel(),))
    indices("bits", bits, (blocks.numel(),))
    same_device(pages.pool, blocks=blocks, bits=bits, like="pool")
    return pages


def _gather(*arguments: Any) -> _Rows:
    *parts, slots, dtype, kernel, check = _with_options(arguments, 10)
    pages = KVPages(*parts)
    pages.check_shapes()
    k, v = _gather_fake(*parts, slots, dtype)
    _core.kv_gather(
        *exec_of(pages.pool, kernel, check), 0, 0, *pages.core_arguments(),
        dtype_code(k, v=v, like="dtype"), slots.numel(),
        slots.data_ptr(), k.data_ptr(), v.data_ptr(),
    )  # fmt: skip
    return k, v


def _gather_fake(*arguments: Any) -> _Rows:
    parts, (slots, dtype) = arguments[:8], arguments[8:10]
    pages = KVPages(*parts)
    indices("slots", slots, (slots.numel(),), torch.int64)
    same_device(pages.pool, slots=slots, like="pool")
    rows = (slots.numel(), pages.kv_heads)
    return (
        pages.pool.new_empty((*rows, pages.head_dim), dtype=dtype),
        pages.pool.new_empty((*rows, pages.value_dim), dtype=dtype),
    )


def _rotate(*arguments: Any) -> None:
    *parts, index, delta, inv_freq, interleaved, kernel, check = _with_options(arguments, 12)
    KVPages(*parts).check_shapes()
    pages = _rotate_fake(*parts, index, delta, inv_freq)
    half = inv_freq.numel()
    angles = delta.unsqueeze(-1) * inv_freq.double()
    cos, sin = angles.cos().float(), angles.sin().float()
    page_stride = cos.stride(0) if delta.dim() > 0 else 0
    position_stride = half if delta.dim() == 2 else 0
    _core.kv_rotate(
        *exec_of(pages.pool, kernel, check), 0, 0, *pages.core_arguments(),
        index.numel(), index.data_ptr(), half, interleaved,
        cos.data_ptr(), sin.data_ptr(), page_stride, position_stride,
    )  # fmt: skip


def _rotate_fake(*arguments: Any) -> KVPages:
    parts, (index, delta, inv_freq) = arguments[:8], arguments[8:11]
    pages = KVPages(*parts)
    indices("index", index, (index.numel(),))
    shapes = [(), (index.numel(),), (index.numel(), pages.page_size)]
    if tuple(delta.shape) not in shapes:
        raise ValueError(
            f"delta has shape {tuple(delta.shape)}: must be a number, {shapes[1]} or {shapes[2]}"
        )
    if inv_freq.dim() != 1 or not 1 <= inv_freq.numel() <= pages.head_dim // 2:
        raise ValueError(
            f"inv_freq has shape {tuple(inv_freq.shape)}: must be [half], half from 1 to "
            f"{pages.head_dim // 2}"
        )
    same_device(pages.pool, index=index, delta=delta, inv_freq=inv_freq, like="pool")
    return pages


_PAGES = (
    "Tensor tags, Tensor(b!) key_grids, Tensor(c!) value_grids, int key_group, int value_group, "
    "int quantum_bytes, bool keys_per_channel, "
)
_READ = _PAGES.replace("(b!)", "").replace("(c!)", "")
_OPTIONS = "str? kernel_name=None, bool? check=None) -> "


def _nothing(fake: Any) -> Any:
    def run(*arguments: Any) -> None:
        fake(*arguments)

    return run


KV_APPEND = define(
    f"kv_append(Tensor(a!) pool, {_READ}Tensor k, Tensor v, Tensor slots, {_OPTIONS}()",
    _append,
    _nothing(_append_fake),
)
_CHANGED = "(Tensor(a!) pool, " + _PAGES.replace("Tensor tags", "Tensor(d!) tags")
KV_QUANTIZE_PAGES = define(
    f"kv_quantize_pages{_CHANGED}Tensor blocks, Tensor bits, {_OPTIONS}()",
    _blocks(_core.kv_quantize_pages),
    _nothing(_blocks_fake),
)
KV_SHRINK_PAGES = define(
    f"kv_shrink_pages(Tensor(a!) pool, {_READ.replace('Tensor tags', 'Tensor(d!) tags')}"
    f"Tensor blocks, Tensor bits, {_OPTIONS}()",
    _blocks(_core.kv_shrink_pages),
    _nothing(_blocks_fake),
)
KV_GATHER = define(
    f"kv_gather(Tensor pool, {_READ}Tensor slots, ScalarType dtype, {_OPTIONS}(Tensor k, Tensor v)",
    _gather,
    _gather_fake,
)
KV_ROTATE = define(
    f"kv_rotate(Tensor(a!) pool, {_READ.replace('Tensor key_grids', 'Tensor(b!) key_grids')}"
    f"Tensor index, Tensor delta, Tensor inv_freq, bool interleaved, {_OPTIONS}()",
    _rotate,
    _nothing(_rotate_fake),
)
define_without_gradient(KV_APPEND, mutated=(0,))
define_without_gradient(KV_QUANTIZE_PAGES, mutated=(0, 1, 2, 3))
define_without_gradient(KV_SHRINK_PAGES, mutated=(0, 1))
define_without_gradient(KV_GATHER)
define_without_gradient(KV_ROTATE, mutated=(0, 2))
