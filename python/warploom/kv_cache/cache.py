"""The cache itself: sequences of pages in every layer, appended to, attended to and shrunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from warploom import _core
from warploom.kv_cache import edit
from warploom.kv_cache.arena import Arena, Geometry
from warploom.mask import NO_LIMIT, Mask
from warploom.ops._checks import band, check_heads, check_options, dtype_code, strides
from warploom.ops._execution import DTYPE_CODES, exec_of
from warploom.ops._library import is_plain
from warploom.ops.attention_pages import PRECISIONS, attention_pages
from warploom.ops.kv_pages import PAGE_WIDTHS, KVPages
from warploom.ops.kv_writers import rows_of

Bits = int | tuple[int, int]
_LARGEST_GROUP = 128


class PagedKVCache:
    """Keys and values of many sequences in pages of 16, 8, 4 or 2 bits.

    A page holds ``page_size`` positions of one layer; for each key/value head, keys and values are
    blocks with a width of their own. A page that is still being filled has 16 bits, and so has one
    with a position among the first ``sink`` or the last ``window`` of a sequence. Other pages are
    brought to ``bits``, and :meth:`shrink` brings them lower; the bytes that it frees serve new
    pages. Forked sequences share pages, which are counted, and copied when one of them writes.

    All of it is one allocation of ``max_bytes``: blocks, tags and grids. Where pages would not fit,
    nothing is changed and ``MemoryError`` says how many bytes are missing. One thread at a time may
    use a cache.

    Args:
        layers, kv_heads, head_dim: of the model.
        page_size: positions of a page, a multiple of 16.
        bits: 16, 8, 4 or 2, or a pair for keys and values.
        max_bytes: of the whole cache.
        device: where pages lie. Books of sequences and pages are host memory, not counted.
        value_head_dim: None is head_dim. Where they differ, keys and values do not take freed bytes
            from each other.
        group: values that share a grid, for keys and for values: a multiple of 16 that divides
            their head dims; None is the largest up to 128. With ``keys_per_channel``, the keys'
            groups lie along positions, and it divides page_size too.
        keys_per_channel: for keys with channels far larger than others.
        sink, window: first and last positions of every sequence to keep in 16 bits.

    Raises:
        ValueError: an argument is wrong, or max_bytes is less than one sequence's sink, window and
            open page need, which the message says.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        page_size: int = 64,
        bits: Bits = 16,
        max_bytes: int = 1 << 30,
        device: torch.device | str = "cpu",
        *,
        value_head_dim: int | None = None,
        group: int | None = None,
        keys_per_channel: bool = False,
        sink: int = 0,
        window: int = 0,
    ) -> None:
        value_head_dim = head_dim if value_head_dim is None else value_head_dim
        keys_along = page_size if keys_per_channel else head_dim
        geometry = Geometry(
            layers,
            kv_heads,
            page_size,
            head_dim,
            value_head_dim,
            _group(group, keys_along, "page_size" if keys_per_channel else "head_dim"),
            _group(group, value_head_dim, "value_head_dim"),
            keys_per_channel,
            sink,
            window,
        )
        both = _pair(bits)
        if not isinstance(max_bytes, int) or max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes!r}: must be an integer, not negative")
        most = geometry.quantum_bytes << 29
        if max_bytes > most:
            raise ValueError(f"max_bytes is {max_bytes}: must be at most {most}")
        self._arena = Arena(geometry, both, max_bytes, torch.device(device))
        least = self.least_bytes(geometry)
        if max_bytes < least:
            raise ValueError(
                f"max_bytes is {max_bytes}: must be at least {least}, what sink, window and the "
                f"open page of one sequence need in {layers} layers"
            )
        self.geometry, self.max_bytes = geometry, max_bytes
        self._book, self._address = self._arena.book, self._arena.address
        self._bits = [both] * layers
        self._table = torch.empty(0, 0, dtype=torch.int32)
        self._lengths = torch.empty(0, dtype=torch.int32)

    @staticmethod
    def least_bytes(geometry: Geometry) -> int:
        """What a cache needs to hold one sequence of sink, window and an open page."""
        page = geometry.page_size
        pages = -(-geometry.sink // page) + -(-geometry.window // page) + 1
        return geometry.arena_bytes(geometry.layers * pages)

    @property
    def device(self) -> torch.device:
        return self._arena.memory.device

    @property
    def pages(self) -> KVPages:
        """All pages of all layers as arrays, for the ops; another object after the cache grew."""
        return self._arena.pages

    def add_sequence(self) -> int:
        """A new, empty sequence."""
        return self._book.add()

    def fork(self, seq: int) -> int:
        """A new sequence with the same positions, sharing its pages. Costs no page until one of
        them writes into the open page that they share."""
        return self._book.fork(seq)

    def free(self, seq: int) -> None:
        """Forgets a sequence; pages that no other has are free again."""
        self._book.free(seq)
        self._arena.work()

    def reorder(self, seqs: Sequence[int], index: Iterable[int]) -> None:
        """Beam search: ``seqs[n]`` becomes what ``seqs[index[n]]`` was, in all layers."""
        if isinstance(index, torch.Tensor):
            index = index.tolist()
        self._book.reorder(list(seqs), list(index))
        self._arena.work()

    def length(self, layer: int, seq: int) -> int:
        """Positions of a sequence in a layer."""
        return self._book.row(layer, seq)[0]

    def append(
        self, layer: int, seq: int | Sequence[int], k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Adds positions to a sequence, or as many to each of several, in one layer.

        Pages that are full and outside sink and window are brought to the cache's bits on the way.

        Args:
            layer: from 0.
            seq: a sequence; or several, all different.
            k: ``[s, hk, d]``, keys after RoPE; of several sequences ``[b, s, hk, d]``. Any s;
                float32, float16 or bfloat16, rounded to bfloat16.
            v: ``[s, hk, dv]`` or ``[b, s, hk, dv]``; dtype of k.

        Raises:
            ValueError: an argument is wrong, a sequence is unknown, or k or v holds an infinity, a
                NaN, or a value of 2**127 or more; nothing is appended.
            MemoryError: pages are exhausted; nothing is appended. The message says how many bytes
                are missing, and so does :meth:`shortfall`. Where that is 0, host memory ran out
                instead, for codes of pages that were to be quantized: those stay in 16 bits until
                :meth:`shrink`, and :meth:`length` tells what is appended.
        """
        seqs = (seq,) if isinstance(seq, int) else tuple(seq)
        code, s = self._check_rows(k, v, None if isinstance(seq, int) else len(seqs))
        if k.dim() == 3:
            k, v = k.unsqueeze(0), v.unsqueeze(0)
        if _core.kv_book_append(self._address, layer, seqs, s) != self._arena.capacity:
            self._arena.refresh()
        first = True
        while (piece := _core.kv_book_next(self._address)) is not None:
            slots, target, start, rows = piece
            try:
                if target < 0:
                    self._arena.write(code, k, v, slots)
                else:
                    if first:  # all rows are looked at before any is written
                        self._arena.write(code, k, v, None)
                    one = (slice(target, target + 1), slice(start, start + rows))
                    self._arena.write(code, k[one], v[one], slots)
            except BaseException:
                _core.kv_book_abort(self._address)
                raise
            first = False
            if _core.kv_book_commit(self._address):
                self._arena.work()
            if target < 0:
                break

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        seqs: Sequence[int],
        return_lse: bool = False,
        mask: Mask | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        precision: str = "exact",
        kernel: str | None = None,
    ) -> Any:
        """Attention of the last s positions of every sequence to all that it has in a layer.

        Append first: the s positions are among those that are attended to.

        Args:
            layer: from 0.
            q: ``[b, s, h, d]``, float32, float16 or bfloat16: row n is of ``seqs[n]``.
            seqs: b sequences, of any lengths from s.
            return_lse: also give the log of the sum of exponentials.
            mask, scale, softcap, precision, kernel: as for :func:`warploom.attention_pages`; a mask
                of None is causal.

        Returns:
            o ``[b, s, h, dv]``; with ``return_lse`` also lse ``[b, h, s]``, float32.

        Raises:
            ValueError: an argument is wrong, or a sequence is unknown or shorter than s.
        """
        table, lengths = self.tables(layer, seqs)
        if kernel is None and q.is_cpu and is_plain(q, q, q) and precision in PRECISIONS:
            o, lse = self._attend(q, len(seqs), mask, scale, softcap, PRECISIONS[precision])
            return (o, lse) if return_lse else o
        return attention_pages(
            q,
            self._arena.pages,
            table,
            lengths,
            mask=mask,
            scale=scale,
            softcap=softcap,
            precision=precision,
            return_lse=return_lse,
            kernel=kernel,
        )

    def _attend(
        self,
        q: torch.Tensor,
        b: int,
        mask: Mask | None,
        scale: float | None,
        softcap: float | None,
        precision: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """attention_pages of the tables that were just made, without what stands between it and
        the core: a decode step comes through here once a layer."""
        g = self.geometry
        if q.dim() != 4 or q.shape[0] != b or q.shape[3] != g.head_dim or self._arena.remote:
            raise ValueError(
                f"q has shape {tuple(q.shape)} on {q.device}: must be [{b}, s, h, {g.head_dim}], a "
                f"row to each sequence, on {self.device}"
            )
        if torch.is_grad_enabled() and q.requires_grad:
            raise ValueError(
                "q requires grad: attend has no gradient; detach it, or call it under "
                "torch.no_grad()"
            )
        if scale is not None or softcap is not None:
            check_options(scale=scale, softcap=softcap)
        _, s, h, d = q.shape
        check_heads(h, g.kv_heads)
        o = torch.empty((b, s, h, g.value_head_dim), dtype=q.dtype)
        lse = torch.empty((b, h, s), dtype=torch.float32)
        columns = self._table.shape[1]
        _core.attention_pages(
            *exec_of(q, None, None), 0, 0, dtype_code(q), precision, b, s, h, *self._arena.fields,
            columns, self._table.data_ptr(), columns, self._lengths.data_ptr(),
            *band(mask, (NO_LIMIT, 0)), d**-0.5 if scale is None else scale, softcap or 0.0,
            q.data_ptr(), strides("q", q), o.data_ptr(), o.stride(), lse.data_ptr(),
        )  # fmt: skip
        return o, lse

    def tables(self, layer: int, seqs: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """page_table ``[b, columns]`` and lengths ``[b]`` of sequences in a layer, for the ops.

        On the CPU both are the cache's own memory: valid until its next call.
        """
        b = len(seqs)
        if self._table.shape[0] != b:
            self._table = torch.empty(b, max(self._table.shape[1], 16), dtype=torch.int32)
            self._lengths = torch.empty(b, dtype=torch.int32)
        columns = self._table.shape[1]
        most = _core.kv_book_tables(
            self._address, layer, seqs, self._table.data_ptr(), columns, self._lengths.data_ptr()
        )
        if most > columns:
            self._table = torch.empty(b, 2 * most, dtype=torch.int32)
            return self.tables(layer, seqs)
        if self._arena.remote:
            return self._table.to(self.device), self._lengths.to(self.device)
        return self._table, self._lengths

    def shrink(
        self,
        layer: int,
        seq: int,
        bits: Bits,
        pages: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
        shared: bool = True,
    ) -> int:
        """Brings pages of a sequence to fewer bits where they lie.

        The open page, and pages that any sequence has in its sink or window, stay as they are; so
        do blocks that are as narrow already.

        Args:
            layer: from 0.
            seq: whose pages.
            bits: 8, 4 or 2, or a pair for keys and values (16 leaves a side alone).
            pages: places in the sequence: page i holds positions from ``i * page_size``. None: all.
            heads: key/value heads; None: all.
            shared: also pages that other sequences share: they are theirs, too, and get as
                narrow for them. False leaves those.

        Returns:
            The bytes that are free now and were not.

        Raises:
            ValueError: an argument is wrong or the sequence unknown.
        """
        before = self._book.usage(-1)["free_bytes"]
        self._book.shrink(
            layer,
            seq,
            _pair(bits),
            None if pages is None else list(pages),
            None if heads is None else list(heads),
            shared,
        )
        self._arena.work()
        return self._book.usage(-1)["free_bytes"] - before

    def set_bits(self, layer: int, bits: Bits) -> None:
        """The width that pages of a layer get when they leave the window from now on. Those that
        have left already stay as they are until :meth:`shrink`.

        Raises:
            ValueError: bits or layer is wrong.
        """
        self._book.set_bits(layer, _pair(bits))
        self._bits[layer] = _pair(bits)

    def bits(self, layer: int) -> tuple[int, int]:
        """The width that a layer's pages get, keys and values."""
        return self._bits[layer]

    def widths(self, layer: int, seq: int) -> torch.Tensor:
        """The width of every block of a sequence, ``[pages, hk, 2]``, keys and then values."""
        return self._arena.widths(layer, seq)

    def read(
        self,
        layer: int,
        seq: int,
        positions: torch.Tensor | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys ``[n, hk, d]`` and values ``[n, hk, dv]`` of positions; None: of all."""
        return self._arena.read(layer, seq, positions, dtype)

    def keep(self, layer: int, seq: int, positions: torch.Tensor) -> None:
        """Evicts all positions of a sequence in a layer but ``positions``, which move together.

        Keys stay as they are: :meth:`rotate` moves them to other positions of rotary embedding.
        Pages whose positions all stay, in their places, stay to the bit. Others are written anew:
        rows of 16 bits are copied exactly; a row of codes x' is rounded to bfloat16 and quantized
        again, at the width of the widest page that its new page's rows come from, and ends at most
        ``step / 2 + 2**-9 |x'|`` further away, with the step of its new grid (and 2**-14 of one). A
        last page that is not full has 16 bits.

        Args:
            layer: from 0.
            seq: whose positions; those of sequences that share pages with it stay.
            positions: ``[n]``, integers, each more than the one before.

        Raises:
            ValueError: an argument is wrong.
            MemoryError: pages are exhausted: those to write must fit beside those that are there.

        Whatever is raised while pages are written, nothing has changed.
        """
        edit.keep(self._arena, layer, seq, positions)

    def crop(self, seq: int, length: int) -> None:
        """Forgets what lies at ``length`` and beyond in every layer that has it: :meth:`keep`.

        A last page that is not full and has fewer than 16 bits is written anew, in every layer; at
        multiples of ``page_size`` a crop needs no room.

        Raises:
            ValueError: length is negative, or the sequence unknown.
            MemoryError: pages are exhausted: those to write must fit beside those that are there.

        Whatever is raised while pages are written, nothing has changed in any layer.
        """
        edit.crop(self._arena, seq, length)

    def rotate(
        self,
        layer: int,
        seq: int,
        delta: torch.Tensor | float,
        inv_freq: torch.Tensor,
        interleaved: bool = False,
    ) -> None:
        """Moves the keys of a sequence by ``delta`` positions of rotary embedding.

        Pages that it shares are copied first. Errors are those of :func:`warploom.kv_rotate`.

        Args:
            layer: from 0.
            seq: whose keys.
            delta: a number, or ``[length]``: one to a position.
            inv_freq, interleaved: as for :func:`warploom.kv_rotate`.

        Raises:
            ValueError: an argument is wrong.
            MemoryError: the copies do not fit; nothing has changed.
        """
        edit.rotate(self._arena, layer, seq, delta, inv_freq, interleaved)

    def copy_to(self, seq: int, other: PagedKVCache) -> int:
        """Copies a sequence to another cache, on any device, to the bit; its id there.

        To swap a sequence out: copy it to a cache in host memory, then free it. Pages that
        sequences share are copied for each.

        Raises:
            ValueError: the caches differ in more than bits, sink, window, bytes or device.
            MemoryError: the other cache has no room; it is as it was.
        """
        return edit.copy_to(self._arena, seq, other._arena)

    def validate(self) -> None:
        """Checks everything: blocks lie apart, grids are grids, every page of a sequence is there,
        bytes are counted right, and the books have the widths and places that tags have.

        Raises:
            ValueError: what is wrong, and where.
        """
        self._arena.validate()

    def nbytes(self, layer: int | None = None) -> int:
        """Bytes of pages in use: blocks, tags and grids; of one layer, or of all."""
        usage = self._book.usage(-1 if layer is None else layer)
        return usage["block_bytes"] + usage["metadata_bytes"]

    def stats(self) -> dict[str, int]:
        """Figures of the whole cache, in bytes but for pages and sequences.

        ``reserved_bytes`` is the room of tags and grids, of pages to come too;
        ``free_bytes`` what new blocks can have; ``moved_bytes`` what was moved so far to bring
        free bytes together.
        """
        return {"max_bytes": self.max_bytes, **self._book.usage(-1)}

    def shortfall(self) -> int:
        """The bytes that were missing when the last append raised MemoryError; 0 if it fitted."""
        return self._book.missing

    def _check_rows(self, k: torch.Tensor, v: torch.Tensor, b: int | None) -> tuple[int, int]:
        """The dtype's code and s."""
        g = self.geometry
        leading = k.shape[:-2]
        wanted = 1 if b is None else 2
        code = DTYPE_CODES.get(k.dtype)
        if (
            k.shape != (*leading, g.kv_heads, g.head_dim)
            or v.shape != (*leading, g.kv_heads, g.value_head_dim)
            or len(leading) != wanted
        ):
            if k.dim() != wanted + 2:
                axes = "[s, hk, d]" if b is None else "[b, s, hk, d]"
                raise ValueError(f"k has shape {tuple(k.shape)}: must be {axes}")
            rows_of(self._arena.pages, k, v)
        if b is not None and leading[0] != b:
            raise ValueError(f"k has {leading[0]} rows of sequences: must have {b}, one to each")
        if code is None:
            raise ValueError(
                f"k is {k.dtype}: must be torch.float32, torch.float16 or torch.bfloat16"
            )
        if v.dtype is not k.dtype:
            raise ValueError(f"v is {v.dtype}: must be {k.dtype} like k")
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ValueError(
                "k or v requires grad: a cache has no gradient; detach it, or append under "
                "torch.no_grad()"
            )
        for name, x in (("k", k), ("v", v)):
            if x.device != self._arena.memory.device:
                raise ValueError(
                    f"{name} is on {x.device}: must be on {self.device} like the cache"
                )
        return code, leading[-1]


def _pair(bits: Bits) -> tuple[int, int]:
    pair = (bits, bits) if isinstance(bits, int) else tuple(bits)
    if len(pair) != 2 or any(width not in PAGE_WIDTHS for width in pair):
        raise ValueError(
            f"bits is {bits!r}: must be 16, 8, 4 or 2, or two of them, keys and values"
        )
    return (pair[0], pair[1])


def _group(group: int | None, size: int, name: str) -> int:
    """Checked by the books; None is the largest that divides ``size``."""
    if group is not None:
        return group
    if size <= 0 or size % 16:
        raise ValueError(f"{name} is {size}: must be a positive multiple of 16")
    return max(n for n in range(16, min(size, _LARGEST_GROUP) + 1, 16) if size % n == 0)
