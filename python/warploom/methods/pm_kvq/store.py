"""A paged cache as this method uses it: under a budget of bytes in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import warploom
from warploom.methods.pm_kvq.layout import Layout


class PagedStore:
    """The pages of all layers, of one layout.

    The allocation is somewhat larger than the budget, so that blocks can be moved together; what
    pages take never exceeds the budget.
    """

    def __init__(
        self,
        layout: Layout,
        budget: int,
        bits: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> None:
        page = layout.kv_heads * (2 * layout.block_bytes(16) + layout.metadata_bytes)
        self._budget = budget
        self._pages = warploom.PagedKVCache(
            layers=layout.layers,
            kv_heads=layout.kv_heads,
            head_dim=layout.head_dim,
            page_size=layout.page_size,
            bits=16,
            max_bytes=budget + budget // 16 + 2 * layout.layers * page,
            device=device,
            keys_per_channel=layout.keys_per_channel,
            sink=layout.sink,
            window=layout.window,
        )
        for layer, pair in enumerate(bits):
            self._pages.set_bits(layer, pair)
        self.add_sequence = self._pages.add_sequence
        self.length = self._pages.length
        self.append = self._pages.append
        self.set_bits = self._pages.set_bits
        self.shrink = self._pages.shrink
        self.shortfall = self._pages.shortfall

    def nbytes(self) -> int:
        return int(self._pages.nbytes())

    def free_bytes(self) -> int:
        """Of the budget; the allocation's own may lie apart."""
        return self._budget - self.nbytes()

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        sequences: Sequence[int],
        precision: str,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Causal attention of the newest positions, which are stored, to all: ``[b, s, h, d]``."""
        o: torch.Tensor = self._pages.attend(layer, q, sequences, precision=precision, **options)
        return o

    def attend_past(
        self,
        layer: int,
        q: torch.Tensor,
        sequences: Sequence[int],
        precision: str,
        options: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of positions to come to all that are stored: ``[b, s, h, d]``, lse."""
        shortest = min(self.length(layer, sequence) for sequence in sequences)
        options = {**options, "mask": warploom.mask.full(), "return_lse": True}
        parts = [
            self._pages.attend(layer, part, sequences, precision=precision, **options)
            for part in q.split(shortest, 1)  # no more queries at once than positions
        ]
        if len(parts) == 1:
            return parts[0][0], parts[0][1]
        return torch.cat([o for o, _ in parts], 1), torch.cat([lse for _, lse in parts], 2)

    def take(self, sequences: Sequence[int], rows: Sequence[int]) -> list[int]:
        """Sequences that are what those at ``rows`` were; the old ones are gone."""
        if len(rows) == len(sequences):
            self._pages.reorder(sequences, rows)
            return list(sequences)
        made = [self._pages.fork(sequences[row]) for row in rows]
        for sequence in sequences:
            self._pages.free(sequence)
        return made

    def mean_bits(self, layer: int, sequences: Sequence[int]) -> tuple[float, float]:
        """Of keys and values, over all pages."""
        widths = torch.cat([self._pages.widths(layer, s) for s in sequences]).double()
        if len(widths) == 0:
            return 16.0, 16.0
        keys, values = widths.mean((0, 1)).tolist()
        return keys, values
