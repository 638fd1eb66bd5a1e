"""Plans: right by the validator, small, repeatable; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warploom import memory
from warploom.memory import Plan, Trace, synthetic

MADE = {
    "random": synthetic.random(400, seed=1),
    "training": synthetic.training(6),
    "experts": synthetic.experts(4, experts=6),
    "hard": synthetic.hard(60, seed=2),
}
BRIEF = {"time_limit": None, "work_limit": 300_000}


@pytest.mark.parametrize("name", MADE)
def test_plans_are_valid_and_between_their_bounds(name: str) -> None:
    trace = MADE[name]
    plan = memory.plan(trace, **BRIEF)
    plan.validate()
    assert trace.peak <= plan.lower_bound <= plan.size
    assert plan.size == (plan.offsets + trace.padded).max()
    assert plan.size <= 1.2 * trace.peak
    assert plan.gap == plan.size / plan.lower_bound - 1
    sizes = [step.size for step in plan.history]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == plan.size


def test_training_steps_reach_the_maximum_load() -> None:
    plan = memory.plan(MADE["training"], **BRIEF)
    assert (plan.size, plan.gap) == (MADE["training"].peak, 0)


@pytest.mark.parametrize("name", MADE)
def test_seed_and_work_repeat_a_plan(name: str) -> None:
    first, second = (memory.plan(MADE[name], seed=3, **BRIEF) for _ in range(2))
    assert np.array_equal(first.offsets, second.offsets)
    assert first.work == second.work
    again = memory.plan(MADE[name], seed=3, time_limit=None, work_limit=first.work)
    assert np.array_equal(first.offsets, again.offsets)


def best_by_trying(trace: Trace) -> int:
    """The least size of all orders, each block on top of those before it that it meets."""
    from itertools import permutations

    rows = list(zip(trace.size.tolist(), trace.alloc.tolist(), trace.free.tolist(), strict=True))
    best = sum(trace.size.tolist())
    for order in permutations(rows):
        placed: list[tuple[int, int, int]] = []
        for size, alloc, free in order:
            low = max((top for a, f, top in placed if a < free and alloc < f), default=0)
            placed.append((alloc, free, low + size))
        best = min(best, max(top for _, _, top in placed))
    return best


requests = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 7), st.integers(1, 5)), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(requests)
def test_small_traces_are_solved_exactly(rows: list[tuple[int, int, int]]) -> None:
    size, alloc, life = np.array(rows).T
    trace = Trace(size, alloc, alloc + life)
    plan = memory.plan(trace, time_limit=None, work_limit=2_000_000)
    plan.validate()
    assert plan.size == plan.lower_bound == best_by_trying(trace)


def fits(trace: Trace, capacity: int) -> bool:
    """Whether a plan of that size exists, by trying every offset of every request."""
    rows = list(zip(trace.size.tolist(), trace.alloc.tolist(), trace.free.tolist(), strict=True))
    placed: list[tuple[int, int, int, int]] = []

    def place(number: int) -> bool:
        if number == len(rows):
            return True
        size, alloc, free = rows[number]
        for low in range(capacity - size + 1):
            if all(
                free <= a or f <= alloc or low + size <= o or o + s <= low for s, a, f, o in placed
            ):
                placed.append((size, alloc, free, low))
                if place(number + 1):
                    return True
                placed.pop()
        return False

    return place(0)


# (size, alloc, free): no plan is as small as the maximum load.
ABOVE_THE_LOAD = [
    "1 2 4  3 0 2  1 3 5  3 1 4  2 1 3  5 0 1  2 2 3  3 3 4  7 4 5",
    "1 1 3  3 0 2  2 1 4  2 2 4  2 2 5  3 3 5  6 0 1  3 1 2  2 2 3  4 4 5",
    "1 1 3  2 2 4  1 0 3  3 1 4  3 3 5  3 0 2  4 0 1  1 2 3  5 4 5",
    "1 0 2  3 3 5  3 2 4  3 3 5  1 1 3  3 1 4  11 0 1  7 1 2  5 2 3  6 4 5",
]


@pytest.mark.parametrize("text", ABOVE_THE_LOAD)
def test_a_bound_above_the_maximum_load_is_proven(text: str) -> None:
    trace = Trace(*np.array(text.split(), int).reshape(-1, 3).T)
    plan = memory.plan(trace, time_limit=None, work_limit=1_000_000)
    plan.validate()
    assert plan.size == plan.lower_bound == trace.peak + 1
    assert not fits(trace, trace.peak)
    with_room = memory.plan(trace, capacity=trace.peak + 1)
    assert with_room.size == trace.peak + 1


@pytest.mark.parametrize("seed", range(3))
def test_hard_instances_are_solved_exactly(seed: int) -> None:
    trace = synthetic.hard(60, seed=seed)
    plan = memory.plan(trace, time_limit=None, work_limit=60_000_000)
    plan.validate()
    assert plan.size == 1 << 20


def test_repeated_steps_are_folded() -> None:
    one = synthetic.training(6, steps=1)
    several = memory.concatenated([one] * 5)
    plan = memory.plan(several, **BRIEF)
    plan.validate()
    assert plan.arenas[0].folded >= 4
    assert plan.size == one.peak


def test_many_steps_are_cut_where_little_is_held() -> None:
    """Over 100,000 requests, with a small block alive across every two steps."""
    step = synthetic.training(24, steps=3)
    copies = 60
    many = memory.concatenated([step] * copies)
    length = int(step.free.max())
    ends = length * np.arange(1, copies)
    trace = Trace(
        np.concatenate([many.size, np.full(copies - 1, 512)]),
        np.concatenate([many.alloc, ends - 4]),
        np.concatenate([many.free, ends + 4]),
        alignment=512,
    )
    assert len(trace) > 100_000
    plan = memory.plan(trace, time_limit=None, work_limit=1)
    plan.validate()
    assert plan.arenas[0].folded >= copies - 4
    assert plan.gap < 0.001


def test_capacity() -> None:
    trace = MADE["hard"]
    plan = memory.plan(trace, capacity=2 * trace.peak, **BRIEF)
    plan.validate()
    assert plan.size <= 2 * trace.peak
    with pytest.raises(ValueError, match="the maximum load is 1048576, which is 76 more: no plan"):
        memory.plan(trace, capacity=trace.peak - 76)
    pools = replace(trace, pool=np.arange(len(trace)) % 2)
    with pytest.raises(ValueError, match="maximum loads of 2 arenas are"):
        memory.plan(pools, capacity=1000)


def test_streams_and_pools_share_nothing_unless_told() -> None:
    trace = Trace([8, 8, 8, 8], [0, 2, 4, 6], [1, 3, 5, 7], stream=[0, 1, 0, 0], pool=[0, 0, 0, 1])
    plan = memory.plan(trace)
    plan.validate()
    assert [(a.pool, a.stream, a.size) for a in plan.arenas] == [(0, 0, 8), (0, 1, 8), (1, 0, 8)]
    assert len(set(plan.offsets.tolist())) == 3
    shared = memory.plan(trace, streams="shared")
    shared.validate()
    assert shared.size == 16
    with pytest.raises(ValueError, match="streams is 'none': must be 'separate' or 'shared'"):
        memory.plan(trace, streams="none")  # type: ignore[arg-type]


def test_alignments_and_given_offsets() -> None:
    generator = np.random.default_rng(5)
    alloc = generator.integers(0, 60, 120)
    trace = Trace(
        generator.integers(1, 4000, 120),
        alloc,
        alloc + generator.integers(1, 20, 120),
        alignment=64,
    )
    alignments = 64 * 2 ** generator.integers(0, 4, 120)
    fixed = np.full(120, -1)
    fixed[np.argmin(trace.alloc)] = 512 * 7
    plan = memory.plan(trace, alignments=alignments, fixed=fixed, **BRIEF)
    plan.validate()
    assert (plan.offsets % alignments == 0).all()
    assert plan.offsets[np.argmin(trace.alloc)] == 512 * 7
    assert plan.size <= 2 * trace.peak


def test_alignments_hold_in_every_arena(tmp_path: Path) -> None:
    trace = Trace([512] * 3, [0, 1, 2], [3, 4, 5], stream=[0, 1, 2], alignment=512)
    plan = memory.plan(trace, alignments=[4096, 1536, 4096])
    plan.validate()
    assert plan.offsets.tolist() == [0, 1536, 4096]
    assert plan.size == 4096 + 512
    path = tmp_path / "some.plan"
    plan.save(path)
    back = Plan.load(path, trace)
    back.validate()
    assert (back.size, back.alignments.tolist()) == (plan.size, [4096, 1536, 4096])
    low = (plan.arenas[0], *(replace(a, base=512 * n) for n, a in enumerate(plan.arenas[1:], 1)))
    with pytest.raises(ValueError, match="request 1 lies at 512: must be a multiple of 1536"):
        replace(back, arenas=low, offsets=np.array([0, 512, 1024])).validate()
    with pytest.raises(ValueError, match="alignments has 2 values: the trace has 3 requests"):
        replace(back, alignments=np.array([512, 512])).validate()
    with pytest.raises(ValueError, match="alignments has 0: must be at least 1"):
        replace(back, alignments=np.array([512, 0, 512])).validate()
    with pytest.raises(ValueError, match=r"an arena would begin at \d+, .* less than 2\*\*62"):
        memory.plan(replace(trace, stream=[0, 1, 1]), alignments=[512, 512 * 3**31, 512 * 5**21])


def test_given_offsets_are_kept_and_proven(tmp_path: Path) -> None:
    trace = Trace([64, 64], [0, 1], [2, 3], alignment=64)
    plan = memory.plan(trace, fixed=[128, -1])
    path = tmp_path / "some.plan"
    plan.save(path)
    back = Plan.load(path, trace)
    back.validate()
    assert back.fixed.tolist() == [128, -1]
    with pytest.raises(ValueError, match="request 0 lies at 0: was given 128"):
        replace(back, offsets=np.array([0, 128])).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 1024}, "the arena at 0 has 1024 bytes: its requests end at 512"),
        ({"size": 1024, "lower_bound": 1024}, "the arena at 0 has 1024 bytes"),
        ({"lower_bound": 0}, "the lower bound 0: must be between its maximum load, 512, and its"),
        ({"lower_bound": 513}, "lower bound 513: must be between its maximum load, 512, and its"),
        ({"base": -512}, "an arena lies at -512 and has 512 bytes: both must be at least 0"),
        ({"size": 1 << 63}, "their sum less than"),
    ],
)
def test_the_validator_believes_no_sizes_and_bounds(change: dict[str, int], message: str) -> None:
    plan = memory.plan(Trace([512], [0], [1], alignment=512))
    plan.validate()
    wrong = replace(plan, arenas=(replace(plan.arenas[0], **change),))
    wrong = replace(wrong, offsets=plan.offsets + change.get("base", 0))
    with pytest.raises(ValueError, match=message):
        wrong.validate()


def test_offsets_near_the_end_of_their_numbers_are_outside() -> None:
    plan = memory.plan(Trace([512, 512], [0, 1], [1, 2], alignment=512))
    with pytest.raises(ValueError, match="must be inside of its arena"):
        replace(plan, offsets=np.array([0, (1 << 63) - 512])).validate()


def test_a_plan_with_no_numbers_is_refused(tmp_path: Path) -> None:
    plan = memory.plan(Trace([512], [0], [1]))
    path = tmp_path / "some.plan"
    replace(plan, arenas=(replace(plan.arenas[0], size="x"),)).save(path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size of an arena is 'x': must be an integer"):
        Plan.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fixed": [1 << 61, -1]}, "fixed has 2305843009213693952: must be less than"),
        ({"fixed": [0, 64]}, "fixed offsets of requests 0 and 1 overlap while both are held"),
        ({"fixed": [3, -1]}, "fixed offset of request 0 is 3: must be -1 or a multiple of 64"),
        ({"alignments": [64, 96]}, "alignment of request 1 is 96: must be a multiple of 64"),
        ({"alignments": [64]}, "alignments has shape"),
        ({"time_limit": -1}, "time_limit is -1: must be above 0"),
        ({"time_limit": None}, "time_limit and work_limit are None"),
        ({"work_limit": 0}, "work_limit is 0: must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    trace = Trace([100, 100], [0, 1], [2, 3], alignment=64)
    with pytest.raises(ValueError, match=message):
        memory.plan(trace, **arguments)  # type: ignore[arg-type]


def test_no_requests_and_no_bytes() -> None:
    assert memory.plan(Trace([], [], [])).size == 0
    plan = memory.plan(Trace([0, 5, 0], [0, 1, 2], [9, 3, 4]))
    plan.validate()
    assert (plan.size, plan.offsets.tolist()) == (5, [0, 0, 0])


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    trace = MADE["experts"]
    plan = memory.plan(trace, **BRIEF)
    path = tmp_path / "some.plan"
    plan.save(path)
    back = Plan.load(path, trace)
    back.validate()
    assert np.array_equal(back.offsets, plan.offsets)
    assert (back.arenas, back.size, back.gap) == (plan.arenas, plan.size, plan.gap)
    with pytest.raises(ValueError, match="trace is missing"):
        Plan.load(path).validate()
    with pytest.raises(ValueError, match=r"the plan is for trace .*: this one is"):
        Plan.load(path, MADE["hard"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is cut off: column offsets"):
        Plan.load(path)


def broken(change) -> Plan:
    """A valid plan with its offsets changed."""
    plan = memory.plan(MADE["training"], **BRIEF)
    offsets = plan.offsets.copy()
    change(offsets)
    return replace(plan, offsets=offsets)


def test_the_validator_finds_an_overlap() -> None:
    trace = MADE["training"]

    def onto_another(offsets: np.ndarray) -> None:
        first = int(np.argmax(trace.size))
        held = (trace.alloc < trace.free[first]) & (trace.free > trace.alloc[first])
        held[first] = False
        other = int(np.flatnonzero(held)[0])
        offsets[other] = offsets[first]

    with pytest.raises(ValueError, match=r"requests \d+ and \d+ overlap: .* both held at time"):
        broken(onto_another).validate()


def test_the_validator_finds_a_place_outside_or_crooked() -> None:
    def outside(offsets: np.ndarray) -> None:
        offsets[3] = -512

    def crooked(offsets: np.ndarray) -> None:
        offsets[3] += 1

    with pytest.raises(
        ValueError, match=r"request 3 lies at -512, .*: must be inside of its arena"
    ):
        broken(outside).validate()
    with pytest.raises(ValueError, match=r"request 3 lies at .* multiple of 512"):
        broken(crooked).validate()


def test_the_validator_finds_every_overlap_that_a_pairwise_check_finds() -> None:
    """Random offsets, most of them wrong, against the definition."""
    generator = np.random.default_rng(0)
    verdicts = []
    for _ in range(200):
        count = int(generator.integers(2, 6))
        alloc = generator.integers(0, 6, count)
        trace = Trace(
            generator.integers(1, 4, count), alloc, alloc + generator.integers(1, 5, count)
        )
        offsets = generator.integers(0, 12, count)
        right = all(
            trace.free[i] <= trace.alloc[j]
            or trace.free[j] <= trace.alloc[i]
            or offsets[i] + trace.size[i] <= offsets[j]
            or offsets[j] + trace.size[j] <= offsets[i]
            for i in range(count)
            for j in range(i)
        )
        plan = memory.plan(trace)
        arenas = (replace(plan.arenas[0], size=int((offsets + trace.size).max())),)
        if arenas[0].size < arenas[0].lower_bound:  # cannot be right: the bound is proven
            assert not right
            continue
        try:
            replace(plan, offsets=offsets, arenas=arenas).validate()
            verdicts.append((right, True))
        except ValueError:
            verdicts.append((right, False))
    assert all(right == verdict for right, verdict in verdicts)
    assert {right for right, _ in verdicts} == {True, False}
