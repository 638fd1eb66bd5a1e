"""Which keys a rank's calls see, counted pair by pair: pure planning, no tensors."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warploom.mask import Mask, causal, full, window
from warploom.methods.tasp.partition import Partition
from warploom.methods.tasp.plan import Call, own_calls, round_of
from warploom.methods.tasp.visibility import Span, rectangles

MASKS = (full(), causal(), window(3, 0), window(2, 2), window(None, 1), window(0, None))

masks = st.builds(Mask, st.integers(-1, 6), st.integers(-1, 6))


@st.composite
def documents(draw, length):
    inner = draw(st.lists(st.integers(0, length), max_size=4))
    return [0, *sorted(inner), length]


def visible(offsets, mask):
    """Every (query, key) position pair that the mask shows, by its definition."""
    pairs = set()
    for start, stop in itertools.pairwise(offsets):
        for i in range(stop - start):
            keys = mask.keys(i, stop - start, stop - start)
            pairs |= {(start + i, start + j) for j in keys}
    return pairs


def pairs_of(call: Call, queries: list[int], keys: list[int]):
    """The position pairs of one call, for the positions of the query and the key rows."""
    q0, q1, k0, k1, mask = call.rectangle
    offsets = call.documents or (0, q1 - q0)
    for start, stop in itertools.pairwise(offsets):
        rows = (stop - start) if call.documents else q1 - q0
        columns = (stop - start) if call.documents else k1 - k0
        for i in range(rows):
            for j in mask.keys(i, rows, columns):
                yield queries[q0 + start + i], keys[k0 + start + j]


def positions(partition, rank):
    return [p for span in partition.spans[rank] for p in range(*span)]


def planned(partition, rank, mask, parts, rounds):
    """All pairs that the rank computes: with its own keys, then round by round."""
    mine = positions(partition, rank)
    found = Counter()
    for call in own_calls(partition, rank, mask):
        found.update(pairs_of(call, mine, mine))
    for chunks in rounds:
        plan = round_of(partition, rank, mask, chunks, parts)
        keys = [-1] * plan.rows
        for chunk, slots in plan.slots.items():
            theirs = positions(partition, chunk // parts)
            for slot in slots:
                keys[slot.target : slot.target + slot.rows] = theirs[
                    slot.source : slot.source + slot.rows
                ]
        assert -1 not in keys
        for call in plan.calls:
            found.update(pairs_of(call, mine, keys))
    return found


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_rectangles_cover_what_is_visible_once(data):
    length = data.draw(st.integers(1, 12))
    offsets = data.draw(documents(length))
    mask = data.draw(masks)
    queries, keys = (
        Span(*sorted(data.draw(st.tuples(*[st.integers(0, length)] * 2)))) for _ in range(2)
    )
    found = Counter()
    for rectangle in rectangles(queries, keys, offsets, mask):
        found.update(pairs_of(Call(rectangle), range(*queries), range(*keys)))
    wanted = {
        (i, j) for i, j in visible(offsets, mask) if i in range(*queries) and j in range(*keys)
    }
    assert found == Counter(wanted)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_pair_is_computed_once_on_some_rank(data):
    length, ranks = data.draw(st.integers(0, 24)), data.draw(st.integers(1, 7))
    kind = data.draw(st.sampled_from(["zigzag", "contiguous"]))
    offsets, mask = data.draw(documents(length)), data.draw(masks)
    parts = data.draw(st.integers(1, 4))
    partition = Partition(length, ranks, kind, offsets)
    found = Counter()
    for rank in range(ranks):
        chunks = [c for c in range(ranks * parts) if c // parts != rank]
        chunks = data.draw(st.permutations(chunks))
        cut = data.draw(st.integers(0, len(chunks)))
        found.update(planned(partition, rank, mask, parts, [chunks[:cut], chunks[cut:]]))
    assert found == Counter(visible(offsets, mask))


@pytest.mark.parametrize("kind", ["zigzag", "contiguous"])
@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize("length", [0, 1, 5, 16, 37])
def test_every_position_has_one_owner(kind, ranks, length):
    partition = Partition(length, ranks, kind)
    owned = [positions(partition, rank) for rank in range(ranks)]
    assert sorted(itertools.chain(*owned)) == list(range(length))
    assert max(map(len, owned)) - min(map(len, owned)) <= 2
    assert [len(rows) for rows in owned] == [partition.rows(rank) for rank in range(ranks)]


def test_zigzag_balances_a_causal_mask_and_contiguous_does_not():
    seen = {}
    for kind in ("zigzag", "contiguous"):
        partition = Partition(64, 4, kind)
        chunks = [[c for c in range(4) if c != rank] for rank in range(4)]
        counts = [planned(partition, r, causal(), 1, [chunks[r]]).total() for r in range(4)]
        seen[kind] = max(counts) / min(counts)
    assert seen["zigzag"] == 1.0
    assert seen["contiguous"] > 3


@pytest.mark.parametrize(("mask", "calls"), [(full(), 1), (causal(), 2)])
def test_chunks_that_come_together_share_calls(mask, calls):
    """Zigzag, 8 ranks, 7 chunks a round: as many calls as kinds of visibility, not as chunks."""
    partition = Partition(8 * 112, 8, "zigzag")
    for rank in range(1, 7):
        chunks = [owner * 7 + 3 for owner in range(8) if owner != rank]
        assert len(round_of(partition, rank, mask, chunks, 7).calls) == calls


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_own_keys_take_one_call_where_order_is_all_that_counts(mask):
    partition = Partition(64, 4, "zigzag", [0, 5, 30, 64])
    one = mask.left == -1 and mask.right in (-1, 0)
    assert (len(own_calls(partition, 1, mask)) == 1) == one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((-1, 2), "length is -1"),
        ((4.0, 2), "length is 4.0"),
        ((4, 2, "striped"), "layout is 'striped'"),
        ((4, 2, "zigzag", [0, 3]), "cu_seqlens is [0, 3]: must go from 0 to the length, 4"),
        ((4, 2, "zigzag", [1, 4]), "must go from 0"),
        ((4, 2, "zigzag", [0, 3, 2, 4]), "cu_seqlens[2] is 2 after 3"),
    ],
)
def test_a_wrong_layout_is_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Partition(*arguments)
