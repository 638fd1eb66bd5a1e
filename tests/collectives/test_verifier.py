"""Planted mistakes: the verifier finds each, and names the step, the rank and the chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warploom import collectives as co

Lists = list[list[tuple[int, int, int]]]
MESH = co.Topology.full_mesh(5, 64)


def broken(
    kind: str, change: Callable[[Lists, Lists], None], topology: co.Topology = MESH
) -> co.Schedule:
    good = co.schedule(topology, kind, group=3 if kind == "hybrid" else None)
    rounds, reduction = (
        [[tuple(x) for x in transfers] for transfers in lists]
        for lists in (good.rounds, good.reduction)
    )
    change(rounds, reduction)
    return co.Schedule.from_rounds(
        topology, rounds, reduction, parts=good.parts, moves=good.moves, kind=good.kind
    )


def drop_last(rounds: Lists, _: Lists) -> None:
    rounds[3].remove((0, 1, 2))


def drop_in_the_middle(rounds: Lists, _: Lists) -> None:
    rounds[1].remove((3, 4, 2))


def double(rounds: Lists, _: Lists) -> None:
    rounds[2].append((0, 2, 4))


def to_its_owner(rounds: Lists, _: Lists) -> None:
    rounds[2].append((3, 2, 2))


def forward_early(rounds: Lists, _: Lists) -> None:
    rounds[1].remove((1, 2, 0))
    rounds[0].append((1, 3, 0))


def use_a_link_twice(rounds: Lists, _: Lists) -> None:
    rounds[0].append(rounds[1].pop(0))


def own_to_a_stranger(rounds: Lists, _: Lists) -> None:
    rounds[0][0] = (0, 1, 3)


def no_such_rank(rounds: Lists, _: Lists) -> None:
    rounds[2].append((1, 5, 0))


def no_such_chunk(rounds: Lists, _: Lists) -> None:
    rounds[2].append((1, 3, 20))


def to_itself(rounds: Lists, _: Lists) -> None:
    rounds[2].append((1, 1, 1))


def drop_a_gradient(_: Lists, reduction: Lists) -> None:
    reduction[2].pop(0)


def double_a_gradient(_: Lists, reduction: Lists) -> None:
    reduction[3].append((1, 3, 0))


def gradient_too_early(_: Lists, reduction: Lists) -> None:
    reduction[1].append(reduction[2].pop(0))


def gradient_to_a_stranger(_: Lists, reduction: Lists) -> None:
    source, target, chunk = reduction[2].pop(0)
    reduction.append([(source, (target + 2) % 5, chunk)])


def gradient_of_the_owner(_: Lists, reduction: Lists) -> None:
    reduction[2].append((4, 3, 4))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("ring", drop_last, r"after the last round \(3\): chunk 2 .* has not reached rank 1"),
        (
            "ring",
            drop_in_the_middle,
            r"round 2: rank 4 sends chunk 2 .* before it has it: the chunk never reaches it",
        ),
        (
            "ring",
            double,
            r"round 2: rank 0 sends chunk 4 .* rank 2, which has had it since round 2",
        ),
        ("ring", to_its_owner, r"round 2: rank 3 sends chunk 2 .* to rank 2, its owner"),
        ("ring", forward_early, r"round 0: rank 1 sends chunk 0 .* rank 3 before .* in round 0"),
        ("ring", own_to_a_stranger, r"round 0: rank 0 sends chunk 3 .* before it has it"),
        ("ring", no_such_rank, r"round 2: a transfer from rank 1 to rank 5 among 5"),
        ("ring", no_such_chunk, r"round 2: rank 1 sends chunk 20 of 5"),
        ("ring", to_itself, r"round 2: a transfer from rank 1 to rank 1"),
        ("direct", use_a_link_twice, r"round 0: the link from rank 0 to rank 1 is used twice"),
        (
            "direct",
            drop_a_gradient,
            r"after the last .*: 1 .* chunk 0 .* at rank 1, not at its own",
        ),
        (
            "ring",
            drop_a_gradient,
            r"after the last reduction round \(5\): 1 .* to chunk 0 .* rank 1",
        ),
        ("ring", double_a_gradient, r"reduction round 3: rank 1 sends chunk 0 .* no contribution"),
        ("ring", gradient_too_early, r"reduction round 1: rank 1 .* before it could compute it"),
        ("direct", gradient_to_a_stranger, r"after the last reduction round \(6\): .* at rank 2"),
        ("ring", gradient_of_the_owner, r"reduction round 2: rank 4 .* is its owner"),
    ],
)
def test_a_planted_mistake_is_named(
    kind: str, change: Callable[[Lists, Lists], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        broken(kind, change).verify()


def test_an_unchanged_copy_passes() -> None:
    for kind in ("ring", "direct", "hamilton", "ulysses", "token_ring"):
        broken(kind, lambda rounds, reduction: None).verify()


NODES = co.Topology.nodes(2, 3, 64, 8)


def relay_early(_: Lists, reduction: Lists) -> None:
    """The relay sends its sum before its neighbours' parts are in it; theirs are then left."""
    position = next(i for i, x in enumerate(reduction[4]) if (x[0], x[1]) == (3, 0))
    reduction[2].append(reduction[4].pop(position))


