"""Ring attention on simulated ranks, against the float64 oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

import warploom
from warploom import collectives, mask
from warploom.distributed import (
    Fault,
    RankLostError,
    RanksDisagreeError,
    TorchWorld,
    run_outcomes,
    run_ranks,
)
from warploom.methods import tasp
from warploom.methods.tasp import attention, local, plan, ring
from warploom.testing.cases import AttentionCase

from .ranks import check, run, run_rank, same_bits

KINDS = ("ring", "bidirectional", "hamilton", "direct", "hierarchical", "ulysses")
DENSE = {"b": 2, "sq": 37, "h": 8, "hk": 2, "d": 8, "dv": 16}
RAGGED = {"lengths_q": (11, 1, 0, 25), "h": 8, "hk": 2, "d": 8, "dv": 16}
MASKS = (mask.full(), mask.causal(), mask.window(5, 0), mask.window(3, 6))
CAUSAL = AttentionCase(**DENSE, mask=mask.causal())


def schedule_of(kind, ranks, group=2):
    """The kind's name, or the schedule where it takes more than a name or a plain mesh."""
    if kind == "hierarchical" and ranks > 1:
        nodes = 2 if ranks % 2 == 0 else ranks
        return collectives.schedule(collectives.Topology.nodes(nodes, ranks // nodes, 50, 5), kind)
    if kind == "hybrid":
        mesh = collectives.Topology.full_mesh(ranks, 50)
        return collectives.schedule(mesh, kind, group=group)
    return kind


@pytest.fixture(autouse=True)
def _one_thread_a_rank():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cases(turn):
    """One of each mask, dense and ragged by turns."""
    shapes = (DENSE, RAGGED)
    return [AttentionCase(**shapes[(n + turn) % 2], mask=m) for n, m in enumerate(MASKS)]


@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", range(1, 9))
def test_results_and_gradients(ranks, kind, layout):
    for case in cases(ranks + (layout == "zigzag")):
        check(case, run(case, ranks, schedule_of(kind, ranks), layout))


@pytest.mark.parametrize("kind", ["token_ring", "hybrid"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8])
def test_results_of_schedules_without_a_backward(ranks, kind):
    if kind == "hybrid" and ranks < 4:
        return
    for layout in ("zigzag", "contiguous"):
        for case in cases(ranks // 2 + (layout == "zigzag")):
            check(case, run(case, ranks, schedule_of(kind, ranks), layout, backward=False))


@pytest.mark.parametrize(("h", "hk"), [(6, 2), (3, 3), (7, 1), (8, 2)])
def test_heads_that_ranks_do_not_divide(h, hk):
    """Ranks without heads, ranks that share one of the keys', ranks with parts of two groups."""
    case = AttentionCase(b=2, sq=13, h=h, hk=hk, d=8, mask=mask.causal())
    for ranks in (3, 5):
        check(case, run(case, ranks, "ulysses"))
    check(case, run(case, 6, schedule_of("hybrid", 6, group=3), backward=False))


@pytest.mark.parametrize("kind", ["bus", "full_mesh", "ring", "nodes"])
def test_a_schedule_is_chosen(kind):
    """By links, shapes and whether gradients are wanted; the same on every rank."""
    make = getattr(collectives.Topology, kind)
    topology = make(2, 2, 50, 5) if kind == "nodes" else make(4, 50)
    for backward in (False, True):
        check(CAUSAL, run(CAUSAL, 4, "auto", backward=backward, topology=topology))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["ring", "direct"])
def test_16_bits_in_many_parts(kind, dtype):
    case = AttentionCase(sq=509, h=2, hk=1, d=32, dtype=dtype, mask=mask.causal())
    check(case, run(case, 8, kind))


@dataclass(frozen=True, kw_only=True)
class Drifting(AttentionCase):
    """Values that grow along the sequence: a part's share of the gradients is of one sign, and the
    parts' shares cancel. Each was rounded to 16 bits before."""

    def make(self, device="cpu", seed=0):
        x = super().make(device, seed)
        drift = torch.linspace(-2, 2, self.sq).view(1, -1, 1, 1)
        return replace(
            x,
            k=(x.k.float() + 8).to(x.k.dtype),
            v=(x.v.float() + drift).to(x.v.dtype),
            grad_o=(x.grad_o.float() + 1).to(x.grad_o.dtype),
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_16_bits_in_parts_that_cancel(layout, dtype):
    for m in (mask.full(), mask.causal()):
        case = Drifting(sq=509, h=2, hk=1, d=32, dtype=dtype, mask=m)
        check(case, run(case, 8, "ring", layout))


def test_links_that_nobody_described():
    """One memory where all ranks share it: few messages, unless heads can be exchanged."""

    def rank(world):
        kinds = []
        for one_machine in (True, False):
            world.one_machine = one_machine
            part = tasp.Sharding(8192, world)
            for heads in (1, 4):
                q = torch.zeros(1, part.rows, heads, 64)
                kinds.append(attention._choose(part, "auto", q, q, mask.causal(), True).kind)
        return kinds

    assert run_ranks(4, rank)[0] == ["ring", "ulysses", "direct", "ulysses"]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5])
def test_ranks_without_rows(length):
    case = AttentionCase(sq=length, h=2, d=8, mask=mask.causal())
    for layout in ("zigzag", "contiguous"):
        for kind in ("ring", "direct", "ulysses"):
            check(case, run(case, 4, kind, layout))
        check(case, run(case, 4, "token_ring", layout, backward=False))


def test_scale_softcap_and_a_gradient_of_o_alone():
    case = AttentionCase(sq=21, h=2, d=8, scale=0.7, softcap=2.0)
    check(case, run(case, 3, "ring", with_lse=False), with_lse=False)


def test_a_nan_stays_in_its_document():
    case = AttentionCase(lengths_q=(5, 6), h=1, d=8)

    def rank(world):
        x = case.make()
        part = tasp.Sharding(11, world, cu_seqlens=x.cu_seqlens_q)
        q, k, v = (t[None].clone() for t in x.qkv)
        k[:, 5:], v[:, 5:] = torch.nan, torch.nan
        q, k, v = (part.shard(t) for t in (q, k, v))
        return part.unshard(tasp.ring_attention(q, k, v, sharding=part, schedule="ring"))

    o = run_ranks(3, rank)[0]
    assert o[:, :5].isfinite().all()
    assert o[:, 5:].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_whatever_arrives_first(kind):
    case, kind = replace(CAUSAL, dtype="bfloat16"), schedule_of(kind, 4)
    first = run(case, 4, kind)
    for seed in range(3):
        assert same_bits(run(case, 4, kind, delay=0.005, seed=seed), first)


# Negative controls: the checks above see each of these mistakes.


def _wrong_offset(monkeypatch):
    rectangles = plan.rectangles

    def shifted(queries, keys, documents, mask):
        return rectangles(queries, plan.Span(keys.first + 1, keys.last + 1), documents, mask)

    monkeypatch.setattr(plan, "rectangles", shifted)


def _dropped_chunk(monkeypatch):
    add = local.Forward.add
    monkeypatch.setattr(local.Forward, "add", lambda self, k, v, calls: add(self, k, v, calls[:1]))


def _doubled_chunk(monkeypatch):
    add = local.Forward.add
    monkeypatch.setattr(local.Forward, "add", lambda self, k, v, calls: add(self, k, v, calls * 2))


def _merge_without_lse(monkeypatch):
    def mean(o, lse):
        return sum(o) / len(o), torch.logaddexp(*lse)

    monkeypatch.setattr(local.ops, "merge_states", mean)


def _lse_of_a_part(monkeypatch):
    backward = local._attend_backward

    def wrong(grad_o, grad_lse, q, k, v, o, lse, call, formula):
        return backward(grad_o, grad_lse, q, k, v, o, lse + 0.01, call, formula)

    monkeypatch.setattr(local, "_attend_backward", wrong)


def _lost_gradient(monkeypatch):
    monkeypatch.setattr(plan.Round, "touched", lambda self, chunk: chunk % 3 != 1)


@pytest.mark.parametrize(
    "mistake",
    [
        _wrong_offset,
        _dropped_chunk,
        _doubled_chunk,
        _merge_without_lse,
        _lse_of_a_part,
        _lost_gradient,
    ],
)
def test_a_planted_mistake_is_seen(mistake, monkeypatch):
    ring.known_plan.cache_clear()
    mistake(monkeypatch)
    case = AttentionCase(**DENSE, mask=mask.window(20, 0))
    with pytest.raises(AssertionError):
        check(case, run(case, 4, "direct"))
    ring.known_plan.cache_clear()


def test_a_custom_schedule():
    """All to rank 0 first, which passes everything on."""
    topology = collectives.Topology.full_mesh(3, 1.0)
    rounds = [
        [(1, 0, 1), (2, 0, 2), (0, 1, 0)],
        [(0, 2, 0), (0, 1, 2)],
        [(0, 2, 1)],
    ]
    reduction = [[], [], [], [(2, 0, 0), (1, 0, 0), (1, 2, 2)], [(0, 1, 1), (0, 2, 2), (2, 1, 1)]]
    schedule = collectives.Schedule.from_rounds(topology, rounds, reduction, parts=1)
    schedule.verify()
    check(CAUSAL, run(CAUSAL, 3, schedule))


# Shards


def test_shards_put_together_are_the_whole():
    x = torch.arange(2 * 11 * 3).view(2, 11, 3)

    def rank(world):
        part = tasp.Sharding(11, world)
        rows = part.shard(x)
        assert torch.equal(rows, x[:, part.indices])
        assert rows.shape[1] == part.rows
        ids = part.shard(x[0, :, 0], dim=0)
        assert torch.equal(part.unshard(ids, dim=0), x[0, :, 0])
        return part.unshard(rows)

    for whole in run_ranks(5, rank):
        assert torch.equal(whole, x)


def test_positions_start_anew_in_every_document():
    def rank(world):
        part = tasp.Sharding(9, world, "contiguous", cu_seqlens=torch.tensor([0, 2, 2, 9]))
        return part.unshard(part.positions, dim=0).tolist()

    assert run_ranks(4, rank)[0] == [0, 1, 0, 1, 2, 3, 4, 5, 6]


def test_gradients_of_shard_and_unshard():
    """What is differentiated is the sum of what the ranks compute."""
    x, w = torch.randn(3, 7, 2), torch.arange(42.0).view(3, 7, 2)

    def rank(world):
        part = tasp.Sharding(7, world)
        rows = part.shard(x).requires_grad_()
        whole = part.unshard(rows)
        (whole * w * (world.rank + 1)).sum().backward()
        full = x.clone().requires_grad_()
        part.shard(full).sum().backward()
        return part.unshard(rows.grad), full.grad

    results = run_ranks(3, rank)
    for whole, _ in results:
        assert torch.equal(whole, w * (1 + 2 + 3))
    assert torch.equal(sum(full for _, full in results), torch.ones_like(x))


# Refusals


def refusal(ranks, change, error=ValueError):
    """The message with which every rank refuses a call changed by ``change(world, arguments)``."""
    q = torch.randn(1, 8, 4, 8)
    k = torch.randn(1, 8, 2, 8)

    def rank(world):
        part = tasp.Sharding(8, world)
        arguments = {
            "q": part.shard(q), "k": part.shard(k), "v": part.shard(k), "sharding": part,
            "schedule": "ring", "timeout": 5,
        }  # fmt: skip
        change(world, arguments)
        return tasp.ring_attention(
            arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments
        )

    outcomes = run_outcomes(ranks, rank, timeout=5)
    messages = {str(outcome) for outcome in outcomes if isinstance(outcome, error)}
    assert all(isinstance(outcome, error) for outcome in outcomes), outcomes
    return " | ".join(sorted(messages))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("q", torch.randn(1, 8, 4, 8), "q has 8 rows: must have the 4 of Sharding(length=8"),
        ("q", torch.randn(1, 4, 3, 8), "the key/value heads must divide the query heads"),
        ("v", torch.randn(1, 4, 1, 8), "v has shape (1, 4, 1, 8): must be [1, 4, 2, dv]"),
        ("q", torch.randn(4, 4, 8), "q has shape (4, 4, 8): must have 4 axes"),
        ("q", torch.randn(1, 4, 4, 8).double(), "q is torch.float64"),
        ("k", torch.randn(1, 4, 2, 8).half(), "k is torch.float16: must be torch.float32 like q"),
        ("scale", float("nan"), "scale is nan: must be finite"),
        ("softcap", -1.0, "softcap is -1.0: must be a positive number"),
        ("mask", "causal", "mask is 'causal': must be wl.mask.full()"),
        ("timeout", 0, "timeout is 0"),
        ("schedule", "star", "star"),
        ("schedule", None, "schedule is None: must be 'auto'"),
        ("sharding", 8, "sharding is 8: must be a tasp.Sharding"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(name, value, words):
    assert words in refusal(2, lambda world, arguments: arguments.update({name: value}))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mask", mask.causal(), "mask"),
        ("scale", 0.5, "scale"),
        ("softcap", 3.0, "softcap"),
        ("schedule", "bidirectional", "schedule"),
        ("q", torch.randn(1, 2, 6, 8), "heads of q"),
        ("k", torch.randn(1, 2, 4, 8), "heads of k and v"),
        ("q", torch.randn(1, 2, 4, 16), "head dims"),
        ("q", torch.randn(3, 2, 4, 8), "batch"),
        ("q", torch.randn(1, 2, 4, 8).half(), "dtype"),
    ],
)
def test_ranks_that_differ_are_named(name, value, words):
    def change(world, arguments):
        if world.rank == 2:
            arguments[name] = value
            if words in ("heads of k and v", "head dims", "batch", "dtype"):  # k and v as q
                x = arguments[name]
                heads = x.shape[2] if name == "k" else 2
                arguments["k"] = x[:, :, :heads].contiguous()
                arguments["v"] = arguments["k"]

    message = refusal(4, change, RanksDisagreeError)
    assert f"ranks disagree on {words}" in message
    assert "rank 2 has" in message


