"""Values that index memory, looked at before a call on a GPU: torch computes there, the host waits.

The core does the same for memory that the host can read (a family's validate.cc), in the same
words.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from warploom.ops.kv_pages import KVPages


def check_offsets(name: str, offsets: torch.Tensor, rows: int, longest: int) -> None:
    """From 0 to ``rows``, never decreasing, no sequence longer than ``longest``."""
    wide = offsets.long()  # differences of wild offsets must not wrap around
    lengths = wide.diff()
    wrong = torch.cat(
        [wide[:1] != 0, (lengths < 0) | (lengths > longest), wide[-1:] != rows]
    ).nonzero()
    if len(wrong) == 0:
        return
    at, values = int(wrong[0]), wide.tolist()
    if at == 0:
        raise ValueError(f"{name}[0] is {values[0]}: must be 0")
    if at == len(values):
        raise ValueError(f"{name}[{at - 1}] is {values[-1]}: must be the number of rows, {rows}")
    before, here = values[at - 1], values[at]
    if here < before:
        raise ValueError(
            f"{name}[{at - 1}] is {before} and {name}[{at}] is {here}: offsets must not decrease"
        )
    raise ValueError(
        f"{name} gives sequence {at - 1} a length of {here - before}: max_seqlen is {longest}"
    )


def check_lengths(lengths: torch.Tensor, s: int, capacity: int) -> None:
    """From ``s`` to the positions that a sequence can have."""
    wrong = ((lengths < s) | (lengths > capacity)).nonzero()
    if len(wrong):
        n = int(wrong[0])
        raise ValueError(
            f"lengths[{n}] is {int(lengths[n])}: must be from s = {s} to the cache's capacity, "
            f"{capacity}"
        )


def check_page_table(
    page_table: torch.Tensor, lengths: torch.Tensor, page: int, pages: int
) -> None:
    """Those entries that hold positions of a sequence, from 0 to ``pages`` - 1."""
    first = page * torch.arange(page_table.shape[1], device=page_table.device)
    used = first < lengths.unsqueeze(1)
    wrong = (used & ((page_table < 0) | (page_table >= pages))).nonzero()
    if len(wrong):
        n, i = wrong[0].tolist()
        raise ValueError(
            f"page_table[{n}, {i}] is {int(page_table[n, i])}: must be from 0 to {pages - 1}"
        )


def check_tags(pages: KVPages, page_table: torch.Tensor, lengths: torch.Tensor) -> None:
    """Of the pages that hold positions of a sequence: of blocks within the pool."""
    first = pages.page_size * torch.arange(page_table.shape[1], device=page_table.device)
    used = page_table[first < lengths.unsqueeze(1)].long().unique()
    tags = pages.tags[used].long()
    sizes = torch.tensor([pages.block_bytes(2), pages.block_bytes(2, values=True)])
    ends = (tags >> 2) * pages.quantum_bytes + (sizes.to(tags.device) << (tags & 3))
    wrong = ((tags < 0) | (ends > pages.pool.numel())).nonzero()
    if len(wrong):
        n, head, side = wrong[0].tolist()
        raise ValueError(
            f"tags[{int(used[n])}, {head}, {side}] is {int(tags[n, head, side])}: must be of a "
            f"block within the pool's {pages.pool.numel()} bytes"
        )


def check_slots(slots: torch.Tensor, positions: int) -> None:
    """-1, or one of the positions in the pages."""
    wrong = ((slots < -1) | (slots >= positions)).nonzero()
    if len(wrong):
        n = int(wrong[0])
        raise ValueError(
            f"slots[{n}] is {int(slots[n])}: must be -1 (skip) or from 0 to {positions - 1}"
        )


def check_blocks(index: torch.Tensor, blocks: int) -> None:
    """From 0 to ``blocks`` - 1, all different."""
    wrong = ((index < 0) | (index >= blocks)).nonzero()
    if len(wrong):
        n = int(wrong[0])
        raise ValueError(f"index[{n}] is {int(index[n])}: must be from 0 to {blocks - 1}")
    values = index.tolist()
    if len(set(values)) == len(values):
        return
    twice = next(a for a, b in pairwise(sorted(values)) if a == b)
    second = values.index(twice, values.index(twice) + 1)
    raise ValueError(f"index[{second}] is {twice}, a second time: blocks must differ")
