"""The memory of a cache: one allocation, the books of what lies in it, and its pages as arrays."""

from __future__ import annotations

import contextlib
import ctypes
import math
from dataclasses import dataclass

import torch

from warploom import _core
from warploom.ops._checks import strides
from warploom.ops._execution import exec_of
from warploom.ops.kv_pages import KVPages
from warploom.ops.kv_writers import kv_gather

_LINE = 64


@dataclass(frozen=True)
class Geometry:
    """What does not change about a cache."""

    layers: int
    kv_heads: int
    page_size: int
    head_dim: int
    value_head_dim: int
    key_group: int
    value_group: int
    keys_per_channel: bool
    sink: int
    window: int

    def page_bytes(self, widths: tuple[int, int] = (16, 16)) -> int:
        """Bytes of a page of one layer: its blocks, and its tags and grids."""
        k, v = widths
        blocks = self.page_size * (self.head_dim * k + self.value_head_dim * v) // 8
        return self.kv_heads * (blocks + self._metadata_bytes())

    def _metadata_bytes(self) -> int:
        """Tags and grids of a page and head."""
        keys = self.page_size if self.keys_per_channel else self.head_dim
        across = self.head_dim if self.keys_per_channel else self.page_size
        grids = keys // self.key_group * across
        grids += self.value_head_dim // self.value_group * self.page_size
        return 8 + 4 * grids

    @property
    def quantum_bytes(self) -> int:
        """Blocks start at multiples of it."""
        return self.page_size * math.gcd(self.head_dim, self.value_head_dim) // 4

    def arena_bytes(self, pages: int) -> int:
        """What an arena needs for so many pages of 16 bits, taken one by one: their blocks, and as
        much room for tags and grids as the books ever make for them."""
        room = pages + pages // 8 + 16
        # Tags lie in whole lines, blocks at whole quanta.
        metadata = -(-room * self.kv_heads * 8 // _LINE) * _LINE
        metadata += room * self.kv_heads * (self._metadata_bytes() - 8)
        blocks = pages * self.kv_heads * self.page_size * (self.head_dim + self.value_head_dim) * 2
        return -(-metadata // self.quantum_bytes) * self.quantum_bytes + blocks


class Arena:
    """``max_bytes`` on a device. Tags and grids grow from its start, blocks from its end."""

    def __init__(
        self, geometry: Geometry, bits: tuple[int, int], max_bytes: int, device: torch.device
    ) -> None:
        raw = torch.empty(max_bytes + _LINE, dtype=torch.uint8, device=device)
        self.memory = raw[-raw.data_ptr() % _LINE :][:max_bytes]
        self.remote = device.type != "cpu"
        self.geometry = geometry
        g = geometry
        self.book = _core.KVBook(
            g.layers, g.kv_heads, g.page_size, g.head_dim, g.value_head_dim,
            g.key_group, g.value_group, g.keys_per_channel, bits, g.sink, g.window,
            max_bytes, 0 if self.remote else self.memory.data_ptr(),
        )  # fmt: skip
        self.address = self.book.address
        self._tags_version = -1
        self.refresh()

    def refresh(self) -> None:
        """Looks up where the arrays lie, after the number of pages that they have room for grew."""
        g = self.geometry
        self.capacity, quantum_bytes, key_grids, value_grids, *_ = self.book.arrays()
        keys = (
            (g.page_size // g.key_group, 2, g.head_dim)
            if g.keys_per_channel
            else (g.head_dim // g.key_group, 2, g.page_size)
        )
        values = (g.value_head_dim // g.value_group, 2, g.page_size)
        self.pages = KVPages(
            self.memory,
            self._array(0, torch.int32, (2,)),
            self._array(key_grids, torch.bfloat16, keys),
            self._array(value_grids, torch.bfloat16, values),
            g.key_group,
            g.value_group,
            quantum_bytes,
            g.keys_per_channel,
        )
        self.fields = self.pages.core_arguments()

    def _array(self, start: int, dtype: torch.dtype, each: tuple[int, ...]) -> torch.Tensor:
        shape = (self.capacity, self.geometry.kv_heads, *each)
        size = dtype.itemsize * torch.Size(shape).numel()
        return self.memory[start : start + size].view(dtype).view(shape)

    def sync(self) -> None:
        """On a device: what the books do themselves in host memory, moving bytes, writing tags."""
        if not self.remote:
            return
        for start, to, size in self.book.moves():
            data = self.memory[start : start + size]
            overlaps = abs(start - to) < size
            self.memory[to : to + size] = data.clone() if overlaps else data
        *_, tags, version = self.book.arrays()
        if version != self._tags_version:
            count = self.pages.tags.numel()
            self.pages.tags.copy_(_ints(tags, count, torch.int32).view_as(self.pages.tags))
            self._tags_version = version

    def write(self, code: int, k: torch.Tensor, v: torch.Tensor, slots: int | None) -> None:
        """Rows k ``[b, s, hk, d]`` and v to the slots at an address of the books; None: they are
        only looked at."""
        b, s = k.shape[:2]
        if slots is None or self.remote:
            self.sync()
            kept = (
                torch.full((b, s), -1, device=k.device)
                if slots is None
                else _ints(slots, b * s, torch.int64).to(k.device)
            )
            slots = kept.data_ptr()
        _core.kv_append(
            *exec_of(self.memory, None, False), 0, 0, *self.fields, code, b, s,
            k.data_ptr(), strides("k", k), v.data_ptr(), strides("v", v), slots,
        )  # fmt: skip

    def work(self) -> None:
        """Quantizes and shrinks what the books list, and tells them."""
        quantize, quantize_bits, quantizes, shrink, shrink_bits, shrinks = self.book.work()
        self.sync()
        try:
            for function, blocks, bits, count in (
                (_core.kv_quantize_pages, quantize, quantize_bits, quantizes),
                (_core.kv_shrink_pages, shrink, shrink_bits, shrinks),
            ):
                if count == 0:
                    continue
                kept = []  # until the call has returned
                if self.remote:
                    for address in (blocks, bits):
                        kept.append(_ints(address, count, torch.int32).to(self.memory.device))
                    blocks, bits = (tensor.data_ptr() for tensor in kept)
                where = exec_of(self.memory, None, False)
                function(*where, 0, 0, *self.fields, count, blocks, bits)
            if quantizes or shrinks:
                _core.kv_book_settle(self.address)
        except BaseException:
            self._settle_done()
            raise

    def _settle_done(self) -> None:
        """After an op failed: the books learn from tags which blocks it had done."""
        tags = None
        if self.remote:
            with contextlib.suppress(Exception):  # the op's own error is the one to tell
                tags = self.pages.tags.cpu()
        _core.kv_book_settle_done(self.address, 0 if tags is None else tags.data_ptr())

    def validate(self) -> None:
        """Pages, books, and that both say the same."""
        self.sync()
        self.pages.validate()
        self.book.check()
        *_, address, _ = self.book.arrays()
        tags = self.pages.tags.cpu().flatten()
        booked = _ints(address, tags.numel(), torch.int32)
        wrong = (tags != booked).nonzero()
        if len(wrong):
            n, heads = int(wrong[0]), self.geometry.kv_heads
            raise ValueError(
                f"tags of page {n // (2 * heads)}, head {n // 2 % heads}, "
                f"{'values' if n % 2 else 'keys'}: {int(tags[n])}, the books have {int(booked[n])}"
            )

    def page_ids(self, layer: int, seq: int) -> list[int]:
        """The pages of a sequence, in order."""
        return self.book.row(layer, seq)[2]

    def length(self, layer: int, seq: int) -> int:
        """Positions of a sequence in a layer."""
        return self.book.row(layer, seq)[0]

    def widths(self, layer: int, seq: int) -> torch.Tensor:
        """``[pages, hk, 2]``."""
        ids = torch.tensor(self.page_ids(layer, seq), dtype=torch.long)
        return 2 << (self.pages.tags.cpu()[ids].long() & 3)

    def read(
        self, layer: int, seq: int, positions: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of positions of a sequence; None: of all."""
        length, size = self.length(layer, seq), self.geometry.page_size
        if positions is None:
            positions = torch.arange(length)
        positions = torch.as_tensor(positions, dtype=torch.long).cpu()
        if positions.dim() != 1:
            raise ValueError(f"positions has shape {tuple(positions.shape)}: must be [n]")
        wrong = ((positions < 0) | (positions >= length)).nonzero()
        if len(wrong):
            n = int(wrong[0])
            raise ValueError(
                f"positions[{n}] is {int(positions[n])}: sequence {seq} has positions 0 to "
                f"{length - 1} in layer {layer}"
            )
        table = torch.tensor(self.page_ids(layer, seq), dtype=torch.long)
        slots = table[positions // size] * size + positions % size
        return kv_gather(self.pages, slots.to(self.memory.device), dtype)


def _ints(address: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """A copy of the books' integers."""
    if count == 0:
        return torch.empty(0, dtype=dtype)
    kind = ctypes.c_int64 if dtype is torch.int64 else ctypes.c_int32
    return torch.frombuffer((kind * count).from_address(address), dtype=dtype).clone()