def test_what_no_kernel_fits_is_refused_before_anything_moves():
    q = torch.randn(1, 8, 1, 512)

    def rank(world):
        part = tasp.Sharding(8, world)
        rows = part.shard(q)
        with pytest.raises(NotImplementedError, match="no kernel fits"):
            tasp.ring_attention(rows, rows, rows, sharding=part, schedule="ring", timeout=5)
        return part.unshard(rows)  # nothing is broken

    for whole in run_ranks(3, rank):
        assert torch.equal(whole, q)


def test_a_wrong_schedule_is_refused_before_anything_moves():
    q = torch.randn(1, 8, 1, 8)
    mesh = collectives.Topology.full_mesh(3, 1.0)
    stray = collectives.Schedule.from_rounds(mesh, [[(0, 1, 1)]], [], parts=1)
    larger = collectives.schedule(collectives.Topology.full_mesh(8, 1.0), "ring")

    def rank(world):
        part = tasp.Sharding(8, world)
        rows = part.shard(q)
        for schedule, words in ((stray, "before it has it"), (larger, "schedule is for 8 ranks")):
            with pytest.raises(ValueError, match=words):
                tasp.ring_attention(rows, rows, rows, sharding=part, schedule=schedule, timeout=5)
        return part.unshard(rows)

    for whole in run_ranks(3, rank):
        assert torch.equal(whole, q)


