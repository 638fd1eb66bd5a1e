"""Cases of attention to quantized pages, and what their results are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from warploom import ops, reference
from warploom.mask import Mask, causal
from warploom.ops.kv_pages import KVPages
from warploom.reference.attention import Attend
from warploom.testing import plain
from warploom.testing.cases import DecodeCase
from warploom.testing.compare import STATED_PAGES, assert_matches
from warploom.testing.pages import make_pages

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class PagesInputs:
    """Tensors of a :class:`PagesCase`."""

    q: torch.Tensor
    pages: KVPages
    page_table: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class PagesCase:
    """Attention of ``s`` new positions a sequence to pages whose blocks have any of ``widths``."""

    lengths: tuple[int, ...] = (1,)
    s: int = 1
    h: int = 1
    hk: int | None = None
    d: int = 64
    dv: int | None = None
    dtype: str = "float32"
    page: int = 64
    widths: tuple[int, ...] = (16, 8, 4, 2)
    key_group: int | None = None
    value_group: int | None = None
    keys_per_channel: bool = False
    quantum_bytes: int = 64
    mask: Mask = field(default_factory=causal)
    scale: float | None = None
    softcap: float | None = None
    offset: float = 0.0  # of keys and values: how far from zero their grids lie

    @property
    def value_dim(self) -> int:
        return self.d if self.dv is None else self.dv

    @property
    def spread(self) -> float:
        """Of scores, before a soft cap, relative to those at the usual scale."""
        return 1.0 if self.scale is None else self.scale * float(self.d**0.5)

    @property
    def decode(self) -> DecodeCase:
        """The same from a cache that was not quantized."""
        return DecodeCase(
            lengths=self.lengths, s=self.s, h=self.h, hk=self.hk, d=self.d, dv=self.dv,
            dtype=self.dtype, page=self.page, mask=self.mask, scale=self.scale,
            softcap=self.softcap,
        )  # fmt: skip

    def __str__(self) -> str:
        words = [str(self.decode), "bits" + "+".join(map(str, self.widths))]
        if self.keys_per_channel:
            words.append("channels")
        if self.key_group or self.value_group:
            words.append(f"groups{self.key_group}/{self.value_group}")
        if self.offset:
            words.append(f"offset{self.offset:g}")
        return " ".join(words)

    def make(self, seed: int = 0) -> PagesInputs:
        """Standard normal numbers. Pages that are still being filled have 16 bits, and NaN behind
        their sequence's end."""
        x = self.decode.make(seed=seed)
        assert x.page_table is not None
        generator = torch.Generator().manual_seed(seed)
        k, v = (t.float() + self.offset for t in (x.k_cache, x.v_cache))
        choice = torch.randint(len(self.widths), (k.shape[0], k.shape[2], 2), generator=generator)
        widths = torch.tensor(self.widths)[choice]
        for n, length in enumerate(self.lengths):
            if length % self.page:
                page = int(x.page_table[n, length // self.page])
                widths[page] = 16
                k[page, length % self.page :] = torch.nan
                v[page, length % self.page :] = torch.nan
        pages = make_pages(
            k, v, widths, key_group=self.key_group, value_group=self.value_group,
            keys_per_channel=self.keys_per_channel, quantum_bytes=self.quantum_bytes, seed=seed,
        )  # fmt: skip
        return PagesInputs(x.q, pages, x.page_table, x.lengths)


def run_pages(
    case: PagesCase, x: PagesInputs, precision: str = "exact", kernel: str | None = None
) -> Pair:
    """o and lse by the op."""
    result: Pair = ops.attention_pages(
        x.q, x.pages, x.page_table, x.lengths, mask=case.mask, scale=case.scale,
        softcap=case.softcap, precision=precision, return_lse=True, kernel=kernel,
    )  # fmt: skip
    return result


def expected_pages(case: PagesCase, x: PagesInputs) -> tuple[Pair, Pair]:
    """By the oracle in float64, and by plain torch in the case's precision, both on what the blocks
    stand for."""

    def by(attend: Attend, dtype: torch.dtype) -> Pair:
        return reference.attention_pages(
            x.q.to(dtype), x.pages, x.page_table, x.lengths, case.mask, case.scale, case.softcap,
            attend=attend,
        )  # fmt: skip

    oracle = by(reference.attention, torch.float64)
    o, lse = by(plain.attention, x.q.dtype)
    if x.q.dtype != torch.float32:
        lse = by(plain.attention, torch.float32)[1]
    return oracle, (o, lse)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance."""
    size = float(expected.norm())
    return float((found.double() - expected).norm()) / (size or 1.0)


def match_pages(
    result: Pair, expected: tuple[Pair, Pair], precision: str = "exact", spread: float = 1.0
) -> None:
    """Raises AssertionError unless o and lse are as the precision promises for such a spread."""
    (o, lse), (plain_o, plain_lse) = expected
    stated = STATED_PAGES[precision, result[0].dtype]
    bound = max(1.0, spread)
    if precision == "exact":
        assert_matches("o", result[0], o, plain_o, stated.o)
    assert_matches("lse", result[1], lse, plain_lse, stated.lse * bound)
    stored = relative_error(o.to(result[0].dtype), o)
    error = relative_error(result[0], o)
    assert error <= stated.relative * bound + stored, (
        f"o: relative error {error:.3g} exceeds {stated.relative * bound:g}, stored {stored:.3g}"
    )


def check_pages(
    case: PagesCase,
    inputs: PagesInputs | None = None,
    precision: str = "exact",
    kernel: str | None = None,
) -> Pair:
    """Runs the op and raises AssertionError unless its results are right; returns them."""
    x = inputs or case.make()
    result = run_pages(case, x, precision, kernel)
    assert result[0].dtype == x.q.dtype
    match_pages(result, expected_pages(case, x), precision, case.spread)
    return result
