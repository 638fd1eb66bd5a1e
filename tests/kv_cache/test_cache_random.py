"""Any sequence of operations against a plain model: lists of rows for every sequence and layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import warploom as wl
from warploom.reference import kv_grid

LAYERS, SIZE, HEADS = 2, 16, 2
SHAPES = [(32, 32, False), (32, 32, True), (48, 32, False)]


class Caches(RuleBasedStateMachine):
    @initialize(
        shape=st.sampled_from(SHAPES),
        bits=st.sampled_from([16, 8, 4, 2, (8, 2), (4, 16)]),
        sink=st.sampled_from([0, 1, 17]),
        window=st.sampled_from([0, 5, 16, 40]),
        pages=st.integers(6, 30),
        seed=st.integers(0, 1000),
    )
    def start(self, shape, bits, sink, window, pages, seed):
        self.d, self.dv, per_channel = shape
        options = {
            "layers": LAYERS, "kv_heads": HEADS, "head_dim": self.d, "page_size": SIZE,
            "value_head_dim": self.dv, "bits": bits, "keys_per_channel": per_channel,
            "group": 16, "sink": sink, "window": window,
        }  # fmt: skip
        self.sink, self.window = sink, window
        self.per_channel = per_channel
        with pytest.raises(ValueError, match="must be at least") as told:
            wl.PagedKVCache(max_bytes=100, **options)
        least = int(str(told.value).split("at least ")[1].split(",")[0])
        page = SIZE * HEADS * (self.d + self.dv) * 2
        self.cache = wl.PagedKVCache(max_bytes=max(least, pages * page), **options)
        self.generator = torch.Generator().manual_seed(seed)
        self.model: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def rows(self, *leading):
        return tuple(
            torch.randn(*leading, HEADS, dim, generator=self.generator).bfloat16()
            for dim in (self.d, self.dv)
        )

    def some(self, data):
        return data.draw(st.sampled_from(sorted(self.model)))

    def refresh(self, seq, layer):
        """What was read becomes what is known: after rows were rounded anew."""
        k, v = self.cache.read(layer, seq)
        self.model[seq][layer] = (k, v)

    @rule()
    def add(self):
        if len(self.model) < 5:
            seq = self.cache.add_sequence()
            assert seq not in self.model
            self.model[seq] = [tuple(x[:0] for x in self.rows(1)) for _ in range(LAYERS)]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1), s=st.integers(0, 70))
    def append(self, data, layer, s):
        seq = self.some(data)
        k, v = self.rows(s)
        self.attempt(lambda: self.cache.append(layer, seq, k, v), [(seq, layer, k, v)])

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1), s=st.sampled_from([1, 1, 1, 2, 20]))
    def append_to_several(self, data, layer, s):
        seqs = data.draw(st.permutations(sorted(self.model)))
        seqs = seqs[: data.draw(st.integers(1, len(seqs)))]
        k, v = self.rows(len(seqs), s)
        rows = [(seq, layer, k[n], v[n]) for n, seq in enumerate(seqs)]
        self.attempt(lambda: self.cache.append(layer, seqs, k, v), rows)

    def attempt(self, call, rows):
        free, nbytes = self.cache.stats()["free_bytes"], self.cache.nbytes()
        error = None
        try:
            call()
        except MemoryError as raised:
            error = raised
        if error is not None:
            missing = self.cache.shortfall()
            assert f"lacks {missing} bytes" in str(error)
            assert missing > 0
            assert self.cache.nbytes() == nbytes
            assert self.cache.stats()["free_bytes"] == free
            return
        for seq, layer, k, v in rows:
            old = self.model[seq][layer]
            self.model[seq][layer] = (torch.cat([old[0], k]), torch.cat([old[1], v]))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1), side=st.integers(0, 1))
    def refused(self, data, layer, side):
        """A NaN anywhere: nothing of the append is there."""
        seq = self.some(data)
        k, v = self.rows(40)
        (k, v)[side][data.draw(st.integers(0, 39)), 1, 3] = torch.nan
        nbytes = self.cache.nbytes()
        with pytest.raises((ValueError, MemoryError)):
            self.cache.append(layer, seq, k, v)
        assert self.cache.nbytes() == nbytes

    @precondition(lambda self: 0 < len(self.model) < 6)
    @rule(data=st.data())
    def fork(self, data):
        seq = self.some(data)
        nbytes = self.cache.nbytes()
        self.model[self.cache.fork(seq)] = list(self.model[seq])
        assert self.cache.nbytes() == nbytes, "a fork takes no page"

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def free(self, data):
        seq = self.some(data)
        self.cache.free(seq)
        del self.model[seq]
        with pytest.raises(ValueError, match=f"unknown sequence {seq}"):
            self.cache.length(0, seq)

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data())
    def reorder(self, data):
        seqs = sorted(self.model)
        index = data.draw(st.lists(st.integers(0, len(seqs) - 1), min_size=len(seqs),
                                   max_size=len(seqs)))  # fmt: skip
        same = index == list(range(len(seqs)))
        before = [self.cache.widths(0, seq) for seq in seqs]
        self.cache.reorder(seqs, index)
        for seq, widths in zip(seqs, before, strict=True):
            assert not same or torch.equal(self.cache.widths(0, seq), widths)
        self.model = {seq: list(self.model[seqs[n]]) for seq, n in zip(seqs, index, strict=True)}

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        layer=st.integers(0, LAYERS - 1),
        bits=st.sampled_from([8, 4, 2, (16, 4), (2, 8)]),
        shared=st.booleans(),
        heads=st.sampled_from([None, None, [1]]),
    )
    def shrink(self, data, layer, bits, shared, heads):
        seq = self.some(data)
        before = self.cache.widths(layer, seq)
        pages = None
        if len(before) and data.draw(st.booleans()):
            pages = data.draw(st.sets(st.integers(0, len(before) - 1)))
        nbytes = self.cache.nbytes(layer)
        freed = self.cache.shrink(layer, seq, bits, pages, heads, shared=shared)
        assert self.cache.nbytes(layer) == nbytes - freed
        after = self.cache.widths(layer, seq)
        length = self.cache.length(layer, seq)
        if heads:
            assert torch.equal(after[:, 0], before[:, 0])
        for n in range(len(before)):
            mine = n * SIZE < self.sink or (n + 1) * SIZE > length - self.window
            if mine or (pages is not None and n not in pages):
                assert torch.equal(after[n], before[n])
            assert (after[n] <= before[n]).all()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1))
    def keep(self, data, layer):
        seq = self.some(data)
        length = self.cache.length(layer, seq)
        gone = data.draw(st.sets(st.integers(0, max(length - 1, 0)), max_size=6))
        if data.draw(st.booleans()):
            gone |= set(range(data.draw(st.integers(0, length)), length))
        stay = torch.tensor([n for n in range(length) if n not in gone], dtype=torch.long)
        before = self.cache.read(layer, seq)
        try:
            self.cache.keep(layer, seq, stay)
        except MemoryError:
            for a, b in zip(before, self.cache.read(layer, seq), strict=True):
                assert torch.equal(a, b)
            return
        found = self.cache.read(layer, seq)
        first = length if not gone else min(gone)
        for old, new in zip(before, found, strict=True):
            assert new.shape[0] == len(stay)
            whole = first // SIZE * SIZE
            assert torch.equal(new[:whole], old[:whole]), "pages before the first gap changed"
        self.model[seq][layer] = tuple(x[stay] for x in before)
        self.near(seq, layer)
        self.refresh(seq, layer)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def crop(self, data):
        seq = self.some(data)
        longest = max(self.cache.length(layer, seq) for layer in range(LAYERS))
        length = data.draw(st.integers(0, longest))
        before = [self.cache.read(layer, seq) for layer in range(LAYERS)]
        try:
            self.cache.crop(seq, length)
        except MemoryError:
            length = longest
        for layer, old in enumerate(before):
            found = self.cache.read(layer, seq)
            assert all(torch.equal(a, b[:length]) for a, b in zip(found, old, strict=True))
            if length < len(old[0]):
                self.refresh(seq, layer)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1))
    def rotate(self, data, layer):
        seq = self.some(data)
        k, v = self.cache.read(layer, seq, dtype=torch.float32)
        try:
            self.cache.rotate(layer, seq, 1.5, torch.tensor([0.5, 0.25]))
        except MemoryError:
            assert torch.equal(self.cache.read(layer, seq, dtype=torch.float32)[0], k)
            return
        turned, same = self.cache.read(layer, seq, dtype=torch.float32)
        assert torch.equal(same, v)
        rest = [n for n in range(self.d) if n not in (0, 1, 2, 3)]
        assert turned.shape == k.shape
        if bool((self.cache.widths(layer, seq)[..., 0] == 16).all()):
            assert torch.equal(turned[..., rest], k[..., rest])
        self.refresh(seq, layer)

    @rule(layer=st.integers(0, LAYERS - 1), bits=st.sampled_from([16, 8, 4, 2, (8, 2), (4, 16)]))
    def set_bits(self, layer, bits):
        before = {seq: self.cache.widths(layer, seq) for seq in self.model}
        self.cache.set_bits(layer, bits)
        for seq, widths in before.items():
            assert torch.equal(self.cache.widths(layer, seq), widths)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), layer=st.integers(0, LAYERS - 1))
    def attend(self, data, layer):
        seq = self.some(data)
        if self.cache.length(layer, seq) == 0:
            return
        q = torch.randn(1, 1, 2 * HEADS, self.d, generator=self.generator)
        o = self.cache.attend(layer, q, [seq])
        k, v = self.cache.read(layer, seq, dtype=torch.float32)
        wanted = wl.attention(q, k[None], v[None], wl.mask.causal())
        assert (o - wanted).norm() < 2e-3 * wanted.norm() + 1e-5

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def copy_and_free(self, data):
        """Swapped out and in again: to the bit."""
        seq = self.some(data)
        try:
            made = self.cache.copy_to(seq, self.cache)
        except MemoryError:
            return
        for layer in range(LAYERS):
            assert torch.equal(self.cache.widths(layer, made), self.cache.widths(layer, seq))
            pairs = zip(self.cache.read(layer, made), self.cache.read(layer, seq), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        self.cache.free(seq)
        self.model[made] = self.model.pop(seq)

    def near(self, seq, layer):
        """Every value within half a step of a grid that its exact group may have."""
        widths = self.cache.widths(layer, seq)
        found = self.cache.read(layer, seq, dtype=torch.float32)
        for side, (x, exact) in enumerate(zip(found, self.model[seq][layer], strict=True)):
            assert x.shape == exact.shape
            for page, width in enumerate(widths[:, :, side]):
                rows = slice(page * SIZE, (page + 1) * SIZE)
                for head, bits in enumerate(width.tolist()):
                    a, b = x[rows, head], exact[rows, head].float()
                    if bits == 16:
                        assert torch.equal(a, b)
                        continue
                    across = self.per_channel and side == 0
                    groups = (b.T if across else b).contiguous()
                    step = kv_grid(groups, 16)[1].float() / (2**bits - 1)
                    step = step.repeat_interleave(16, 1)
                    step = step.T if across else step
                    # What keep() rounded before may have widened or narrowed the grid since.
                    slack = 2.0**-7 * b.abs().amax()
                    assert ((a - b).abs() <= step * 0.54 + slack).all()

    @invariant()
    def agrees(self):
        if not hasattr(self, "cache"):
            return
        self.cache.validate()
        for seq, layers in self.model.items():
            for layer in range(LAYERS):
                assert self.cache.length(layer, seq) == len(layers[layer][0])
                self.near(seq, layer)
        stats = self.cache.stats()
        assert self.cache.nbytes() == sum(self.cache.nbytes(n) for n in range(LAYERS))
        assert self.cache.nbytes() <= self.cache.max_bytes - stats["free_bytes"]

    def teardown(self):
        if not hasattr(self, "cache"):
            return
        for seq in list(self.model):
            self.cache.free(seq)
        self.cache.validate()
        assert self.cache.nbytes() == 0
        assert self.cache.stats()["pages"] == 0


TestCaches = Caches.TestCase
TestCaches.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