def test_gradients_wanted_on_one_rank_alone_are_refused():
    def change(world, arguments):
        arguments["q"].requires_grad_(world.rank == 0)

    assert "ranks disagree on gradients" in refusal(3, change, RanksDisagreeError)


@pytest.mark.parametrize("phase", ["exchange", "reduction"])
@pytest.mark.parametrize("kind", ["ring", "direct"])
def test_a_rank_that_dies_is_named_on_all_others(kind, phase):
    """In the forward's second round, and on the gradients' way home (exchange 4)."""
    death = Fault(1, "kill", *((1, 1) if phase == "exchange" else (3, 4)), phase)
    outcomes = run_outcomes(4, lambda world: run_rank(world, CAUSAL, kind), faults=[death])
    for rank, outcome in enumerate(outcomes):
        if rank != 1:
            assert isinstance(outcome, RankLostError)
            assert outcome.rank == 1


def test_a_topology_of_other_ranks_is_refused():
    topology = collectives.Topology.full_mesh(5, 1.0)
    outcomes = run_outcomes(2, lambda world: tasp.Sharding(8, world, topology=topology))
    assert all("topology has 5 ranks: must have the group's 2" in str(o) for o in outcomes)


def test_a_topology_must_be_one():
    with pytest.raises(ValueError, match=r"topology is 'mesh': must be a warploom\.collectives"):
        run_ranks(2, lambda world: tasp.Sharding(8, world, topology="mesh"))


