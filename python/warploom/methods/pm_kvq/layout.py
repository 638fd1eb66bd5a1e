"""What a cache holds and how many bytes that takes: codes, grids, and what stays at 16 bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WIDTHS = (16, 8, 4, 2)
KEYS, VALUES = 0, 1
_GRID_BYTES = 4  # min and range of a group, bfloat16
_TAG_BYTES = 4  # where a block is, and its width
_MOST_GROUP = 128


@dataclass(frozen=True)
class Layout:
    """A cache of one model: its sizes, and which positions never leave 16 bits.

    Args:
        layers: that hold keys and values.
        kv_heads: of a layer, which several query heads may share.
        head_dim: d of keys and values, a multiple of 16.
        page_size: positions of a page, a multiple of 16.
        sink: first positions of a sequence whose page stays at 16 bits.
        window: last positions whose pages are still at 16 bits: a window that slides, by pages.
        keys_per_channel: whether a group of keys is a channel over a page, or one key.
    """

    layers: int
    kv_heads: int
    head_dim: int
    page_size: int = 64
    sink: int = 1
    window: int = 128
    keys_per_channel: bool = True

    def __post_init__(self) -> None:
        for name in ("head_dim", "page_size"):
            size = getattr(self, name)
            if size <= 0 or size % 16:
                raise ValueError(f"{name} is {size}: must be a positive multiple of 16")
        for name, least in (("layers", 1), ("kv_heads", 1), ("sink", 0), ("window", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: must be at least {least}")

    @classmethod
    def of(cls, config: Any, **options: Any) -> Layout:
        """The layout of a transformers model's configuration.

        Raises:
            NotImplementedError: layers that are no full attention; the first is named.
        """
        text = config.get_text_config(decoder=True)
        for index, kind in enumerate(getattr(text, "layer_types", None) or ()):
            if kind != "full_attention":
                raise NotImplementedError(
                    f"layer {index} of {type(text).__name__} is {kind}: the quantized cache holds "
                    "full attention only"
                )
        heads = text.num_attention_heads
        return cls(
            layers=text.num_hidden_layers,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            **options,
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """layers, kv_heads, head_dim."""
        return self.layers, self.kv_heads, self.head_dim

    @property
    def group(self) -> int:
        """Values of a row that share a grid: the most that divide it, up to 128."""
        return _group_of(self.head_dim)

    @property
    def key_group(self) -> int:
        """Keys' values that share a grid."""
        return _group_of(self.page_size if self.keys_per_channel else self.head_dim)

    def block_bytes(self, width: int) -> int:
        """Keys, or values, of one page and head, without grids."""
        return self.page_size * self.head_dim * width // 8

    @property
    def metadata_bytes(self) -> int:
        """Grids and tags of one page and head, keys and values: there at every width."""
        values = self.page_size * self.head_dim
        return _GRID_BYTES * (values // self.key_group + values // self.group) + 2 * _TAG_BYTES

    @property
    def kept(self) -> int:
        """First positions that stay at 16 bits: the sink's, to the end of their page."""
        return self.pages(self.sink) * self.page_size

    def body(self, tokens: int) -> range:
        """The pages of a sequence that may leave 16 bits: full, past the sink, before the window.

        Every position of theirs is followed by at least ``window`` newer ones.
        """
        first = self.pages(self.sink)
        return range(first, max(first, (tokens - self.window) // self.page_size))

    def pages(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def nbytes(self, tokens: int, widths: Iterable[tuple[int, int]]) -> int:
        """Bytes of a sequence whose body has these widths of keys and values, layer by layer.

        The most that they are on the way to ``tokens``: just after its last page was opened.
        """
        opened = (self.pages(tokens) - 1) * self.page_size + 1
        body = len(self.body(opened))
        kept = self.pages(tokens) - body
        total = 0
        for pair in widths:
            codes = sum(body * self.block_bytes(w) + kept * self.block_bytes(16) for w in pair)
            total += self.kv_heads * (codes + (body + kept) * self.metadata_bytes)
        return total

    def uniform_nbytes(self, tokens: int, width: int) -> int:
        return self.nbytes(tokens, [(width, width)] * self.layers)


def _group_of(size: int) -> int:
    return next(n for n in range(_MOST_GROUP, 0, -16) if size % n == 0)
