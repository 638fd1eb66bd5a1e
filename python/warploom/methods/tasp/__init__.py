"""Attention of a sequence that is cut over ranks, with key and value exchange fit to the links."""

from warploom.methods.tasp.attention import ring_attention
from warploom.methods.tasp.sharding import Sharding

__all__ = ["Sharding", "ring_attention"]
