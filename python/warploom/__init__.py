"""warploom: kernels and collectives for large-model systems."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from warploom import mask
from warploom._core import DeviceError, version
from warploom.kernels import explain, list_kernels

if TYPE_CHECKING:
    from warploom import reference
    from warploom.kv_cache import PagedKVCache
    from warploom.ops._execution import check
    from warploom.ops.attention import attention, attention_varlen
    from warploom.ops.attention_pages import attention_pages
    from warploom.ops.decode import attention_decode
    from warploom.ops.kv_cache import (
        QuantizedKV,
        kv_dequantize,
        kv_quantize,
        kv_shrink,
        kv_shrink_blocks,
        kv_validate,
    )
    from warploom.ops.kv_pages import KVPages, kv_tag
    from warploom.ops.kv_writers import (
        kv_append,
        kv_copy_pages,
        kv_gather,
        kv_quantize_pages,
        kv_rotate,
        kv_shrink_pages,
    )
    from warploom.ops.merge import merge_states
    from warploom.ops.pages import page_write

__version__ = version()
__all__ = [
    "DeviceError",
    "KVPages",
    "PagedKVCache",
    "QuantizedKV",
    "__version__",
    "attention",
    "attention_decode",
    "attention_pages",
    "attention_varlen",
    "check",
    "explain",
    "kv_append",
    "kv_copy_pages",
    "kv_dequantize",
    "kv_gather",
    "kv_quantize",
    "kv_quantize_pages",
    "kv_rotate",
    "kv_shrink",
    "kv_shrink_blocks",
    "kv_shrink_pages",
    "kv_tag",
    "kv_validate",
    "list_kernels",
    "mask",
    "merge_states",
    "page_write",
    "reference",
]


def __getattr__(name: str) -> Any:
    """Imports the ops or their oracles, and torch with them, when one is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'warploom' has no attribute {name!r}")
    if name == "reference":
        return importlib.import_module("warploom.reference")
    if name == "PagedKVCache":
        return importlib.import_module("warploom.kv_cache").PagedKVCache
    ops = importlib.import_module("warploom.ops")
    globals().update({op: getattr(ops, op) for op in ops.__all__})
    return globals()[name]
