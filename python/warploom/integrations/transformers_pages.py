"""Keys and values that lie in quantized pages, as a transformers cache hands them to attention.

A layer asks its cache for all keys and values as tensors, then calls attention with them. A cache
of pages has none to give. It gives :class:`PagedStates` instead: a tensor in shape and name only,
that leads ``attn_implementation="warploom"`` to the pages. Any other attention that touches it
fails, and says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from warploom.integrations.transformers_masks import MaskPlan

# Of q [b, sq, h, d], the plan of who sees what, and options of attention: o [b, sq, h, dv].
AttendPages = Callable[[torch.Tensor, MaskPlan, dict[str, Any]], torch.Tensor]

_READABLE = {
    getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout")
} | {torch.Tensor.dim, torch.Tensor.size}


class PagedStates(torch.Tensor):
    """The shape ``[b, hk, sk, d]`` of keys or values, without elements.

    Attributes:
        attend: attention of queries to the pages, to be called once.
    """

    attend: AttendPages

    @classmethod
    def of(cls, like: torch.Tensor, length: int, attend: AttendPages) -> PagedStates:
        """States of ``length`` positions, of the dtype and device of new ones ``[b, hk, s, d]``."""
        b, heads, _, d = like.shape
        states: PagedStates = torch.Tensor._make_subclass(
            cls, like.new_empty(1).expand(b, heads, length, d)
        )
        states.attend = attend
        return states

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _READABLE:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))
        _refuse(getattr(function, "__name__", repr(function)))


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what} of keys or values in quantized pages: this cache needs "
        "attn_implementation='warploom' (model.set_attn_implementation), which reads pages"
    )
