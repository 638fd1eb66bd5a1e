"""The cache that a transformers model generates with: quantized pages, read where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import CacheLayerMixin

import warploom
from warploom.integrations.transformers_masks import MaskPlan
from warploom.integrations.transformers_pages import PagedStates
from warploom.methods.pm_kvq.allocation import Widths
from warploom.methods.pm_kvq.layout import WIDTHS, Layout
from warploom.methods.pm_kvq.rows import Rows, rows_of
from warploom.methods.pm_kvq.shrinking import Shrinking
from warploom.methods.pm_kvq.store import PagedStore

Plan = Widths | int | Sequence[int | tuple[int, int]]


class Cache(TransformersCache):  # type: ignore[misc]
    """Keys and values in pages of 16, 8, 4 and 2 bits; for ``attn_implementation="warploom"``.

    Everything begins at 16 bits. With widths from :func:`allocate`, pages halve when the budget
    forces it, a few at a time, in the order of the plan; with widths alone they go to them as soon
    as they leave the window. The pages of the sink and of the newest ``window`` positions stay at
    16 bits.

    A prompt is attended to at full precision, and so is a piece of one that is longer than the
    window: pages hold what came before. Sequences of a batch may be of different lengths, padded at
    the left; padding takes no room. Beams share pages.

    Args:
        config: of the model; all layers with full attention.
        widths: of :func:`allocate`; or a width for all layers, a width or a pair (keys, values) for
            each layer.
        sink: first positions, whose page stays at 16 bits. window: newest positions. Of widths from
            :func:`allocate` they must be those it counted with; None takes these, else 1 and 128.
        page_size: positions of a page, keys_per_channel: whether keys share grids by channel; as
            sink and window. None: 64, True.
        max_tokens: positions a sequence that fit. None: those of the allocation, else of the
            configuration.
        precision: of attention to codes, "exact" or "fast".

    Raises:
        ValueError: an argument is wrong.
        NotImplementedError: a layer without full attention.
    """

    def __init__(
        self,
        config: Any,
        widths: Plan,
        sink: int | None = None,
        window: int | None = None,
        *,
        page_size: int | None = None,
        keys_per_channel: bool | None = None,
        max_tokens: int | None = None,
        precision: str = "exact",
    ) -> None:
        asked = {
            name: value
            for name, value in (
                ("sink", sink), ("window", window), ("page_size", page_size),
                ("keys_per_channel", keys_per_channel),
            )
            if value is not None
        }  # fmt: skip
        if precision not in ("exact", "fast"):
            raise ValueError(f"precision is {precision!r}: must be 'exact' or 'fast'")
        self.layout = _layout(config, widths, asked)
        self.precision = precision
        self._plan = widths if isinstance(widths, Widths) else None
        self._final = _pairs(widths, self.layout.layers)
        longest = config.get_text_config(decoder=True).max_position_embeddings
        self.max_tokens = max_tokens or (self._plan.max_tokens if self._plan else longest)
        if self._plan and self.max_tokens > self._plan.max_tokens:
            raise ValueError(
                f"max_tokens is {max_tokens}: must be at most {self._plan.max_tokens}, which the "
                "widths were allocated for"
            )
        self._forget()
        super().__init__(layers=[PagedLayer(self, n) for n in range(self.layout.layers)])

    def _forget(self) -> None:
        self._store: PagedStore | None = None
        self._shrinking: Shrinking | None = None
        self._sequences: list[int] = []
        self._rows: Rows | None = None
        self._forked = False

    # --- what it takes

    def nbytes(self) -> int:
        """Bytes of all pages: codes, grids and tags; pages that beams share count once."""
        return self._store.nbytes() if self._store else 0

    def widths(self) -> list[tuple[int, int]]:
        """The width that pages leaving the window go to now: keys and values of every layer."""
        if self._plan is None:
            return list(self._final)
        if self._shrinking is None:
            return [(16, 16)] * self.layout.layers
        return [(keys, values) for keys, values in self._shrinking.widths]

    def mean_bits(self) -> list[tuple[float, float]]:
        """Bits of a code now, keys and values of every layer, on average over all pages."""
        if self._store is None:
            return [(16.0, 16.0)] * self.layout.layers
        return [self._store.mean_bits(n, self._sequences) for n in range(self.layout.layers)]

    # --- attention

    def attend(
        self,
        layer: int,
        k: torch.Tensor,
        v: torch.Tensor,
        q: torch.Tensor,
        plan: MaskPlan,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Stores the new keys and values of one layer, and attends to all that it has.

        Args:
            k, v: ``[b, hk, s, d]``. q: ``[b, s, h, d]``.
            plan: which positions of each row are no padding.
            options: scale and softcap.

        Returns:
            ``[b, s, h, d]``; zero where a query is padding.
        """
        if layer == 0 or self._rows is None or self._rows.plan is not plan:
            self._rows = rows_of(plan)
        if layer == 0:
            self._begin(k, plan)
        assert self._store is not None
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if self._rows.whole:
            (group,) = self._rows.groups
            return self._attend_group(layer, group.rows, q, k, v, group.begins, options)
        out = q.new_zeros(q.shape)
        for group in self._rows.groups:
            new = slice(group.q0, group.q1)
            queries, keys, values = (t[group.rows, new] for t in (q, k, v))
            out[group.rows, new] = self._attend_group(
                layer, group.rows, queries, keys, values, group.begins, options
            )
        return out

    def _attend_group(
        self,
        layer: int,
        rows: Sequence[int],
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        begins: Sequence[int],
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Rows with as many new positions each, which begin after ``begins`` stored ones."""
        assert self._store is not None
        sequences = [self._sequences[row] for row in rows]
        for row, sequence, begin in zip(rows, sequences, begins, strict=True):
            stored = self._store.length(layer, sequence)
            if stored != begin:
                raise ValueError(
                    f"attention_mask of row {row} counts {begin} positions before the new ones, "
                    f"the cache holds {stored}: padding must be what it was when they came"
                )
        if q.shape[1] <= max(1, self.layout.window):
            self._append(layer, sequences, k, v)
            if q.shape[1] > 1 and not any(begins):
                alone: torch.Tensor = _dense(q, k, v, options)
                return alone
            return self._store.attend(layer, q, sequences, self.precision, options)
        if any(begins):
            past, past_lse = self._store.attend_past(layer, q, sequences, self.precision, options)
            now, now_lse = _dense(q, k, v, {**options, "return_lse": True})
            o, _ = warploom.merge_states([past, now], [past_lse, now_lse])
        else:
            o = _dense(q, k, v, options)
        self._append(layer, sequences, k, v)
        return o

    def _begin(self, k: torch.Tensor, plan: MaskPlan) -> None:
        """Before the first layer of a forward pass: a store, and room for what is coming."""
        assert self._rows is not None
        if self._store is None:
            self._open(k)
        assert self._store is not None
        if k.shape[0] != len(self._sequences):
            raise ValueError(
                f"the batch has {k.shape[0]} rows, the cache holds {len(self._sequences)}: must "
                "be the same"
            )
        longest = max((g.longest for g in self._rows.groups), default=0)
        if longest > self.max_tokens:
            raise ValueError(
                f"a sequence of {longest} positions: this cache takes at most {self.max_tokens} "
                "(max_tokens)"
            )
        if self._shrinking is not None and longest < self.max_tokens:
            # Spread over a page's positions what opening the next one will ask for.
            filled = (longest - 1) % self.layout.page_size + 1
            page = self.layout.layers * self._page_bytes() * len(self._sequences)
            self._shrinking.make_room(page * filled // self.layout.page_size, self._sequences)

    def _open(self, k: torch.Tensor) -> None:
        b = k.shape[0]
        if self._plan is not None and b > self._plan.batch:
            raise ValueError(
                f"the batch has {b} rows: the widths were allocated for {self._plan.batch}"
            )
        need = b * self.layout.nbytes(self.max_tokens, self._final)
        budget = self._plan.budget_bytes if self._plan else need
        begun = [(16, 16)] * self.layout.layers if self._plan else self._final
        self._store = PagedStore(self.layout, budget, begun, k.device)
        if self._plan is not None:
            self._shrinking = Shrinking(self._plan.order, self.layout, self._store)
        self._sequences = [self._store.add_sequence() for _ in range(b)]

    def _append(
        self, layer: int, sequences: Sequence[int], k: torch.Tensor, v: torch.Tensor
    ) -> None:
        assert self._store is not None
        size = self.layout.page_size
        lengths = [self._store.length(layer, sequence) for sequence in sequences]
        for begin in range(0, k.shape[1], size):
            end = min(begin + size, k.shape[1])
            if self._shrinking is not None:
                opened = sum(
                    self.layout.pages(n + end) - self.layout.pages(n + begin) for n in lengths
                )
                if self._forked:  # a page that is shared is copied when it is written to
                    opened += len(sequences)
                if opened:
                    self._shrinking.make_room(opened * self._page_bytes(), self._sequences)
            self._append_page(layer, sequences, k[:, begin:end], v[:, begin:end])
        if layer == self.layout.layers - 1:
            self._forked = False

    def _append_page(
        self, layer: int, sequences: Sequence[int], k: torch.Tensor, v: torch.Tensor
    ) -> None:
        assert self._store is not None
        while True:
            try:
                self._store.append(layer, sequences, k, v)
                return
            except MemoryError:
                # Pages that do not fit: nothing is stored. Of any other cause something may be, and
                # to store it twice is worse than to stop.
                if self._store.shortfall() == 0:
                    raise
                if self._shrinking is None or not self._shrinking.halve(self._sequences):
                    raise

    def _page_bytes(self) -> int:
        layout = self.layout
        return layout.kv_heads * (2 * layout.block_bytes(16) + layout.metadata_bytes)

    # --- rows of the batch

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row n becomes what row ``beam_idx[n]`` was; both go on from the same pages."""
        self._take(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows at ``indices``, or where a mask is true."""
        chosen = indices.nonzero().flatten() if indices.dtype is torch.bool else indices
        self._take(chosen.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row ``repeats`` times, next to each other."""
        if self._plan is not None and len(self._sequences) * repeats > self._plan.batch:
            raise ValueError(
                f"repeats is {repeats}: the widths were allocated for {self._plan.batch} rows"
            )
        self._take([n for n in range(len(self._sequences)) for _ in range(repeats)])

    def _take(self, rows: list[int]) -> None:
        if self._store is None:
            return
        self._sequences = self._store.take(self._sequences, rows)
        self._rows, self._forked = None, True

    def reset(self) -> None:
        """Empty again, at 16 bits."""
        self._forget()
        for layer in self.layers:
            layer.seen = 0

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """Refused: positions cannot be taken back."""
        raise NotImplementedError(
            "crop: positions cannot be taken back from quantized pages; decode without assistants"
        )


class PagedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's face: it stages what is new; attention stores it and reads the pages."""

    supports_early_init = False

    def __init__(self, owner: Cache, index: int) -> None:
        super().__init__()
        self._owner, self._index = owner, index
        self.seen = 0  # positions, padding included

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[PagedStates, PagedStates]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.seen += key_states.shape[2]
        attend = partial(self._owner.attend, self._index, key_states, value_states)
        keys, values = (PagedStates.of(x, self.seen, attend) for x in (key_states, value_states))
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self._owner.max_tokens

    def offload(self) -> NoReturn:
        raise NotImplementedError("offload: quantized pages stay on the device of their model")

    prefetch = offload


def _dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> Any:
    return warploom.attention(q, k, v, mask=warploom.mask.causal(), **options)


def _layout(config: Any, widths: Plan, asked: dict[str, Any]) -> Layout:
    if not isinstance(widths, Widths):
        return Layout.of(config, **asked)
    known = widths.layout
    if (model := Layout.of(config)).sizes != known.sizes:
        raise ValueError(
            f"widths are for (layers, kv_heads, head_dim) = {known.sizes}, the model has "
            f"{model.sizes}: must be the same"
        )
    for name, value in asked.items():
        if getattr(known, name) != value:
            raise ValueError(
                f"{name} is {value}: must be {getattr(known, name)}, which the widths were "
                "allocated with"
            )
    return known


def _pairs(widths: Plan, layers: int) -> list[tuple[int, int]]:
    if isinstance(widths, Widths):
        return list(widths.layers)
    listed = [widths] * layers if isinstance(widths, int) else list(widths)
    if len(listed) != layers:
        raise ValueError(f"widths has {len(listed)} entries: must have one a layer, {layers}")
    pairs = [(w, w) if isinstance(w, int) else (int(w[0]), int(w[1])) for w in listed]
    for n, pair in enumerate(pairs):
        if not set(pair) <= set(WIDTHS):
            raise ValueError(f"widths[{n}] is {listed[n]}: must be of 16, 8, 4 and 2")
    return pairs
