"""Every kind on every number of ranks: delivery, causality and loads, checked once more here."""

from __future__ import annotations

from collections import Counter

import pytest

from warploom import collectives as co

RANKS = range(2, 65)


def check_delivery(s: co.Schedule) -> None:
    """Every chunk is everywhere, was sent only by ranks that had it, and came to each once."""
    have = {(s.owner(chunk), chunk) for chunk in range(s.ranks * s.parts)}
    for transfers in s.rounds:
        assert all((x.source, x.chunk) in have for x in transfers)
        new = [(x.target, x.chunk) for x in transfers]
        assert len(set(new)) == len(new)
        assert not have & set(new)
        have |= set(new)
    assert len(have) == s.ranks * s.ranks * s.parts


def check_reduction(s: co.Schedule) -> None:
    """Everybody's contribution is summed at the owner once, and left two rounds after its chunk."""
    arrival = {(x.target, x.chunk): t for t, r in enumerate(s.rounds) for x in r}
    sums = {key: Counter([key[0]]) for key in arrival}
    for t, transfers in enumerate(s.reduction):
        moving = [(x, sums.pop((x.source, x.chunk))) for x in transfers]
        for x, contributions in moving:
            if x.source in contributions:
                assert arrival[x.source, x.chunk] + 2 <= t
            sums[x.target, x.chunk] = sums.get((x.target, x.chunk), Counter()) + contributions
    for chunk in range(s.ranks * s.parts):
        owner = s.owner(chunk)
        assert sums[owner, chunk] == Counter(r for r in range(s.ranks) if r != owner)
    assert len(sums) == s.ranks * s.parts


@pytest.mark.parametrize("kind", ["ring", "bidirectional", "direct"])
@pytest.mark.parametrize("ranks", RANKS)
def test_a_mesh_of_any_size(kind: str, ranks: int) -> None:
    s = co.schedule(co.Topology.full_mesh(ranks, 64), kind)
    s.verify()
    if ranks <= 16:
        check_delivery(s)
        check_reduction(s)


@pytest.mark.parametrize("kind", ["ring", "direct"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_any_number_of_parts(kind: str, parts: int) -> None:
    for ranks in (2, 3, 5, 8):
        s = co.schedule(co.Topology.full_mesh(ranks, 64), kind, parts=parts)
        assert s.parts == parts
        s.verify()
        check_delivery(s)
        check_reduction(s)


def test_sends_and_receives_are_the_rounds_of_one_rank() -> None:
    s = co.schedule(co.Topology.full_mesh(4, 64), "ring")
    assert s.sends(1) == (((1, 2, 1),), ((1, 2, 0),), ((1, 2, 3),))
    assert s.receives(1) == (((0, 1, 0),), ((0, 1, 3),), ((0, 1, 2),))
    assert s.reduction_sends(1) == ((), (), ((1, 2, 0),), ((1, 2, 3),), ((1, 2, 2),))
    assert s.reduction_receives(1)[2:] == (((0, 1, 3),), ((0, 1, 2),), ((0, 1, 1),))


def test_fingerprints_tell_schedules_apart() -> None:
    mesh = co.Topology.full_mesh(5, 64)
    ring, again = co.schedule(mesh, "ring"), co.schedule(mesh, "ring")
    assert ring.fingerprint() == again.fingerprint()
    copy = co.Schedule.from_rounds(mesh, ring.rounds, ring.reduction, parts=1, kind="ring")
    assert copy.fingerprint() == ring.fingerprint()
    rounds = [list(transfers) for transfers in ring.rounds]
    rounds[0].reverse()
    swapped = co.Schedule.from_rounds(mesh, rounds, ring.reduction, parts=1, kind="ring")
    others = [swapped, co.schedule(mesh, "direct"), co.schedule(mesh, "ring", parts=2)]
    assert len({s.fingerprint() for s in [ring, *others]}) == 4