@pytest.mark.parametrize("kind", ["token_ring", "hybrid"])
def test_a_backward_that_is_not_there_is_refused(kind):
    def change(world, arguments):
        arguments["schedule"] = schedule_of(kind, 4)
        arguments["q"].requires_grad_()

    message = refusal(4, change, NotImplementedError)
    assert f"schedule '{kind}' has no backward" in message


def test_a_second_derivative_is_refused():
    def rank(world):
        part = tasp.Sharding(4, world)
        q = torch.randn(1, 2, 1, 8, requires_grad=True)
        o = tasp.ring_attention(q, q, q, sharding=part, schedule="ring")
        (grad,) = torch.autograd.grad(o.sum(), q, create_graph=True)
        grad.sum().backward()

    assert all(isinstance(o, RuntimeError) for o in run_outcomes(2, rank))


def test_one_rank_alone_gets_what_attention_gives():
    case = replace(CAUSAL, dtype="bfloat16")
    x = case.make()
    o = run(case, 1, "auto", backward=False).o
    assert torch.equal(o, warploom.attention(*x.qkv, mask=case.mask))


def test_autocast_lowers_the_inputs():
    def rank(world):
        part = tasp.Sharding(4, world)
        q = torch.randn(1, 2, 1, 8)
        with torch.autocast("cpu", torch.bfloat16):
            return tasp.ring_attention(q, q, q, sharding=part, schedule="ring").dtype

    assert run_ranks(2, rank) == [torch.bfloat16] * 2


@pytest.mark.parametrize("kind", ["ring", "bidirectional", "hamilton", "direct"])
def test_arrivals_of_two_rounds_are_held_at_most(kind, monkeypatch):
    held = []

    class Counted(ring._Rows):
        def take(self, chunk):
            tensors = super().take(chunk)
            held.append(len(self._buffers) - 1)
            return tensors

    monkeypatch.setattr(ring, "_Rows", Counted)
    run(CAUSAL, 5, kind)
    assert max(held) == 2


@pytest.mark.parametrize("make", [lambda: tasp.Sharding(8), TorchWorld])
def test_without_a_process_group_the_call_that_is_missing_is_named(make):
    with pytest.raises(ValueError, match=r"call torch\.distributed\.init_process_group first"):
        make()
