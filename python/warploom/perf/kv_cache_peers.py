"""Jobs on a quantized cache, ours and others', made to be timed.

llama.cpp's attention is called through ``ggml-python``, which builds its sources for this machine;
its cache is ``[hk, s, d]`` of q8_0 or q4_0. transformers' quantized layers attend with torch's
SDPA, query heads of a group folded into the query axis, which is its fastest way.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import warploom
from warploom.perf.timing import Call

_PIECE = 2048  # positions stored at a time


class Paged(NamedTuple):
    """A filled cache of one layer."""

    job: PagedJob
    cache: Any
    sequences: list[int]
    q: torch.Tensor  # [b, 1, h, d]


@dataclass(frozen=True)
class PagedJob:
    """Decoding one token a sequence: grouped queries, 64 positions a page, bfloat16 queries."""

    lengths: tuple[int, ...]
    bits: int
    h: int = 32
    hk: int = 8
    d: int = 128
    page: int = 64
    keys_per_channel: bool = False

    def __str__(self) -> str:
        words = f"decode b{len(self.lengths)} k{self.lengths[0]} h{self.h}/{self.hk} d{self.d}"
        channels = " keys per channel" if self.keys_per_channel else ""
        return f"{words} {self.bits} bit{channels}"

    def tiny(self) -> PagedJob:
        return replace(self, lengths=(100,) * 2, h=4, hk=2, d=32, page=16)

    def at(self, bits: int) -> PagedJob:
        return replace(self, bits=bits)

    @property
    def keys(self) -> int:
        """Positions that are attended to, of all sequences."""
        return sum(self.lengths)

    @property
    def nbytes(self) -> int:
        """Codes of keys and values that are read."""
        return self.keys * self.hk * self.d * 2 * self.bits // 8

    def rows(self, length: int, seed: int) -> torch.Tensor:
        """``[1, length, hk, d]``, standard normal."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, length, self.hk, self.d, generator=generator).bfloat16()

    def make(self, device: str = "cpu") -> Paged:
        pages = sum(-(-n // self.page) + 1 for n in self.lengths)
        block = self.page * self.d * 2
        each = self.hk * (2 * block + 16 * (self.page + self.d) + 16)
        cache = warploom.PagedKVCache(
            layers=1, kv_heads=self.hk, head_dim=self.d, page_size=self.page, bits=self.bits,
            max_bytes=pages * each + 4 * self.hk * block, device=device,
            keys_per_channel=self.keys_per_channel,
        )  # fmt: skip
        sequences = [cache.add_sequence() for _ in self.lengths]
        k, v = (self.rows(_PIECE, seed).to(device) for seed in (1, 2))
        for sequence, length in zip(sequences, self.lengths, strict=True):
            for begin in range(0, length, _PIECE):
                rows = min(_PIECE, length - begin)
                cache.append(0, [sequence], k[:, :rows], v[:, :rows])
        generator = torch.Generator().manual_seed(3)
        q = torch.randn(len(self.lengths), 1, self.h, self.d, generator=generator)
        return Paged(self, cache, sequences, q.bfloat16().to(device))


def ours(paged: Paged, precision: str) -> Call:
    """Attention to a filled cache."""
    table, lengths = (t.clone() for t in paged.cache.tables(0, paged.sequences))
    q, pages = paged.q, paged.cache.pages
    return lambda: warploom.attention_pages(
        q, pages, table, lengths, precision=precision, check=False
    )


def plain_decode(paged: Paged) -> Call:
    """The decode of pages that are bfloat16 tensors, of the same values."""
    one = paged.job
    read = [paged.cache.read(0, sequence) for sequence in paged.sequences]
    k, v = (torch.stack(side) for side in zip(*read, strict=True))
    lengths = torch.tensor(one.lengths, dtype=torch.int32, device=k.device)
    q = paged.q
    return lambda: warploom.attention_decode(q, k, v, lengths, check=False)


def our_step(one: PagedJob, device: str) -> Call:
    """A token stored, and attention from it: what a layer of a model asks for."""
    grown = replace(one, lengths=one.lengths[:1])
    paged = grown.make(device)
    cache = warploom.PagedKVCache(
        layers=1, kv_heads=one.hk, head_dim=one.d, page_size=one.page, bits=one.bits,
        max_bytes=1 << 28, device=device,
    )  # fmt: skip
    sequence = paged.cache.copy_to(paged.sequences[0], cache)
    k, v = (one.rows(1, seed).to(device) for seed in (4, 5))
    q = paged.q

    def call() -> torch.Tensor:
        cache.append(0, [sequence], k, v)
        o: torch.Tensor = cache.attend(0, q, [sequence])
        return o

    return call


def transformers_step(one: PagedJob, backend: str) -> Call:
    """The same on a layer of transformers' QuantizedCache, groups of 64, a residual of 128."""
    from transformers import cache_utils

    layers = {
        "quanto": cache_utils.QuantoQuantizedLayer,
        "hqq": cache_utils.HQQQuantizedLayer,
    }
    options = {} if backend == "quanto" else {"axis_key": 1, "axis_value": 1}
    layer = layers[backend](nbits=one.bits, q_group_size=min(64, one.d), **options)
    k, v = (one.rows(one.lengths[0], seed).transpose(1, 2) for seed in (1, 2))
    layer.update(k.contiguous(), v.contiguous())
    new_k, new_v = (one.rows(1, seed).transpose(1, 2) for seed in (4, 5))
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(1, one.hk, one.h // one.hk, one.d, generator=generator).bfloat16()

    def call() -> torch.Tensor:
        keys, values = layer.update(new_k, new_v)
        return F.scaled_dot_product_attention(q, keys.bfloat16(), values.bfloat16())

    with torch.inference_mode():
        call()
    return torch.inference_mode()(call)


def shrinking(blocks: int, count: int, bits: int, to: int, device: str) -> Call:
    """Every block of a pool of any codes, again and again: a shrink moves no block."""
    pool = torch.randint(256, (blocks, count * bits // 8), dtype=torch.uint8).to(device)
    index = torch.arange(blocks, dtype=torch.int32, device=device)
    return lambda: warploom.kv_shrink_blocks(pool, index, count, bits, to, check=False)


def ggml(one: PagedJob, threads: int) -> Call:
    """``ggml_flash_attn_ext`` on one sequence's q8_0 or q4_0 keys and values."""
    import ggml as library
    import numpy

    length = one.lengths[0]
    kind = {8: library.GGML_TYPE_Q8_0, 4: library.GGML_TYPE_Q4_0}[one.bits]
    size = library.ggml_row_size(kind, one.d) * length * one.hk
    params = library.ggml_init_params(
        mem_size=2 * size + (1 << 26), mem_buffer=None, no_alloc=False
    )
    context = library.ggml_init(params)
    q = library.ggml_new_tensor_4d(context, library.GGML_TYPE_F32, one.d, 1, one.h, 1)
    generator = numpy.random.default_rng(0)
    _fill(library, q, generator.standard_normal(one.d * one.h, dtype=numpy.float32).tobytes())
    sides = []
    for seed in (1, 2):
        side = library.ggml_new_tensor_4d(context, kind, one.d, length, one.hk, 1)
        rows = one.rows(length, seed)[0].transpose(0, 1).float().contiguous().numpy()
        library.ggml_quantize_chunk(
            kind,
            rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            ctypes.c_void_p(library.ggml_get_data(side)),
            0,
            length * one.hk,
            one.d,
            None,
        )
        sides.append(side)
    o = library.ggml_flash_attn_ext(context, q, *sides, None, one.d**-0.5, 0.0, 0.0)
    graph = library.ggml_new_graph(context)
    library.ggml_build_forward_expand(graph, o)
    plan = library.ggml_graph_plan(graph, threads, None)
    work = (ctypes.c_uint8 * max(plan.work_size, 1))()
    plan.work_data = ctypes.cast(work, ctypes.POINTER(ctypes.c_uint8))

    def call() -> tuple[Any, ...]:
        library.ggml_graph_compute(graph, ctypes.byref(plan))
        return work, o, context  # which must live as long

    return call


def _fill(library: Any, tensor: Any, data: bytes) -> None:
    ctypes.memmove(library.ggml_get_data(tensor), data, len(data))
