"""Readable oracles with the ops' signatures.

They compute in the dtype of their inputs: in float64 they say what is right, in a kernel's own
dtype how far off plain torch is. Hidden pairs are never computed, so a NaN there does not show.
"""

from warploom.reference.attention import (
    attention,
    attention_backward,
    attention_decode,
    attention_varlen,
    attention_varlen_backward,
    merge_states,
    page_write,
)
from warploom.reference.kv_cache import (
    kv_codes,
    kv_grid,
    kv_pack,
    kv_shrunk,
    kv_tiles,
    kv_unpack,
    kv_values,
)
from warploom.reference.kv_pages import attention_pages, kv_block, kv_page_values

__all__ = [
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_pages",
    "attention_varlen",
    "attention_varlen_backward",
    "kv_block",
    "kv_codes",
    "kv_grid",
    "kv_pack",
    "kv_page_values",
    "kv_shrunk",
    "kv_tiles",
    "kv_unpack",
    "kv_values",
    "merge_states",
    "page_write",
]
