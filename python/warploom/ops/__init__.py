"""The ops, on torch tensors and on arrays that speak DLPack. Importing this needs torch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        "warploom's ops need torch, which is not installed: pip install torch"
    ) from _missing

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

__all__ = [
    "KVPages",
    "QuantizedKV",
    "attention",
    "attention_decode",
    "attention_pages",
    "attention_varlen",
    "check",
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
    "merge_states",
    "page_write",
]
