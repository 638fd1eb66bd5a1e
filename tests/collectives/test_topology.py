"""Topologies: what they refuse, and in which words."""

from __future__ import annotations

import math

import pytest

from warploom import collectives as co


@pytest.mark.parametrize("ranks", [-1, 0, 1])
@pytest.mark.parametrize("shape", ["full_mesh", "ring", "switch", "bus"])
def test_too_few_ranks(shape: str, ranks: int) -> None:
    with pytest.raises(ValueError, match=f"ranks is {ranks}: must be 2"):
        getattr(co.Topology, shape)(ranks, 64)


def test_one_node_of_one_rank() -> None:
    with pytest.raises(ValueError, match="ranks is 1"):
        co.Topology.nodes(1, 1, 64, 8)


@pytest.mark.parametrize("bandwidth", [0, -1, math.nan, math.inf])
def test_a_bandwidth_that_is_none(bandwidth: float) -> None:
    with pytest.raises(ValueError, match=r"bandwidth is .* above 0"):
        co.Topology.full_mesh(4, bandwidth)
    with pytest.raises(ValueError, match=r"inter_bandwidth is .* above 0"):
        co.Topology.nodes(2, 4, 64, bandwidth)


@pytest.mark.parametrize("time", [-1, math.nan, math.inf])
def test_a_time_that_is_none(time: float) -> None:
    with pytest.raises(ValueError, match=r"latency is .* from 0"):
        co.Topology.ring(4, 64, latency_us=time)
    with pytest.raises(ValueError, match=r"overhead is .* from 0"):
        co.Topology.ring(4, 64, overhead_us=time)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_a_matrix_element_that_is_no_bandwidth(value: float) -> None:
    with pytest.raises(ValueError, match=r"matrix\[1, 0\] is"):
        co.Topology.from_matrix([[0, 1], [value, 0]])


def test_a_matrix_that_is_not_square() -> None:
    with pytest.raises(ValueError, match="2 rows, and row 1 has 3 elements: must be square"):
        co.Topology.from_matrix([[0, 1], [1, 0, 1]])


def test_a_topology_in_two_pieces() -> None:
    two_pairs = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    with pytest.raises(ValueError, match="no way leads from rank 0 to rank 2"):
        co.Topology.from_matrix(two_pairs)
    one_way = [[0, 1, 1], [0, 0, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match="no way leads from rank 1 to rank 0"):
        co.Topology.from_matrix(one_way)


def test_nodes_and_cards_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"nics is 3: .* divide the 4 ranks of a node"):
        co.Topology.nodes(2, 4, 64, 8, nics=3)
    with pytest.raises(ValueError, match="nics is 0: must be at least 1"):
        co.Topology.nodes(2, 4, 64, 8, nics=0)
    with pytest.raises(ValueError, match="ranks_per_node is 0"):
        co.Topology.nodes(2, 0, 64, 8)


@pytest.mark.parametrize("kind", ["direct", "hamilton", "ulysses", "token_ring"])
def test_a_kind_that_needs_every_link(kind: str) -> None:
    with pytest.raises(ValueError, match=f"'{kind}': it needs a link from rank .*ring of 5"):
        co.schedule(co.Topology.ring(5, 64), kind)


def test_wrong_arguments_of_schedule() -> None:
    mesh = co.Topology.full_mesh(4, 64)
    with pytest.raises(ValueError, match="kind is 'rings': must be one of ring, "):
        co.schedule(mesh, "rings")
    with pytest.raises(ValueError, match="parts is 0"):
        co.schedule(mesh, "ring", parts=0)
    with pytest.raises(ValueError, match="'bidirectional' sets its own number of parts"):
        co.schedule(mesh, "bidirectional", parts=2)
    with pytest.raises(ValueError, match=r"'hierarchical': it needs nodes, .*: use 'direct'"):
        co.schedule(mesh, "hierarchical")
    with pytest.raises(ValueError, match="group is missing: how many ranks exchange heads"):
        co.schedule(mesh, "hybrid")
    for group in (0, 1, 3, 4):
        with pytest.raises(ValueError, match=f"group is {group}: must be .* less than the 4"):
            co.schedule(mesh, "hybrid", group=group)
    with pytest.raises(ValueError, match="group is 2: kind 'ring' has no groups"):
        co.schedule(mesh, "ring", group=2)
    with pytest.raises(ValueError, match="moves is 'k'"):
        co.Schedule.from_rounds(mesh, [], [], parts=1, moves="k")
    with pytest.raises(ValueError, match="parts is 3: with heads it must divide the 4 ranks"):
        co.Schedule.from_rounds(mesh, [], [], parts=3, moves="heads")
    with pytest.raises(ValueError, match="parts is 0"):
        co.Schedule.from_rounds(mesh, [], [], parts=0)


def test_a_ring_takes_the_fast_links() -> None:
    """Of 6 ranks in a scrambled order, only the links of one cycle are fast."""
    order = [0, 3, 1, 5, 2, 4]
    fast = {(order[i], order[(i + 1) % 6]) for i in range(6)}
    matrix = [[0 if i == j else 50 if (i, j) in fast else 5 for j in range(6)] for i in range(6)]
    s = co.schedule(co.Topology.from_matrix(matrix), "ring")
    s.verify()
    assert {(x.source, x.target) for r in s.rounds for x in r} == fast
    both = co.schedule(co.Topology.from_matrix(matrix), "bidirectional")
    both.verify()


def test_a_graph_without_a_cycle_through_all_ranks() -> None:
    star = [[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match=r"'ring': it needs a cycle .* and there is none"):
        co.schedule(co.Topology.from_matrix(star), "ring")