def heads_to_a_stranger(rounds: Lists, _: Lists) -> None:
    rounds.append([(0, 1, 2)])


def results_before_all_keys(_: Lists, reduction: Lists) -> None:
    reduction[2].append(reduction[-1].pop(0))


@pytest.mark.parametrize(
    ("kind", "topology", "change", "message"),
    [
        ("hierarchical", NODES, relay_early, r"after the last reduction round .*: 2 .* at rank 3"),
        ("ulysses", MESH, heads_to_a_stranger, r"round 1: .* chunk 2 .* rank 1, which has no use"),
        ("hybrid", NODES, results_before_all_keys, r"reduction round 2: .* it needs chunk \d+ \("),
    ],
)
def test_a_mistake_in_other_kinds(
    kind: str, topology: co.Topology, change: Callable[[Lists, Lists], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        broken(kind, change, topology).verify()


def test_a_schedule_that_does_nothing() -> None:
    idle = co.Schedule.from_rounds(MESH, [], [[], []], parts=1)
    assert (idle.rounds, idle.reduction) == ((), ((), ()))
    assert idle.peak_shards == 0
    assert idle.cost(1e6).communication_seconds == 0
    with pytest.raises(ValueError, match=r"chunk 0 .* has not reached rank 1"):
        idle.verify()
    with pytest.raises(ValueError, match="no transfers"):
        idle.plot("idle.png")


def test_a_missing_link_is_named() -> None:
    direct = co.schedule(MESH, "direct")
    ring = co.Topology.ring(5, 64)
    copy = co.Schedule.from_rounds(ring, direct.rounds, direct.reduction, parts=4)
    with pytest.raises(
        ValueError, match=r"round 0: rank 0 .* to rank 2, without a link .*ring of 5"
    ):
        copy.verify()


def test_a_shared_port_may_carry_several_transfers() -> None:
    broken_on_a_switch = broken("direct", use_a_link_twice, co.Topology.switch(5, 64))
    broken_on_a_switch.verify()


def test_a_chunk_may_be_forwarded_any_way() -> None:
    """A schedule of one's own: the chunks of a star go through its centre."""
    hub = [[0, 9, 9], [9, 0, 0], [9, 0, 0]]
    star = co.Topology.from_matrix(hub)
    rounds = [
        [(1, 0, 1), (2, 0, 2), (0, 1, 0)],
        [(0, 2, 0), (0, 1, 2)],
        [(0, 2, 1)],
    ]
    reduction = [
        [],
        [],
        [(0, 1, 1), (1, 0, 0)],
        [(0, 2, 2), (2, 0, 0), (1, 0, 2)],
        [(0, 2, 2), (2, 0, 1)],
        [(0, 1, 1)],
    ]
    co.Schedule.from_rounds(star, rounds, reduction, parts=1).verify()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_found(data: st.DataObject) -> None:
    """Whatever transfer of whatever schedule is lost, repeated or changed, verify refuses it."""
    ranks = data.draw(st.integers(3, 9), "ranks")
    kinds = ["ring", "bidirectional", "hamilton", "direct", "ulysses", "token_ring"]
    kind = data.draw(st.sampled_from(kinds), "kind")
    shape = data.draw(st.sampled_from([co.Topology.full_mesh, co.Topology.switch]), "shape")
    topology = shape(ranks, 64)
    parts = co.schedule(topology, kind).parts

    def damage(rounds: Lists, reduction: Lists) -> None:
        lists = data.draw(st.sampled_from([rounds, reduction]), "list")
        places = [(t, i) for t, transfers in enumerate(lists) for i in range(len(transfers))]
        t, i = data.draw(st.sampled_from(places), "place")
        source, target, chunk = lists[t][i]
        how = data.draw(st.sampled_from(["lose", "repeat", "readdress", "exchange"]), "how")
        if how == "lose":
            del lists[t][i]
        elif how == "repeat":
            lists.append([(source, target, chunk)])
        elif how == "exchange":
            other = data.draw(st.integers(1, ranks * parts - 1), "other chunk")
            lists[t][i] = (source, target, (chunk + other) % (ranks * parts))
        elif lists is rounds:
            lists[t][i] = (source, (target + data.draw(st.integers(1, ranks - 1))) % ranks, chunk)
        else:  # a reduction may take another way home, but not begin at another rank
            lists[t][i] = ((source + data.draw(st.integers(1, ranks - 1))) % ranks, target, chunk)

    with pytest.raises(ValueError, match=r"round"):
        broken(kind, damage, topology).verify()
