"""What the cache needs of its pages, by whole tensors: a page is an object, attention a matrix.

The formulas are those of the format, by the ops that quantize and shrink; nothing here knows of
pools, tags or kernels.
"""

from __future__ import annotations

from typing import ClassVar

import torch

import warploom as wl

FULL = 16


class Side:
    """Keys, or values, of one page: ``[hk, n, d]`` until full, then codes of a width."""

    def __init__(self, layout, per_channel):
        self.layout, self.per_channel = layout, per_channel
        self.rows = None
        self.codes = None

    @property
    def width(self):
        return self.codes.bits if self.codes else FULL

    def shrink(self, to):
        if to >= self.width:
            return
        if self.codes:
            self.codes = wl.kv_shrink(self.codes, to)
            return
        assert self.rows.shape[1] == self.layout.page_size
        rows = self.rows.transpose(1, 2) if self.per_channel else self.rows
        group = self.layout.key_group if self.per_channel else self.layout.group
        self.codes = wl.kv_quantize(rows.contiguous(), to, group)

    def values(self):
        if not self.codes:
            return self.rows.double()
        back = wl.kv_dequantize(self.codes, torch.float32).double()
        return back.transpose(1, 2) if self.per_channel else back


class Page:
    def __init__(self, layout):
        self.sides = (Side(layout, layout.keys_per_channel), Side(layout, False))

    def copy(self):
        made = Page(self.sides[0].layout)
        for mine, theirs in zip(made.sides, self.sides, strict=True):
            mine.rows, mine.codes = theirs.rows, theirs.codes
        return made


class PlainStore:
    made: ClassVar[list[PlainStore]] = []  # every one, for tests to look at

    def __init__(self, layout, budget, bits, device):
        self.layout, self.budget = layout, budget
        self.bits = [list(pair) for pair in bits]
        self.rows = {}  # sequence: layers of pages
        self.lengths = {}
        self.peak = 0
        self.shrunk = []  # calls, in order
        self.next = 0
        PlainStore.made.append(self)

    def add_sequence(self):
        self.next += 1
        self.rows[self.next] = [[] for _ in range(self.layout.layers)]
        self.lengths[self.next] = [0] * self.layout.layers
        return self.next

    def length(self, layer, sequence):
        return self.lengths[sequence][layer]

    def pages(self):
        return {id(p): p for layers in self.rows.values() for pages in layers for p in pages}

    def nbytes(self):
        one = self.layout
        blocks = sum(one.block_bytes(s.width) for p in self.pages().values() for s in p.sides)
        return one.kv_heads * (blocks + len(self.pages()) * one.metadata_bytes)

    def free_bytes(self):
        return self.budget - self.nbytes()

    def set_bits(self, layer, bits):
        self.bits[layer] = list(bits)

    def shrink(self, layer, sequence, bits, pages):
        assert set(pages) <= set(self.layout.body(self.length(layer, sequence)))
        self.shrunk.append((layer, sequence, bits, pages))
        for at in pages:
            for side, to in zip(self.rows[sequence][layer][at].sides, bits, strict=True):
                side.shrink(to)

    def append(self, layer, sequences, k, v):
        size = self.layout.page_size
        for sequence, rows_k, rows_v in zip(sequences, k, v, strict=True):
            pages = self.rows[sequence][layer]
            for row_k, row_v in zip(rows_k.bfloat16(), rows_v.bfloat16(), strict=True):
                at = self.lengths[sequence][layer]
                if at % size == 0:
                    pages.append(Page(self.layout))
                else:
                    pages[-1] = pages[-1].copy()
                for side, row in zip(pages[-1].sides, (row_k, row_v), strict=True):
                    new = row[:, None]
                    side.rows = new if at % size == 0 else torch.cat([side.rows, new], 1)
                self.lengths[sequence][layer] += 1
                self.peak = max(self.peak, self.nbytes())
                for cold in set(self.layout.body(at + 1)) - set(self.layout.body(at)):
                    for side, to in zip(pages[cold].sides, self.bits[layer], strict=True):
                        side.shrink(to)

    def states(self, layer, sequence):
        pages = self.rows[sequence][layer]
        return [torch.cat([p.sides[kind].values() for p in pages], 1) for kind in (0, 1)]

    def _attend(self, layer, q, sequences, mask, scale):
        outputs = []
        for sequence, queries in zip(sequences, q, strict=True):
            k, v = (x.transpose(0, 1)[None] for x in self.states(layer, sequence))
            outputs.append(
                wl.reference.attention(queries[None].double(), k, v, mask=mask, scale=scale)
            )
        o, lse = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        return o.to(q.dtype), lse.float()

    def attend(self, layer, q, sequences, precision, options):
        return self._attend(layer, q, sequences, wl.mask.causal(), options["scale"])[0]

    def attend_past(self, layer, q, sequences, precision, options):
        return self._attend(layer, q, sequences, wl.mask.full(), options["scale"])

    def take(self, sequences, rows):
        made = []
        for row in rows:
            self.next += 1
            self.rows[self.next] = [list(pages) for pages in self.rows[sequences[row]]]
            self.lengths[self.next] = list(self.lengths[sequences[row]])
            made.append(self.next)
        for sequence in sequences:
            del self.rows[sequence], self.lengths[sequence]
        return made

    def mean_bits(self, layer, sequences):
        pages = [p for s in sequences for p in self.rows[s][layer]]
        return tuple(
            sum(p.sides[kind].width for p in pages) / max(len(pages), 1) for kind in (0, 1)
        )
