"""Attention problems by description: what tests check and benchmarks time.

A case knows its shapes, its work (operations on kept pairs, bytes that must move at least) and how
to make its inputs, the same ones every time.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from warploom.mask import Mask, causal, full

if TYPE_CHECKING:
    import torch

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_LSE_BYTES = 4


@dataclass(frozen=True)
class AttentionInputs:
    """Tensors of an :class:`AttentionCase`; ``cu_seqlens_*`` are None for a dense one."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    grad_o: torch.Tensor
    cu_seqlens_q: torch.Tensor | None = None
    cu_seqlens_k: torch.Tensor | None = None

    @property
    def qkv(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.q, self.k, self.v


@dataclass(frozen=True, kw_only=True)
class _Problem(ABC):
    """What every problem has: heads, head dims, a precision and the formula's options."""

    h: int = 1
    hk: int | None = None  # None: h
    d: int = 64
    dv: int | None = None  # None: d
    dtype: str = "float32"
    mask: Mask = field(default_factory=full)
    scale: float | None = None
    softcap: float | None = None

    @property
    def kv_heads(self) -> int:
        return self.h if self.hk is None else self.hk

    @property
    def value_dim(self) -> int:
        return self.d if self.dv is None else self.dv

    @property
    @abstractmethod
    def sequences(self) -> list[tuple[int, int]]:
        """(queries, keys) of every sequence of the batch."""

    @cached_property
    def pairs(self) -> int:
        """Visible (query, key) pairs of one query head, over the batch."""
        counts = {s: self.mask.pairs(*s) for s in set(self.sequences)}
        return sum(counts[s] for s in self.sequences)

    @property
    def forward_flops(self) -> int:
        return 2 * self.h * self.pairs * (self.d + self.value_dim)

    def _text(self, first: str, last: Iterable[str] = ()) -> str:
        heads = f"h{self.h}" if self.kv_heads == self.h else f"h{self.h}/{self.kv_heads}"
        dims = f"d{self.d}" if self.value_dim == self.d else f"d{self.d}/{self.value_dim}"
        words = [first, heads, dims, str(self.mask), *last]
        if self.scale is not None:
            words.append(f"scale{self.scale:g}")
        if self.softcap is not None:
            words.append(f"softcap{self.softcap:g}")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class AttentionCase(_Problem):
    """Forward and backward attention, dense or, where ``lengths_q`` is given, ragged.

    Dense: q ``[b, sq, h, d]``, k ``[b, sk, hk, d]``, v ``[b, sk, hk, dv]``. Ragged: the same
    without ``b`` and with the rows of all sequences end to end; ``b``, ``sq``, ``sk`` are unused.
    """

    b: int = 1
    sq: int = 1
    sk: int | None = None  # None: sq
    lengths_q: tuple[int, ...] | None = None
    lengths_k: tuple[int, ...] | None = None  # None: lengths_q

    @property
    def keys(self) -> int:
        return self.sq if self.sk is None else self.sk

    @property
    def ragged(self) -> bool:
        return self.lengths_q is not None

    @property
    def sequences(self) -> list[tuple[int, int]]:
        if self.lengths_q is None:
            return [(self.sq, self.keys)] * self.b
        return list(zip(self.lengths_q, self.lengths_k or self.lengths_q, strict=True))

    @property
    def backward_flops(self) -> int:
        """Five products: S again, dP, dV, dQ, dK."""
        return 2 * self.h * self.pairs * (3 * self.d + 2 * self.value_dim)

    @property
    def forward_bytes(self) -> int:
        """q, k, v read once; o and lse written once."""
        rows = sum(sq for sq, _ in self.sequences)
        return self._tensor_bytes + rows * self.h * _LSE_BYTES

    @property
    def backward_bytes(self) -> int:
        """q, k, v, o, grad_o and lse read once; dq, dk, dv written once."""
        rows = sum(sq for sq, _ in self.sequences)
        return 2 * self._tensor_bytes + rows * self.h * _LSE_BYTES

    @property
    def _tensor_bytes(self) -> int:
        """q, k, v and o; as much again are grad_o, dq, dk and dv."""
        rows_q = sum(sq for sq, _ in self.sequences)
        rows_k = sum(sk for _, sk in self.sequences)
        elements = (rows_q * self.h + rows_k * self.kv_heads) * (self.d + self.value_dim)
        return elements * ELEMENT_BYTES[self.dtype]

    def __str__(self) -> str:
        if self.ragged:
            shape = "ragged" + "+".join(
                f"{sq}" if sq == sk else f"{sq}x{sk}" for sq, sk in self.sequences
            )
        else:
            keys = "" if self.keys == self.sq else f"x{self.keys}"
            shape = f"b{self.b} s{self.sq}{keys}"
        return self._text(f"{self.dtype} {shape}")

    def make(self, device: str = "cpu", seed: int = 0) -> AttentionInputs:
        """Standard normal inputs, the same for the same case and seed on every device."""
        generator = _generator(str(self), seed)
        hk, dv = self.kv_heads, self.value_dim
        rows_q: tuple[int, ...] = (self.b, self.sq)
        rows_k: tuple[int, ...] = (self.b, self.keys)
        if self.ragged:
            rows_q = (sum(sq for sq, _ in self.sequences),)
            rows_k = (sum(sk for _, sk in self.sequences),)
        shapes = (
            (*rows_q, self.h, self.d),
            (*rows_k, hk, self.d),
            (*rows_k, hk, dv),
            (*rows_q, self.h, dv),
        )
        q, k, v, grad_o = (_normal(shape, self.dtype, device, generator) for shape in shapes)
        if not self.ragged:
            return AttentionInputs(q, k, v, grad_o)
        cu_seqlens_q = _offsets([sq for sq, _ in self.sequences], device)
        cu_seqlens_k = _offsets([sk for _, sk in self.sequences], device)
        return AttentionInputs(q, k, v, grad_o, cu_seqlens_q, cu_seqlens_k)


@dataclass(frozen=True)
class DecodeInputs:
    """Tensors of a :class:`DecodeCase`; ``page_table`` is None for contiguous caches."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    lengths: torch.Tensor
    page_table: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class DecodeCase(_Problem):
    """Decode of ``s`` new positions a sequence, from caches of the given ``lengths``.

    q ``[b, s, h, d]``; caches ``[b, capacity, hk, d]`` or, where ``page`` is given, pages
    ``[n, page, hk, d]`` handed out in shuffled order.
    """

    lengths: tuple[int, ...] = (1,)
    s: int = 1
    mask: Mask = field(default_factory=causal)
    page: int | None = None
    capacity: int | None = None  # contiguous: None is the longest length

    @property
    def b(self) -> int:
        return len(self.lengths)

    @property
    def sequences(self) -> list[tuple[int, int]]:
        return [(self.s, length) for length in self.lengths]

    @cached_property
    def visible_keys(self) -> int:
        """Cached positions that at least one query sees, over the batch."""
        total = 0
        for length in self.lengths:
            seen = [self.mask.keys(i, self.s, length) for i in range(self.s)]
            seen = [keys for keys in seen if keys]
            if seen:
                total += max(keys.stop for keys in seen) - min(keys.start for keys in seen)
        return total

    @property
    def bytes(self) -> int:
        """Visible keys and values and q read once; o and lse written once."""
        size, width = ELEMENT_BYTES[self.dtype], self.d + self.value_dim
        rows = self.b * self.s * self.h
        return (self.visible_keys * self.kv_heads + rows) * width * size + rows * _LSE_BYTES

    def __str__(self) -> str:
        alike = len(set(self.lengths)) == 1
        lengths = f"{self.lengths[0]}" if alike else "+".join(map(str, self.lengths))
        cache = []
        if self.page is not None:
            cache.append(f"page{self.page}")
        if self.capacity is not None:
            cache.append(f"capacity{self.capacity}")
        return self._text(f"decode {self.dtype} b{self.b} s{self.s} keys{lengths}", cache)

    def make(self, device: str = "cpu", seed: int = 0) -> DecodeInputs:
        """Standard normal inputs, the same for the same case and seed on every device."""
        import torch

        generator = _generator(str(self), seed)
        hk, longest = self.kv_heads, max(self.lengths, default=0)
        table = None
        if self.page is None:
            positions = (self.b, longest if self.capacity is None else self.capacity)
        else:
            counts = [-(-length // self.page) for length in self.lengths]
            order = torch.randperm(sum(counts), generator=generator).to(torch.int32)
            table = torch.full((self.b, max(counts, default=0)), -1, dtype=torch.int32)
            taken = 0
            for n, count in enumerate(counts):
                table[n, :count] = order[taken : taken + count]
                taken += count
            table = table.to(device)
            positions = (sum(counts), self.page)
        return DecodeInputs(
            _normal((self.b, self.s, self.h, self.d), self.dtype, device, generator),
            _normal((*positions, hk, self.d), self.dtype, device, generator),
            _normal((*positions, hk, self.value_dim), self.dtype, device, generator),
            torch.tensor(self.lengths, dtype=torch.int32, device=device),
            table,
        )


def _generator(name: str, seed: int) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)


def _normal(
    shape: tuple[int, ...], dtype: str, device: str, generator: torch.Generator
) -> torch.Tensor:
    import torch

    numbers = torch.randn(shape, generator=generator, dtype=torch.float32)
    return numbers.to(device=device, dtype=getattr(torch, dtype))


def _offsets(lengths: list[int], device: str) -> torch.Tensor:
    import torch

    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
