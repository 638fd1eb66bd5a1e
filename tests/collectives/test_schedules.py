"""Every kind on every number of ranks: delivery, causality and loads, checked once more here."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from warploom import collectives as co

RANKS = range(2, 65)
ON_A_MESH = ("ring", "bidirectional", "hamilton", "direct", "ulysses", "token_ring")
SLOW_CHECK = 16  # ranks up to which the checks below, written in Python, run too


def reads(s: co.Schedule, rank: int, chunk: int) -> bool:
    return s.moves != "heads" or rank % s.parts == chunk % s.parts


def check_delivery(s: co.Schedule) -> None:
    """Every reader has every chunk; it was sent only by ranks that had it, and came once."""
    have = {(s.owner(chunk), chunk) for chunk in range(s.ranks * s.parts)}
    for transfers in s.rounds:
        assert all((x.source, x.chunk) in have for x in transfers)
        new = [(x.target, x.chunk) for x in transfers]
        assert len(set(new)) == len(new)
        assert not have & set(new)
        have |= set(new)
    needed = {(r, c) for r in range(s.ranks) for c in range(s.ranks * s.parts) if reads(s, r, c)}
    assert needed <= have
    assert all(rank == s.owner(chunk) for rank, chunk in have - needed)


def check_reduction(s: co.Schedule) -> None:
    """Every contribution is summed at the owner once; none left before it could be computed."""
    arrival = {(x.target, x.chunk): t for t, r in enumerate(s.rounds) for x in r}
    last = len(s.rounds) - 1
    sums = {
        (rank, chunk): Counter([rank])
        for rank, chunk in arrival
        if s.moves != "heads" or rank // s.parts == s.owner(chunk) // s.parts
    }
    contributors = Counter(chunk for _, chunk in sums)
    for t, transfers in enumerate(s.reduction):
        moving = [(x, sums.pop((x.source, x.chunk))) for x in transfers]
        for x, contributions in moving:
            if x.source in contributions:
                assert (last if s.moves == "heads" else arrival[x.source, x.chunk]) + 2 <= t
            sums[x.target, x.chunk] = sums.get((x.target, x.chunk), Counter()) + contributions
    assert all(rank == s.owner(chunk) for rank, chunk in sums)
    for (_, chunk), contributions in sums.items():
        assert set(contributions.values()) == {1}
        assert len(contributions) == contributors[chunk]


def check(s: co.Schedule) -> None:
    s.verify()
    if s.ranks <= SLOW_CHECK:
        check_delivery(s)
        check_reduction(s)


def link_loads(table: np.ndarray) -> dict[tuple[int, int], int]:
    """Chunks that each pair of ranks carried, of rows (round, source, target, chunk)."""
    pairs, loads = np.unique(table[:, 1:3], axis=0, return_counts=True)
    return {tuple(pair): load for pair, load in zip(pairs.tolist(), loads.tolist(), strict=True)}


@pytest.mark.parametrize("kind", ON_A_MESH)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_mesh_of_any_size(kind: str, ranks: int) -> None:
    check(co.schedule(co.Topology.full_mesh(ranks, 64), kind))


@pytest.mark.parametrize("ranks", RANKS)
def test_a_switch_of_any_size(ranks: int) -> None:
    switch = co.Topology.switch(ranks, 64)
    for kind in ON_A_MESH:
        co.schedule(switch, kind).verify()


@pytest.mark.parametrize("ranks", RANKS)
def test_hybrids_of_any_size(ranks: int) -> None:
    for group in range(2, ranks):
        if ranks % group == 0:
            check(co.schedule(co.Topology.full_mesh(ranks, 64), "hybrid", group=group))
            check(co.schedule(co.Topology.switch(ranks, 64), "hybrid", group=group))


@pytest.mark.parametrize("ranks", RANKS)
def test_nodes_of_any_shape(ranks: int) -> None:
    for nodes in range(2, ranks + 1):
        if ranks % nodes == 0:
            topology = co.Topology.nodes(nodes, ranks // nodes, 400, 50)
            for parts in (1, 3, 4):
                check(co.schedule(topology, "hierarchical", parts=parts))
            for kind in ("ring", "direct", "ulysses", "token_ring"):
                co.schedule(topology, kind).verify()


@pytest.mark.parametrize("ranks", RANKS)
def test_a_ring_of_any_size(ranks: int) -> None:
    topology = co.Topology.ring(ranks, 64)
    for kind in ("ring", "bidirectional"):
        check(co.schedule(topology, kind))


@pytest.mark.parametrize("kind", ["ring", "direct"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_any_number_of_parts(kind: str, parts: int) -> None:
    for ranks in (2, 3, 5, 8):
        s = co.schedule(co.Topology.full_mesh(ranks, 64), kind, parts=parts)
        assert s.parts == parts
        check(s)


# A rank must take in everybody else's data over its ranks - 1 links: at least as much a link as one
# rank has. The gradients' way home is the same backwards.


@pytest.mark.parametrize("kind", ["direct", "hamilton"])
@pytest.mark.parametrize("ranks", RANKS)
def test_links_of_a_mesh_carry_the_least_possible(kind: str, ranks: int) -> None:
    s = co.schedule(co.Topology.full_mesh(ranks, 64), kind)
    least = Fraction(1)
    if kind == "hamilton" and ranks in (4, 6):  # one cycle fewer than links out of a rank
        least = Fraction(ranks - 1, ranks - 2)
    for table in (s.table(), s.table(reduction=True)):
        loads = link_loads(table)
        assert Fraction(max(loads.values()), s.parts) == least
        assert len(loads) == ranks * (ranks - 1 if least == 1 else ranks - 2)
    if least == 1:
        in_a_round = np.bincount(s.table()[:, 0])
        assert set(in_a_round.tolist()) == {ranks * (ranks - 1)}, "a link was idle in a round"


@pytest.mark.parametrize("ranks", RANKS)
def test_links_of_a_ring_carry_the_least_possible(ranks: int) -> None:
    s = co.schedule(co.Topology.ring(ranks, 64), "bidirectional")
    links_into_a_rank = 2 if ranks > 2 else 1
    loads = link_loads(s.table())
    assert Fraction(max(loads.values()), s.parts) == Fraction(ranks - 1, links_into_a_rank)


@pytest.mark.parametrize(
    ("nodes", "per_node"), [(2, 8), (4, 8), (2, 4), (3, 6), (2, 6), (8, 8), (5, 1), (2, 3)]
)
@pytest.mark.parametrize("parts", [1, 4, 5])
def test_cards_and_links_of_nodes_carry_the_least_possible(
    nodes: int, per_node: int, parts: int
) -> None:
    """A node takes in what the other nodes' ranks have, once, through its ranks' cards; and a rank
    takes in the rest of everything through its links inside the node."""
    topology = co.Topology.nodes(nodes, per_node, 400, 50)
    s = co.schedule(topology, "hierarchical", parts=parts)
    card = Fraction((nodes - 1) * per_node, per_node)
    link = Fraction(nodes * per_node - 1 - card, per_node - 1) if per_node > 1 else Fraction(0)
    assert link == (nodes if per_node > 1 else 0)
    for table in (s.table(), s.table(reduction=True)):
        inside: Counter[tuple[int, int]] = Counter()
        out: Counter[int] = Counter()
        into: Counter[int] = Counter()
        for (source, target), load in link_loads(table).items():
            if source // per_node == target // per_node:
                inside[source, target] += load
            else:
                out[source] += load
                into[target] += load
        assert {Fraction(load, parts) for load in (*out.values(), *into.values())} == {card}
        assert {Fraction(load, parts) for load in inside.values()} <= {link}
        assert len(inside) == nodes * per_node * (per_node - 1)


def test_the_table_has_the_same_transfers() -> None:
    s = co.schedule(co.Topology.full_mesh(3, 64), "ring")
    for rounds, reduction in ((s.rounds, False), (s.reduction, True)):
        rows = [(t, *x) for t, transfers in enumerate(rounds) for x in transfers]
        assert s.table(reduction=reduction).tolist() == [list(row) for row in rows]


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
