"""Calls of the compiled core as C users can make them: any sizes and strides over one small buffer,
which a call that is refused must leave as it is."""

from __future__ import annotations

import dataclasses

import torch

from warploom import _core

STRIDES = (16, 8, 8, 1)


@dataclasses.dataclass
class Call:
    """One call; fields that are no argument of the op are left aside. Tensors share ``strides``
    unless ``other_strides`` names one."""

    op: str
    device: int = 0
    check: bool = True
    kernel: str | None = None
    workspace: int = 0
    workspace_bytes: int = 0
    dtype: int = 0
    b: int = 1
    s: int = 1
    h: int = 1
    hk: int = 1
    d: int = 8
    dv: int = 8
    sq: int = 2
    sk: int = 2
    tq: int = 0
    tk: int = 0
    capacity: int = 2
    pages: int = 0
    max_pages: int = 0
    tokens: int = 2
    parts: int = 1
    page_table_stride: int = 0
    left: int = -1
    right: int = -1
    ragged: bool = False
    paged: bool = False
    strides: tuple[int, ...] = STRIDES
    other_strides: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = torch.ones(64)
        self.indices = torch.ones(4, dtype=torch.int32)
        self.slots = torch.zeros(2, dtype=torch.int64)

    def run(self) -> None:
        name = self.op if self.op == "page_write" else f"attention_{self.op}"
        try:
            getattr(_core, name)(*self._arguments())
        except ValueError:
            assert (self.memory == 1).all(), "a refused call wrote"
            raise

    def needed_workspace(self) -> int:
        """Bytes; of the ops that have such a query."""
        needed: int = getattr(_core, f"attention_{self.op}_workspace")(*self._arguments())
        return needed

    def _arguments(self) -> tuple[object, ...]:
        return (*self._exec(), *getattr(self, f"_{self.op}")())

    def _exec(self) -> tuple[object, ...]:
        where = (self.device, 0, 0, 1, self.check, self.kernel)
        return (*where, self.workspace, self.workspace_bytes)

    def _tensors(self, *names: str) -> list[object]:
        found: list[object] = []
        for name in names:
            found += [self.memory.data_ptr(), self.other_strides.get(name, self.strides)]
        return found

    def _problem(self) -> tuple[object, ...]:
        offsets = self.indices.data_ptr() if self.ragged else 0
        return (
            self.dtype, self.b, self.h, self.hk, self.d, self.dv, self.sq, self.sk, self.tq,
            self.tk, offsets, offsets, self.left, self.right, 1.0, 0.0,
        )  # fmt: skip

    def _forward(self) -> tuple[object, ...]:
        return (*self._problem(), *self._tensors("q", "k", "v", "o"), self.memory.data_ptr())

    def _backward(self) -> tuple[object, ...]:
        inputs = self._tensors("q", "k", "v", "o", "grad_o")
        return (
            *self._problem(), *inputs, self.memory.data_ptr(), 0, *self._tensors("dq", "dk", "dv"),
        )  # fmt: skip

    def _decode(self) -> tuple[object, ...]:
        return (
            self.dtype, self.b, self.s, self.h, self.hk, self.d, self.dv, self.capacity,
            self.pages, self.max_pages, self.indices.data_ptr() if self.paged else 0,
            self.page_table_stride, self.indices.data_ptr(), self.left, self.right, 1.0, 0.0,
            *self._tensors("q", "o", "k_cache", "v_cache"), self.memory.data_ptr(),
        )  # fmt: skip

    def _merge(self) -> tuple[object, ...]:
        return (
            self.dtype, self.b, self.s, self.h, self.dv,
            self._tensors("o_parts") * self.parts, [self.memory.data_ptr()] * self.parts,
            *self._tensors("o"), self.memory.data_ptr(),
        )  # fmt: skip

    def _page_write(self) -> tuple[object, ...]:
        return (
            self.dtype, self.tokens, self.hk, self.d, self.dv, self.pages, self.capacity,
            self.slots.data_ptr(), *self._tensors("k", "v", "k_pages", "v_pages"),
        )  # fmt: skip
