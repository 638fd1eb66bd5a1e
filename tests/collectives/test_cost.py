"""Predicted times: exact where they can be worked out by hand, and never below the bound."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warploom import collectives as co

MB = 1e6


def test_the_plain_ring_by_hand() -> None:
    """7 steps, each of 5 µs and 40 MB at 10 GB/s; and 8 equal parts of work."""
    s = co.schedule(co.Topology.full_mesh(8, 10, latency_us=4, overhead_us=1), "ring")
    cost = s.cost(40 * MB)
    step = 5e-6 + 4e-3
    assert cost.seconds == pytest.approx(7 * step)
    assert cost.communication_seconds == cost.seconds == cost.exposed_seconds
    assert (cost.steps, cost.messages) == (7, 7)
    assert cost.wire_seconds == pytest.approx(7 * 4e-3)
    assert cost.bound_seconds == pytest.approx(4e-3)  # 7 ranks' data over 7 links
    assert cost.load_ratio == pytest.approx(7)
    hidden = s.cost(40 * MB, flops=8e12, flops_per_s=100e12)  # 10 ms a part
    assert hidden.seconds == pytest.approx(80e-3)
    assert hidden.exposed_seconds == pytest.approx(0, abs=1e-12)
    half = s.cost(40 * MB, flops=1.6e12, flops_per_s=100e12)  # 2 ms a part
    assert half.seconds == pytest.approx(7 * step + 2e-3)
    assert half.exposed_seconds == pytest.approx(7 * (step - 2e-3))


def test_the_ring_with_gradients_by_hand() -> None:
    """Gradients ride two rounds behind, on the same links: steps 0 .. 2 and 2 .. 4 for 4 ranks."""
    s = co.schedule(co.Topology.full_mesh(4, 1), "ring")
    cost = s.cost(1 * MB, home_bytes_per_rank=2 * MB)
    assert cost.seconds == pytest.approx((1 + 1 + 3 + 2 + 2) * 1e-3)
    assert cost.steps == 5
    assert sum(load.bytes for load in s.loads(MB, home_bytes_per_rank=2 * MB).values()) == 36 * MB


def test_direct_by_hand() -> None:
    s = co.schedule(co.Topology.full_mesh(8, 10, latency_us=4, overhead_us=1), "direct")
    cost = s.cost(40 * MB)
    assert cost.seconds == pytest.approx(7 * (4e-6 + 7 * 1e-6) + 4e-3)
    assert (cost.steps, cost.messages) == (7, 49)
    assert cost.load_ratio == pytest.approx(1)
    loads = s.loads(40 * MB)
    assert len(loads) == 56
    assert [load.bytes for load in loads.values()] == pytest.approx([40 * MB] * 56)
    assert loads["link 3->5"].gbytes_per_s == 10


def test_hierarchical_by_hand() -> None:
    """2 nodes of 2: a card carries 4 quarters, then the last is passed on inside the node."""
    topology = co.Topology.nodes(2, 2, 100, 10)
    s = co.schedule(topology, "hierarchical", parts=4)
    cost = s.cost(40 * MB)
    assert cost.seconds == pytest.approx(4 * 1e-3 + 0.1e-3)
    assert cost.bound_seconds == pytest.approx(4e-3)
    assert "node" in cost.bound
    loads = s.loads(40 * MB)
    assert loads["nic 1 out of node 0"].bytes == pytest.approx(40 * MB)
    assert loads["link 2->3"].bytes == pytest.approx(80 * MB)


def test_shared_things_are_shared() -> None:
    for topology, seconds in (
        (co.Topology.switch(4, 1), 3e-3),  # a port takes in three ranks' data
        (co.Topology.bus(4, 1), 12e-3),  # all twelve deliveries
        (co.Topology.nodes(2, 2, 100, 1, nics=1), 4e-3),  # a card sends two ranks' to two ranks
    ):
        cost = co.schedule(topology, "direct", parts=1).cost(MB)
        assert cost.seconds == pytest.approx(seconds)
    assert co.schedule(co.Topology.bus(4, 1), "ring").cost(MB).load_ratio == pytest.approx(1)


def test_ulysses_by_hand() -> None:
    """4 ranks, 8 heads: a quarter of q, k, v to each peer, and of o back; all work in between."""
    topology = co.Topology.full_mesh(4, 1)
    workload = co.Workload(4000, heads=8, head_dim=125, causal=False, flops_per_s=1e15)
    s = co.schedule(topology, "ulysses")
    (what,) = workload.passes(s)
    tensor = 1000 * 8 * 125 * 2
    assert what.out_bytes == 3 * tensor
    assert what.home_bytes == tensor + 1000 * 8 * 4
    prediction = next(p for p in co.predictions(topology, workload) if p.kind == "ulysses")
    compute = 4 * 4000 * 1000 * 8 * 125 / 1e15
    assert prediction.seconds == pytest.approx(
        what.out_bytes / 4 / 1e9 + compute + what.home_bytes / 4 / 1e9
    )


TOPOLOGIES = st.one_of(
    st.builds(co.Topology.full_mesh, st.integers(2, 9), st.floats(0.1, 100)),
    st.builds(co.Topology.ring, st.integers(2, 9), st.floats(0.1, 100)),
    st.builds(co.Topology.switch, st.integers(2, 9), st.floats(0.1, 100)),
    st.builds(co.Topology.bus, st.integers(2, 9), st.floats(0.1, 100)),
    st.builds(
        co.Topology.nodes,
        st.integers(1, 4),
        st.integers(2, 4),
        st.floats(0.1, 100),
        st.floats(0.1, 100),
        nics=st.sampled_from([None, 1]),
        switched=st.booleans(),
    ),
    st.integers(2, 6).flatmap(
        lambda n: st.builds(
            co.Topology.from_matrix,
            st.lists(
                st.lists(st.floats(0.5, 9), min_size=n, max_size=n), min_size=n, max_size=n
            ),
        )
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(TOPOLOGIES, st.booleans(), st.sampled_from([2, 4, 16]), st.booleans())
def test_nothing_beats_the_bound(
    topology: co.Topology, backward: bool, kv_heads: int, causal: bool
) -> None:
    workload = co.Workload(
        65536, 16, 64, kv_heads=kv_heads, causal=causal, backward=backward, flops_per_s=1e14
    )
    found = co.predictions(topology, workload, memory=1e9)
    assert found[0].schedule is not None
    for p in found:
        if p.schedule is not None:
            p.schedule.verify()
        for cost in p.costs:
            assert cost.load_ratio >= 1 - 1e-9
            assert cost.communication_seconds >= cost.busiest_seconds * (1 - 1e-9)
            assert cost.seconds >= max(cost.communication_seconds, cost.compute_seconds)


@pytest.mark.parametrize("ranks", range(2, 33))
@pytest.mark.parametrize("home", [0.0, 2 * MB])
def test_loads_of_a_mesh_are_at_the_bound(ranks: int, home: float) -> None:
    mesh = co.Topology.full_mesh(ranks, 64)
    for kind in ("direct", "hamilton"):
        ratio = co.schedule(mesh, kind).cost(MB, home_bytes_per_rank=home).load_ratio
        few = kind == "hamilton" and ranks in (4, 6)
        assert ratio == pytest.approx((ranks - 1) / (ranks - 2) if few else 1.0)
    ring = co.schedule(mesh, "ring").cost(MB, home_bytes_per_rank=home)
    assert ring.load_ratio == pytest.approx(ranks - 1)


@pytest.mark.parametrize(("nodes", "per_node"), [(2, 8), (4, 8), (2, 4), (3, 6)])
@pytest.mark.parametrize("home", [0.0, 2 * MB])
def test_loads_of_nodes_are_at_the_bound(nodes: int, per_node: int, home: float) -> None:
    topology = co.Topology.nodes(nodes, per_node, 400, 50)
    cost = co.schedule(topology, "hierarchical").cost(MB, home_bytes_per_rank=home)
    assert cost.load_ratio == pytest.approx(1.0)
    assert co.schedule(topology, "direct").cost(MB).load_ratio == pytest.approx(per_node)
    one_card = co.Topology.nodes(nodes, per_node, 400, 50, nics=1)
    assert co.schedule(one_card, "hierarchical").cost(MB).load_ratio == pytest.approx(1.0)


def test_the_ring_is_chosen_where_there_is_one() -> None:
    workload = co.Workload(65536, 16, 64, flops_per_s=1e15)
    assert co.schedule(co.Topology.ring(8, 10), workload=workload).kind == "bidirectional"


def test_the_choice_follows_the_links() -> None:
    workload = co.Workload(65536, 32, 128, kv_heads=8)
    mesh = co.schedule(co.Topology.full_mesh(8, 10, 5), workload=workload, moves=("kv",))
    assert mesh.kind in ("direct", "hamilton")
    nodes = co.schedule(co.Topology.nodes(2, 8, 400, 50), workload=workload, moves=("kv",))
    assert nodes.kind == "hierarchical"
    bus = co.schedule(co.Topology.bus(8, 10, 50, 50), workload=workload, moves=("kv",))
    assert bus.kind in ("ring", "bidirectional")


def test_the_choice_knows_grouped_heads() -> None:
    """Queries go round where they are fewer bytes than keys and values: few queries, many keys."""
    topology = co.Topology.full_mesh(8, 10)
    few = co.Workload(1024, 32, 128, keys=1 << 20, kv_heads=32)
    assert co.schedule(topology, workload=few, moves=("kv", "q")).moves == "q"
    many = co.Workload(1 << 20, 32, 128, kv_heads=4)
    assert co.schedule(topology, workload=many, moves=("kv", "q")).moves == "kv"


def test_the_choice_knows_backward_and_memory() -> None:
    topology = co.Topology.full_mesh(8, 10)
    workload = co.Workload(65536, 32, 128, backward=True)
    found = co.predictions(topology, workload)
    assert not {p.kind for p in found if p.schedule} & {"token_ring", "hybrid"}
    refused = {p.name: p.refused for p in found if not p.schedule}
    assert "7.0 times its own data" in refused["direct, parts 1"]
    assert all(p.schedule for p in co.predictions(topology, workload, memory=7))
    with pytest.raises(ValueError, match=r"no schedule is possible .* direct, parts 1: a rank"):
        co.schedule(topology, workload=workload, memory=0.5)
    with pytest.raises(ValueError, match="workload is None"):
        co.schedule(topology, "auto")
    with pytest.raises(ValueError, match="parts and group"):
        co.schedule(topology, "auto", parts=2, workload=workload)


def test_memory_held() -> None:
    mesh = co.Topology.full_mesh(8, 10)
    assert co.schedule(mesh, "ring").peak_shards == 2
    assert co.schedule(mesh, "direct").peak_shards == 2
    assert co.schedule(mesh, "direct", parts=1).peak_shards == 7
    assert co.schedule(mesh, "hamilton").peak_shards == 2
    for shape in ((2, 8), (4, 8), (2, 4), (3, 6), (8, 1)):
        nodes = co.Topology.nodes(*shape, 400, 50)
        assert co.schedule(nodes, "hierarchical").peak_shards <= 2


def test_causal_halves_the_work() -> None:
    full = co.Workload(4096, 8, 64, causal=False)
    assert full.flops(4) == 4 * 4096 * 4096 * 8 * 64 / 4
    assert dataclasses.replace(full, causal=True).flops(4) == full.flops(4) / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"heads": 6, "kv_heads": 4}, "heads is 6: must be a multiple of the 4"),
        ({"flops_per_s": 0.0}, r"flops_per_s is 0\.0"),
        ({"keys": -1}, "keys is -1"),
    ],
)
def test_a_wrong_workload(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        co.Workload(**{"queries": 64, "heads": 8, "head_dim": 64, **changes})


def test_wrong_numbers_of_cost() -> None:
    s = co.schedule(co.Topology.full_mesh(4, 1), "ring")
    with pytest.raises(ValueError, match="out_bytes is -1"):
        s.cost(-1)
    with pytest.raises(ValueError, match="home_bytes is nan"):
        s.cost(1, home_bytes_per_rank=float("nan"))
    with pytest.raises(ValueError, match="flops_per_s is None"):
        s.cost(1, flops=1)
    with pytest.raises(ValueError, match="4 ranks: the topology has 5"):
        s.cost(1, topology=co.Topology.full_mesh(5, 1))
    direct = co.schedule(co.Topology.full_mesh(4, 1), "direct")
    with pytest.raises(ValueError, match="rank 0 sends to rank 2 without a link"):
        direct.cost(1, topology=co.Topology.ring(4, 1))


@pytest.mark.parametrize("parts", range(1, 17))
@pytest.mark.parametrize(
    ("heads", "kv_heads"), [(16, 16), (17, 17), (32, 8), (18, 6), (24, 3), (32, 1), (5, 5)]
)
def test_heads_are_dealt_out_evenly_and_find_their_keys(
    heads: int, kv_heads: int, parts: int
) -> None:
    queries, keys = co.head_slices(heads, kv_heads, parts)
    assert [head for mine in queries for head in mine] == list(range(heads))
    sizes = [len(mine) for mine in queries]
    assert max(sizes) - min(sizes) <= 1
    for mine, read in zip(queries, keys, strict=True):
        each = len(mine) // len(read) if read else 0  # as attention groups heads
        assert len(mine) == each * len(read)
        assert all(read[i // each] == head * kv_heads // heads for i, head in enumerate(mine))


def test_too_few_heads() -> None:
    with pytest.raises(ValueError, match="heads is 5: must be a multiple of the 2 kv heads"):
        co.head_slices(5, 2, 2)
    found = co.predictions(co.Topology.full_mesh(8, 10), co.Workload(64, 4, 64))
    refused = {p.kind: p.refused for p in found if not p.schedule}
    assert "heads is 4: without one for each of the 8 ranks" in refused["ulysses"]


def test_topologies_and_schedules_can_be_sent_to_other_processes() -> None:
    topology = co.Topology.nodes(2, 3, 64, 8, nics=1)
    s = co.schedule(topology, "hierarchical")
    copy = pickle.loads(pickle.dumps(s))
    assert copy.topology == topology
    assert copy.fingerprint() == s.fingerprint()
    copy.verify()
