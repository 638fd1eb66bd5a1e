"""Traces: what they hold, what they refuse, and how they come from events."""

from __future__ import annotations

import numpy as np
import pytest

from warploom.memory import Trace, TraceBuilder, concatenated, synthetic


def small() -> Trace:
    return Trace([100, 200, 50], [0, 1, 5], [4, 6, 9], alignment=64)


def test_columns_have_their_types_and_cannot_be_written() -> None:
    trace = small()
    assert (trace.size.dtype, trace.stream.dtype) == (np.int64, np.int32)
    with pytest.raises(ValueError, match="read-only"):
        trace.size[0] = 1
    assert len(trace) == 3


def test_load_is_of_padded_sizes() -> None:
    times, held = small().load()
    assert times.tolist() == [0, 1, 4, 5, 6, 9]
    assert held.tolist() == [128, 384, 256, 320, 64, 0]
    assert small().peak == 384


def test_what_ends_at_a_time_is_not_held_with_what_begins_then() -> None:
    assert Trace([8, 8], [0, 3], [3, 5]).peak == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1], [0], [1]), "size of request 0 is -1: must be at least 0"),
        (([1, 1], [0, 5], [1, 5]), "free of request 1 is 5: must be after its alloc, 5"),
        (([1], [0], [1, 2]), "free has shape"),
        (([1.5], [0], [1]), "size has dtype float64: must be integers"),
        (([1], [0], [1], [1 << 32]), "stream has 4294967296: must be a number of 32 bits"),
        (
            ([1], [0], [1], [0], [-(1 << 31) - 1]),
            "pool has -2147483649: must be a number of 32 bits",
        ),
        ((np.array([1 << 63], np.uint64), [0], [1]), "size has 9223372036854775808: must be"),
        (([1 << 61] * 2, [0, 2], [1, 3]), r"size: all 2 requests, .* 4.61e\+18: must be less than"),
        (([1], [0], [1 << 62]), "free of request 0 is 4611686018427387904: must be between"),
        (([1], [-(1 << 62)], [0]), "alloc of request 0 is -4611686018427387904: must be between"),
        (([1], [0], [1], [0], [0], [3]), "phase of request 0 is 3: must be a place in phases"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[list[int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace(*arguments)


def test_the_digest_tells_traces_apart() -> None:
    assert small().digest == small().digest
    others = [
        Trace([100, 200, 51], [0, 1, 5], [4, 6, 9], alignment=64),
        Trace([100, 200, 50], [0, 1, 5], [4, 6, 9], alignment=32),
        Trace([100, 200, 50], [0, 1, 5], [4, 6, 9], [0, 0, 1], alignment=64),
    ]
    assert len({small().digest, *(trace.digest for trace in others)}) == 4


def test_events_make_a_trace() -> None:
    builder = TraceBuilder(alignment=512)
    builder.alloc("a", 10, phase="forward", site="x")
    builder.alloc("b", 20, stream=1, phase="forward", site="y")
    builder.free("a")
    builder.alloc("a", 30, phase="backward", site="x")
    builder.free("b")
    trace = builder.finish()
    assert trace.alloc.tolist() == [0, 1, 3]
    assert trace.free.tolist() == [2, 4, 5]  # what was not freed lives to the end
    assert trace.stream.tolist() == [0, 1, 0]
    assert [trace.phases[p] for p in trace.phase] == ["forward", "forward", "backward"]
    assert [trace.sites[s] for s in trace.site] == ["x", "y", "x"]
    assert [trace.phases[p] for p in trace.phase_at_free()] == ["forward", "backward", "backward"]


def test_events_that_cannot_be_are_refused() -> None:
    builder = TraceBuilder()
    with pytest.raises(ValueError, match="event 0: 'a' is freed: it was not allocated before"):
        builder.free("a")
    builder.alloc("a", 1)
    with pytest.raises(ValueError, match="event 1: 'a' is allocated: it is held since before"):
        builder.alloc("a", 1)
    with pytest.raises(ValueError, match="event 1: size is -5: must be at least 0"):
        builder.alloc("b", -5)
    builder.free("a")
    with pytest.raises(ValueError, match="event 2: 'a' is freed twice: it was at event 1"):
        builder.free("a")
    with pytest.raises(
        ValueError, match="size is 4611686018427387904: must be at least 0 and less"
    ):
        builder.alloc("b", 1 << 62)
    assert len(builder.finish()) == 1


def test_streams_and_pools_of_64_bits_stay_apart() -> None:
    builder = TraceBuilder()
    streams = [1 << 32, 0, 1 << 33, 1 << 32]
    for number, stream in enumerate(streams):
        builder.alloc(number, 8, stream=stream, pool=5 * stream)
    trace = builder.finish()
    assert trace.stream.tolist() == trace.pool.tolist() == [1, 0, 2, 1]
    assert trace.notes["streams"] == [0, 1 << 32, 1 << 33]
    assert trace.notes["pools"] == [0, 5 << 32, 5 << 33]


def test_an_empty_trace() -> None:
    trace = TraceBuilder().finish()
    assert (len(trace), trace.peak) == (0, 0)


def test_traces_in_a_row() -> None:
    both = concatenated([small(), small()])
    assert both.alloc.tolist() == [0, 1, 5, 9, 10, 14]
    assert both.peak == small().peak
    with pytest.raises(ValueError, match="all of one alignment"):
        concatenated([small(), Trace([1], [0], [1])])
    late = Trace([1], [0], [3 << 60])
    with pytest.raises(ValueError, match=r"end at \d+ one after another: must be before 2\*\*62"):
        concatenated([late, late])


def test_some_requests() -> None:
    assert small().take([2, 0]).size.tolist() == [50, 100]
    assert small().take(np.array([True, False, True])).alloc.tolist() == [0, 5]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: synthetic.random(200, seed=seed),
        lambda seed: synthetic.training(4, seed=seed),
        lambda seed: synthetic.experts(3, experts=4, seed=seed),
        lambda seed: synthetic.hard(60, seed=seed),
        lambda seed: synthetic.harder(60, seed=seed),
    ],
)
def test_made_traces_depend_on_their_seed_alone(make) -> None:
    assert make(1).digest == make(1).digest
    assert make(1).digest != make(2).digest


@pytest.mark.parametrize("made", [synthetic.hard, synthetic.harder])
def test_a_hard_instance_is_full_at_its_peak(made) -> None:
    trace = made(80, seed=3)
    times, held = trace.load()
    assert trace.peak == 1 << 20
    assert np.diff(times)[held[:-1] == trace.peak].sum() > 0.05 * (times[-1] - times[0])


def first_fit(trace: Trace) -> int:
    """The size of a plan that places blocks by falling size, each as low as it can lie."""
    rows = list(zip(trace.size.tolist(), trace.alloc.tolist(), trace.free.tolist(), strict=True))
    placed: list[tuple[int, int, int, int]] = []
    for size, alloc, free in sorted(rows, reverse=True):
        low = 0
        for begin, end in sorted((o, e) for o, e, a, f in placed if a < free and alloc < f):
            if begin - low >= size:
                break
            low = max(low, end)
        placed.append((low, low + size, alloc, free))
    return max(end for _, end, _, _ in placed)


def test_harder_instances_are_harder_for_first_fit() -> None:
    def over(made) -> float:
        traces = [made(150, seed=seed) for seed in range(10)]
        return float(np.mean([first_fit(trace) / trace.peak for trace in traces]))

    assert over(synthetic.harder) > 1.22
    assert over(synthetic.hard) < 1.15


@pytest.mark.parametrize("made", [synthetic.hard, synthetic.harder])
def test_hard_instances_that_cannot_be(made) -> None:
    with pytest.raises(ValueError, match="requests is 4: must be at least 5"):
        made(4)
    with pytest.raises(ValueError, match="capacity is 1000: must be a positive multiple of 1024"):
        made(10, capacity=1000)
