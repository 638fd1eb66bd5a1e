"""A paged cache of keys and values that shrinks where it lies. docs/kv_cache.md tells how."""

from warploom.kv_cache.cache import PagedKVCache

__all__ = ["PagedKVCache"]
