"""The pages of one layer of a quantized cache. docs/kv_cache_format.md is the layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PAGE_WIDTHS = (16, 8, 4, 2)
PAGE_MULTIPLE = 16  # of positions of a page, of head dims, of groups
NO_BLOCK = -1  # the tag of a block that is not there
_LEAST_RANGE = 2.0**-110
_LINE = 64


def kv_tag(quantum: int, width: int) -> int:
    """The tag of a block that starts ``quantum`` quanta into the pool: width 16, 8, 4 or 2."""
    if width not in PAGE_WIDTHS:
        raise ValueError(f"width is {width}: must be 16, 8, 4 or 2")
    return quantum * 4 + (width.bit_length() - 2)


@dataclass(frozen=True, eq=False)
class KVPages:
    """Blocks of keys and values in 16, 8, 4 or 2 bits, and where each lies.

    Args:
        pool: ``[bytes]``, uint8, at an address that is a multiple of 64; may serve many layers.
        tags: ``[pages, hk, 2]``, int32: of a page's keys, then of its values; :func:`kv_tag`, or -1
            where there is no block.
        key_grids: bfloat16, min and then range: ``[pages, hk, d / key_group, 2, page_size]``; per
            channel ``[pages, hk, page_size / key_group, 2, d]``.
        value_grids: bfloat16 ``[pages, hk, dv / value_group, 2, page_size]``.
        key_group: values of a key (per channel: positions of a channel) that share a grid.
        value_group: values that share a grid.
        quantum_bytes: blocks start at multiples of it; a multiple of 64.
        keys_per_channel: whether key groups lie along the positions of a page.
    """

    pool: torch.Tensor
    tags: torch.Tensor
    key_grids: torch.Tensor
    value_grids: torch.Tensor
    key_group: int
    value_group: int
    quantum_bytes: int
    keys_per_channel: bool = False

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return self.tags.shape[0]

    @property
    def kv_heads(self) -> int:
        return self.tags.shape[1]

    @property
    def page_size(self) -> int:
        """Positions of a page."""
        return self.value_grids.shape[4]

    @property
    def head_dim(self) -> int:
        """d, of keys."""
        if self.keys_per_channel:
            return self.key_grids.shape[4]
        return self.key_grids.shape[2] * self.key_group

    @property
    def value_dim(self) -> int:
        """dv, of values."""
        return self.value_grids.shape[2] * self.value_group

    def block_bytes(self, width: int, values: bool = False) -> int:
        """Bytes of a block of keys, or of values, at one width."""
        return self.page_size * (self.value_dim if values else self.head_dim) * width // 8

    def core_arguments(self) -> tuple[int, ...]:
        """In the order of wl_kv_pages."""
        return (
            self.pages, self.page_size, self.kv_heads, self.head_dim, self.value_dim,
            self.key_group, self.value_group, self.keys_per_channel,
            self.pool.data_ptr(), self.pool.numel(), self.quantum_bytes,
            self.tags.data_ptr(), self.key_grids.data_ptr(), self.value_grids.data_ptr(),
        )  # fmt: skip

    def check_shapes(self) -> None:
        """Everything but what the tensors hold.

        Raises:
            ValueError: what is wrong, what it was, and what it must be.
        """
        wanted = {
            "pool": (self.pool, torch.uint8, "bytes"),
            "tags": (self.tags, torch.int32, "pages hk 2"),
            "key_grids": (
                self.key_grids,
                torch.bfloat16,
                "pages hk page/group 2 d" if self.keys_per_channel else "pages hk d/group 2 page",
            ),
            "value_grids": (self.value_grids, torch.bfloat16, "pages hk dv/group 2 page"),
        }
        for name, (tensor, dtype, axes) in wanted.items():
            if tensor.dtype is not dtype:
                raise ValueError(f"{name} is {tensor.dtype}: must be {dtype}")
            if tensor.dim() != len(axes.split()):
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}: must be [{', '.join(axes.split())}]"
                )
            if not tensor.is_contiguous():
                raise ValueError(f"{name} has strides {tensor.stride()}: must be contiguous")
            if tensor.device != self.pool.device:
                raise ValueError(
                    f"{name} is on {tensor.device}: must be on {self.pool.device} like pool"
                )
        for name, group in (("key_group", self.key_group), ("value_group", self.value_group)):
            if group <= 0 or group % PAGE_MULTIPLE:
                raise ValueError(
                    f"{name} is {group}: must be a positive multiple of {PAGE_MULTIPLE}"
                )
        if self.quantum_bytes <= 0 or self.quantum_bytes % _LINE:
            raise ValueError(
                f"quantum_bytes is {self.quantum_bytes}: must be a positive multiple of {_LINE}"
            )
        page, heads = self.page_size, self.kv_heads
        if page <= 0 or page % PAGE_MULTIPLE:
            raise ValueError(
                f"value_grids has shape {tuple(self.value_grids.shape)}: its last axis, the "
                f"positions of a page, must be a positive multiple of {PAGE_MULTIPLE}"
            )
        if self.keys_per_channel:
            keys = (self.pages, heads, page // self.key_group, 2, self.head_dim)
            if page % self.key_group:
                raise ValueError(
                    f"key_group is {self.key_group}: must divide the {page} positions of a page"
                )
            if self.head_dim % PAGE_MULTIPLE:
                raise ValueError(
                    f"key_grids has shape {tuple(self.key_grids.shape)}: its last axis, d, must "
                    f"be a multiple of {PAGE_MULTIPLE}"
                )
        else:
            keys = (self.pages, heads, self.head_dim // self.key_group, 2, page)
        values = (self.pages, heads, self.value_dim // self.value_group, 2, page)
        for name, tensor, shape in (
            ("tags", self.tags, (self.pages, heads, 2)),
            ("key_grids", self.key_grids, keys),
            ("value_grids", self.value_grids, values),
        ):
            if tensor.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}: must be {shape} for pages of {page} "
                    f"positions"
                )
        if self.pool.data_ptr() % _LINE:
            raise ValueError(f"pool is not at a multiple of {_LINE} bytes")

    def validate(self) -> None:
        """Shapes, and what the tensors hold: blocks lie within the pool and apart from each other,
        grids of blocks of codes are grids. Every code is valid at its width.

        Raises:
            ValueError: what is wrong, where, and what it must be.
        """
        self.check_shapes()
        tags = self.tags.long()
        used = tags != NO_BLOCK
        self._first_wrong("tags", self.tags, (tags >= 0) | ~used, "a block's, or -1")
        sizes = torch.tensor([self.block_bytes(2), self.block_bytes(2, values=True)])
        sizes = sizes.to(tags.device) << (tags & 3)
        starts = (tags >> 2) * self.quantum_bytes
        ends = starts + sizes
        self._first_wrong(
            "tags",
            self.tags,
            (ends <= self.pool.numel()) | ~used,
            f"of a block within the pool's {self.pool.numel()} bytes",
        )
        order = starts[used].argsort()
        first, last, places = starts[used][order], ends[used][order], used.nonzero()[order]
        overlaps = (first[1:] < last[:-1]).nonzero()
        if len(overlaps):
            n = int(overlaps[0])
            a, b = places[n].tolist(), places[n + 1].tolist()
            raise ValueError(f"tags{a} and tags{b}: their blocks overlap")
        for name, grids, side in (
            ("key_grids", self.key_grids, 0),
            ("value_grids", self.value_grids, 1),
        ):
            coded = used[..., side] & ((tags[..., side] & 3) != 3)
            coded = coded[:, :, None, None].expand(-1, -1, grids.shape[2], grids.shape[4])
            lowest, extent = grids.float().unbind(3)
            self._first_wrong(name, lowest, lowest.isfinite() | ~coded, "finite: a min", 0)
            right = extent.isfinite() & ((extent == 0) | (extent >= _LEAST_RANGE))
            self._first_wrong(
                name, extent, right | ~coded, "0, or finite and at least 2**-110: a range", 1
            )

    @staticmethod
    def _first_wrong(
        name: str, tensor: torch.Tensor, right: torch.Tensor, needed: str, part: int | None = None
    ) -> None:
        wrong = right.logical_not().nonzero()
        if len(wrong):
            at = wrong[0].tolist()
            place = at if part is None else [*at[:3], part, *at[3:]]
            raise ValueError(f"{name}{place} is {tensor[tuple(at)].item()}: must be {needed}")
