"""The writer of paged caches."""

from __future__ import annotations

from typing import Any

import torch

from warploom import _core
from warploom.ops import _arrays
from warploom.ops._checks import (
    check_options,
    dtype_code,
    indices,
    rank,
    same_device,
    strides,
    wrong_shape,
)
from warploom.ops._execution import checks_on_device, exec_of
from warploom.ops._library import define, define_without_gradient
from warploom.ops._values import check_slots


def page_write(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    """Writes row n of k and v to position ``slots[n]`` of the pages, in place.

    ``slots[n] = page_index * page + offset``; -1 skips the row. Nothing is written when an
    argument is wrong. Slots must differ from each other: which of two rows for one slot stays is
    not said. Not differentiable: inputs that require grad are refused while gradients are recorded.

    Args:
        k_pages: ``[pages, page, hk, d]``, float32, float16 or bfloat16.
        v_pages: ``[pages, page, hk, dv]``, dtype and device of k_pages.
        k: ``[tokens, hk, d]``. v: ``[tokens, hk, dv]``. Likewise.
        slots: ``[tokens]``, int64.
        kernel: name of the kernel to run; None takes the best.
        check: look at the slots first; None does on the CPU and does not on a GPU, where True
            waits for the device. Where they are not looked at, a GPU kernel skips rows whose slot
            does not exist (see ``wl.check``), and the CPU trusts them.

    Raises:
        ValueError: an argument is wrong, a slot does not exist, or pages are read-only.
    """
    arrays = {"k_pages": k_pages, "v_pages": v_pages, "k": k, "v": v, "slots": slots}
    if not _arrays.are_tensors(*arrays.values()):
        _arrays.call(page_write, arrays, kernel, check, written=("k_pages", "v_pages"))
        return
    if kernel is not None:
        check_options(kernel=kernel)
    PAGE_WRITE(k_pages, v_pages, k, v, slots, kernel, check)


def _sizes(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
) -> tuple[int, int, int, int, int, int]:
    rank("k_pages", k_pages, "pages page hk d")
    rank("v_pages", v_pages, "pages page hk dv")
    rank("k", k, "tokens hk d")
    rank("v", v, "tokens hk dv")
    pages, capacity, hk, d = k_pages.shape
    dv, tokens = v_pages.shape[3], k.shape[0]
    right = v_pages.shape[:3] == k_pages.shape[:3]
    wrong_shape("v_pages", v_pages, f"[{pages}, {capacity}, {hk}, dv]", right, "k_pages", k_pages)
    right = k.shape[1:] == k_pages.shape[2:]
    wrong_shape("k", k, f"[tokens, {hk}, {d}]", right, "k_pages", k_pages)
    right = v.shape == (tokens, hk, dv)
    wrong_shape("v", v, f"[{tokens}, {hk}, {dv}]", right, "v_pages", v_pages)
    indices("slots", slots, (tokens,), torch.int64)
    same_device(k_pages, v_pages=v_pages, k=k, v=v, slots=slots, like="k_pages")
    return tokens, hk, d, dv, pages, capacity


def _write(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    kernel: str | None = None,
    check: bool | None = None,
) -> None:
    sizes = _sizes(k_pages, v_pages, k, v, slots)
    code = dtype_code(k_pages, v_pages=v_pages, k=k, v=v, like="k_pages")
    where = exec_of(k_pages, kernel, check)
    if checks_on_device(where, check):
        check_slots(slots, sizes[4] * sizes[5])
    _core.page_write(
        *where, 0, 0,
        code, *sizes,
        slots.data_ptr(),
        k.data_ptr(), strides("k", k),
        v.data_ptr(), strides("v", v),
        k_pages.data_ptr(), strides("k_pages", k_pages),
        v_pages.data_ptr(), strides("v_pages", v_pages),
    )  # fmt: skip


def _write_fake(
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    *options: Any,
) -> None:
    _sizes(k_pages, v_pages, k, v, slots)
    dtype_code(k_pages, v_pages=v_pages, k=k, v=v, like="k_pages")


PAGE_WRITE = define(
    "page_write(Tensor(a!) k_pages, Tensor(b!) v_pages, Tensor k, Tensor v, Tensor slots, "
    "str? kernel_name=None, bool? check=None) -> ()",
    _write,
    _write_fake,
)
define_without_gradient(PAGE_WRITE, mutated=(0, 1))
