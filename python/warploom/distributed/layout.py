"""Shapes of chunks, and the buffers they arrive in."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, Protocol

import torch


class Spec(NamedTuple):
    """Shape and dtype of one tensor of a chunk."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Spec:
        return cls(tuple(tensor.shape), tensor.dtype)

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape))
        return f"{str(self.dtype).removeprefix('torch.')}[{sizes}]"


class Layout:
    """What each chunk of an exchange consists of; equal on all ranks, or the exchange is refused.

    Build it once and keep it: an exchange compares it by its text.
    """

    def __init__(self, chunks: Iterable[Iterable[Spec]]) -> None:
        self.chunks = tuple(tuple(chunk) for chunk in chunks)

    @classmethod
    def uniform(cls, chunks: int, *tensors: torch.Tensor | Spec) -> Layout:
        """Every chunk made of tensors such as these."""
        specs = tuple(Spec.of(t) if isinstance(t, torch.Tensor) else t for t in tensors)
        return cls([specs] * chunks)

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> tuple[Spec, ...]:
        return self.chunks[chunk]

    def with_dtype(self, dtype: torch.dtype) -> Layout:
        """The same shapes in another dtype, for gradients."""
        return Layout([[Spec(s.shape, dtype) for s in chunk] for chunk in self.chunks])

    @cached_property
    def text(self) -> str:
        """The chunks in words, runs of equal ones together."""
        words, start = [], 0
        for specs, group in groupby(self.chunks):
            count = len(list(group))
            chunks = f"chunk {start}" if count == 1 else f"chunks {start}-{start + count - 1}"
            words.append(f"{chunks}: {' '.join(map(str, specs))}")
            start += count
        return "; ".join(words)


class Pool(Protocol):
    """Where arriving chunks are put: contiguous tensors as the layout says."""

    def take(self, chunk: int) -> list[torch.Tensor]:
        """Room for a chunk."""

    def give_back(self, chunk: int, tensors: list[torch.Tensor]) -> None:
        """Neither a forward nor the caller's computation needs the chunk any more."""


class Buffers:
    """Tensors between two uses: fresh memory costs a page fault for every 4 KiB.

    What `KEPT` exchanges did not take is let go. On a GPU they belong to the stream they were used
    on, whose order is what makes it safe to use them again.
    """

    KEPT = 4

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: dict[tuple[Spec, int], list[tuple[int, torch.Tensor]]] = {}
        self._turn = 0

    def take(self, spec: Spec) -> torch.Tensor:
        free = self._free.get(self._key(spec))
        if free:
            return free.pop()[1]
        return torch.empty(spec.shape, dtype=spec.dtype, device=self._device)

    def give_back(self, tensor: torch.Tensor) -> None:
        key = self._key(Spec.of(tensor))
        self._free.setdefault(key, []).append((self._turn, tensor))

    def next_turn(self) -> None:
        """Another exchange begins."""
        self._turn += 1
        for key, free in list(self._free.items()):
            free[:] = [item for item in free if item[0] >= self._turn - self.KEPT]
            if not free:
                del self._free[key]

    def _key(self, spec: Spec) -> tuple[Spec, int]:
        cuda = self._device.type == "cuda"
        return spec, torch.cuda.current_stream(self._device).cuda_stream if cuda else 0


class ChunkPool:
    """Buffers of chunks, used again once given back.

    Attributes:
      allocated, bytes: chunks, and their bytes, that it ever held at once.
    """

    def __init__(self, layout: Layout, buffers: Buffers | torch.device) -> None:
        self._layout = layout
        self._buffers = Buffers(buffers) if isinstance(buffers, torch.device) else buffers
        self._free: dict[tuple[Spec, ...], list[list[torch.Tensor]]] = {}
        self.allocated = 0
        self.bytes = 0

    def take(self, chunk: int) -> list[torch.Tensor]:
        specs = self._layout[chunk]
        free = self._free.setdefault(specs, [])
        if free:
            return free.pop()
        self.allocated += 1
        made = [self._buffers.take(spec) for spec in specs]
        self.bytes += sum(tensor.nbytes for tensor in made)
        return made

    def give_back(self, chunk: int, tensors: list[torch.Tensor]) -> None:
        self._free[self._layout[chunk]].append(tensors)

    def close(self) -> None:
        """Hands what was given back to the buffers that others take from."""
        for chunks in self._free.values():
            for tensor in (tensor for chunk in chunks for tensor in chunk):
                self._buffers.give_back(tensor)
        self._free.clear()
