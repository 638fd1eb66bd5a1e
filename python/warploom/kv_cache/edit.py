"""Keeping some of a sequence's positions, moving its keys to other ones, copying it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from warploom import _core
from warploom.kv_cache.arena import Arena
from warploom.ops._execution import DTYPE_CODES
from warploom.ops.kv_writers import kv_copy_pages, kv_rotate


def _sources(
    positions: torch.Tensor, size: int, widths: torch.Tensor
) -> tuple[list[int], torch.Tensor]:
    """For every page of the positions that stay: the page that is it already, or -1; and the widths
    ``[pages, hk, 2]`` of those that have to be written, the widest that their rows come from.

    A page can stay if all of its positions do, in its place. The last one, if it is not full, must
    have 16 bits throughout: positions are to be added to it.
    """
    count = -(-len(positions) // size)
    sources: list[int] = []
    wanted = torch.full((count, *widths.shape[1:]), 16)
    for n, chunk in enumerate(_chunks(positions, size)):
        page, last = int(chunk[0]) // size, int(chunk[-1])
        in_place = int(chunk[0]) % size == 0 and last - int(chunk[0]) == len(chunk) - 1
        full = len(chunk) == size
        if in_place and (full or bool((widths[page] == 16).all())):
            sources.append(page)
        else:
            sources.append(-1)
            if full:
                wanted[n] = widths[(chunk // size).unique()].amax(0)
    return sources, wanted


def _chunks(positions: torch.Tensor, size: int) -> Sequence[torch.Tensor]:
    return positions.split(size) if len(positions) else ()  # of nothing, split makes one


def keep(arena: Arena, layer: int, seq: int, positions: torch.Tensor) -> None:
    length, size = arena.length(layer, seq), arena.geometry.page_size
    positions = torch.as_tensor(positions, dtype=torch.long).cpu()
    if positions.dim() != 1 or bool((positions.diff() <= 0).any()):
        raise ValueError("positions must be [n], each more than the one before")
    if len(positions) and not 0 <= int(positions[0]) <= int(positions[-1]) < length:
        at = 0 if int(positions[0]) < 0 else len(positions) - 1
        raise ValueError(
            f"positions[{at}] is {int(positions[at])}: sequence {seq} has positions 0 to "
            f"{length - 1} in layer {layer}"
        )
    sources, widths = _sources(positions, size, arena.widths(layer, seq))
    chunks = zip(_chunks(positions, size), sources, strict=True)
    moved = [chunk for chunk, source in chunks if source < 0]
    # Read before anything changes: what they come from may be written over.
    rows = arena.read(layer, seq, torch.cat(moved), torch.bfloat16) if moved else None
    try:
        arena.book.rebuild(layer, seq, len(positions), sources, widths.flatten().tolist())
        arena.refresh()
        while (piece := _core.kv_book_next(arena.address)) is not None:
            assert rows is not None
            slots, _, start, count = piece
            k, v = (x[None, start : start + count] for x in rows)
            arena.write(DTYPE_CODES[torch.bfloat16], k, v, slots)
            if _core.kv_book_commit(arena.address):
                arena.work()
    except BaseException:
        _core.kv_book_abort(arena.address)
        raise
    arena.work()  # what only this sequence wanted in 16 bits


def crop(arena: Arena, seq: int, length: int) -> None:
    if length < 0:
        raise ValueError(f"length is {length}: must not be negative")
    layers = [n for n in range(arena.geometry.layers) if arena.length(n, seq) > length]
    if not layers:
        return
    made = arena.book.fork(seq)  # all layers of it are cropped, or none of the sequence
    try:
        for layer in layers:
            keep(arena, layer, made, torch.arange(length))
        arena.book.reorder([seq, made], [1, 0])
    finally:
        arena.book.free(made)
        arena.work()


def rotate(
    arena: Arena,
    layer: int,
    seq: int,
    delta: torch.Tensor | float,
    inv_freq: torch.Tensor,
    interleaved: bool,
) -> None:
    length, size = arena.length(layer, seq), arena.geometry.page_size
    turns = torch.as_tensor(delta, dtype=torch.float64).cpu()
    if turns.dim() > 1 or (turns.dim() == 1 and len(turns) != length):
        raise ValueError(
            f"delta has shape {tuple(turns.shape)}: must be a number, or ({length},), one to a "
            "position"
        )
    arena.book.own(layer, seq)
    arena.refresh()
    arena.work()
    pages = arena.page_ids(layer, seq)
    if turns.dim() == 1:
        padded = torch.zeros(len(pages) * size, dtype=torch.float64)
        padded[:length] = turns
        turns = padded.view(len(pages), size)
    index = torch.tensor(pages, dtype=torch.int32, device=arena.memory.device)
    kv_rotate(
        arena.pages,
        index,
        turns.to(arena.memory.device),
        inv_freq.to(arena.memory.device),
        interleaved,
    )


def copy_to(arena: Arena, seq: int, other: Arena) -> int:
    a, b = arena.geometry, other.geometry
    for name in (
        "layers", "kv_heads", "page_size", "head_dim", "value_head_dim", "key_group",
        "value_group", "keys_per_channel",
    ):  # fmt: skip
        if getattr(a, name) != getattr(b, name):
            raise ValueError(
                f"other has {name} {getattr(b, name)}: must have {getattr(a, name)} like this cache"
            )
    made = other.book.add()
    try:
        for layer in range(a.layers):
            widths = arena.widths(layer, seq).flatten().tolist()
            other.book.place(layer, made, arena.length(layer, seq), widths)
            other.refresh()
            other.sync()
            here, there = (
                torch.tensor(each.page_ids(layer, which), dtype=torch.int32)
                for each, which in ((arena, seq), (other, made))
            )
            kv_copy_pages(arena.pages, here, other.pages, there)
    except BaseException:
        other.book.free(made)
        raise
    return made
