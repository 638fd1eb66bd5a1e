"""Each rule of the caching allocator in a scenario worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from warploom import memory
from warploom.memory import Plan, Trace, TraceBuilder
from warploom.memory.allocator_options import AllocatorOptions
from warploom.memory.simulator import ACTIONS, FREE_REQUESTED, Simulation

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
EXPANDABLE = "expandable_segments:True"


def trace_of(*events: str | tuple[str, int] | tuple[str, int, int]) -> Trace:
    """("a", size) or ("a", size, stream) allocates, "a" frees; a tick of the clock for each."""
    builder = TraceBuilder()
    for event in events:
        if isinstance(event, str):
            builder.free(event)
        else:
            builder.alloc(event[0], event[1], stream=event[2] if len(event) > 2 else 0)
    return builder.finish()


def run(
    *events: str | tuple[str, int] | tuple[str, int, int],
    options: str = "",
    capacity: int | None = None,
    empty_cache: tuple[int, ...] = (),
) -> Simulation:
    return memory.simulate(
        trace_of(*events),
        policy="caching+options",
        options=options,
        capacity=capacity,
        empty_cache=empty_cache,
        log=True,
    )


def device(result: Simulation) -> list[tuple[str, int]]:
    """What is taken from the device and given back: bytes in MiB."""
    assert result.log is not None
    return [
        (ACTIONS[event["action"]].removeprefix("segment_"), int(event["size"]) // MIB)
        for event in result.log
        if ACTIONS[event["action"]].startswith("segment")
    ]


def allocated(result: Simulation) -> list[int]:
    """Bytes in use after each allocation."""
    assert result.log is not None
    return [int(e["allocated"]) for e in result.log if ACTIONS[e["action"]] == "alloc"]


def addresses(result: Simulation) -> list[int]:
    """Of each allocation, from the first segment's beginning."""
    assert result.log is not None
    alloc = [int(e["address"]) for e in result.log if ACTIONS[e["action"]] == "alloc"]
    return [address - alloc[0] for address in alloc]


def test_sizes_are_rounded_to_512_bytes() -> None:
    # 1 -> 512; 512 -> 512, 1024 in all; 513 -> 1024, 2048 in all.
    result = run(("a", 1), ("b", 512), ("c", 513))
    assert allocated(result) == [512, 1024, 2048]
    assert result.requested_peak == 1 + 512 + 513


def test_nothing_is_taken_for_no_bytes() -> None:
    result = run(("a", 0), "a")
    assert (result.reserved_peak, len(result.log)) == (0, 0)


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2),  # small requests, up to 1 MiB, share segments of 2 MiB
        (1 * MIB, 2),
        (1 * MIB + 1, 20),  # larger ones below 10 MiB get 20 MiB
        (10 * MIB - 512, 20),
        (10 * MIB, 10),  # from 10 MiB on their own size, in units of 2 MiB
        (10 * MIB + 1, 12),
        (31 * MIB, 32),
    ],
)
def test_segments_by_size(size: int, segment: int) -> None:
    result = run(("a", size))
    assert device(result) == [("alloc", segment)]
    assert result.reserved_peak == segment * MIB


def test_small_blocks_split_from_512_bytes_on() -> None:
    # 2 MiB - 1 KiB in two blocks leaves 1 KiB, of which 512 bytes split off and 512 remain for d;
    # then the segment is full and e needs another.
    big = ("a", MIB), ("b", MIB - KIB)
    result = run(*big, ("c", 512), ("d", 512), ("e", 512))
    assert device(result) == [("alloc", 2), ("alloc", 2)]
    assert allocated(result)[-2] == 2 * MIB


def test_large_blocks_split_only_where_more_than_one_mib_is_left() -> None:
    # 20 MiB segment: 9 + 9 leave 2. 1 MiB + 512 would leave 1 MiB - 512, no more than 1 MiB: the
    # block is given whole, and in use are 20 MiB, not 19 MiB + 512.
    result = run(("a", 9 * MIB), ("b", 9 * MIB), ("c", MIB + 512))
    assert allocated(result) == [9 * MIB, 18 * MIB, 20 * MIB]
    # 12 MiB segment for 11 MiB: exactly 1 MiB is left, which is not more.
    assert allocated(run(("a", 11 * MIB))) == [12 * MIB]
    # 12 MiB segment for 11 MiB - 512: segments are of 2 MiB, 12 again; 1 MiB + 512 splits off.
    assert allocated(run(("a", 11 * MIB - 512))) == [11 * MIB - 512]


def test_the_smallest_idle_block_that_fits_is_taken() -> None:
    # Segments of 30, 14 and 22 MiB, all idle: 13 MiB (rest 1, not split) takes the one of 14;
    # the next 13 MiB the one of 22, of which 9 split off; 9 MiB then takes those.
    names = [("a", 30 * MIB), ("b", 14 * MIB), ("c", 22 * MIB)]
    result = run(*names, "a", "b", "c", ("d", 13 * MIB), ("e", 13 * MIB), ("f", 9 * MIB))
    assert addresses(result)[3:] == [30 * MIB, 44 * MIB, 57 * MIB]
    assert result.reserved_peak == 66 * MIB


def test_of_equal_blocks_the_lowest_is_taken() -> None:
    result = run(("a", 12 * MIB), ("b", 12 * MIB), "b", "a", ("c", 12 * MIB))
    assert addresses(result) == [0, 12 * MIB, 0]


def test_idle_neighbours_become_one_block() -> None:
    # 20 MiB segment of 6 + 6 + 6, 2 left. Freeing the first and the last leaves 6 and 8; 9 MiB does
    # not fit: another segment. Freeing the middle joins all 20: 9 MiB more fit twice.
    three = [("a", 6 * MIB), ("b", 6 * MIB), ("c", 6 * MIB)]
    result = run(*three, "a", "c", ("d", 9 * MIB))
    assert device(result) == [("alloc", 20), ("alloc", 20)]
    result = run(*three, "a", "c", "b", ("d", 9 * MIB), ("e", 9 * MIB))
    assert device(result) == [("alloc", 20)]


def test_small_and_large_requests_share_nothing() -> None:
    result = run(("a", 12 * MIB), "a", ("b", KIB), "b", ("c", MIB + 1))
    assert device(result) == [("alloc", 12), ("alloc", 2)]  # c takes a's 12


def test_streams_and_pools_share_nothing() -> None:
    result = run(("a", 12 * MIB, 1), "a", ("b", 12 * MIB, 2))
    assert device(result) == [("alloc", 12), ("alloc", 12)]
    pools = Trace([KIB] * 3, [0, 2, 4], [1, 3, 5], pool=[0, 1, 0])
    assert device(memory.simulate(pools, log=True)) == [("alloc", 2), ("alloc", 2)]


def test_a_block_is_idle_only_when_other_streams_have_passed() -> None:
    # a is let go at 1 and done at 3. At 2 its 12 MiB are not in use, but may not be given to b.
    waits = Trace([12 * MIB] * 3, [0, 2, 4], [3, 5, 6], notes={FREE_REQUESTED: [[0, 1]]})
    result = memory.simulate(waits, log=True)
    assert [ACTIONS[e["action"]] for e in result.log] == [
        *("segment_alloc", "alloc", "free_requested", "segment_alloc", "alloc"),
        *("free_completed", "alloc", "free_requested", "free_completed"),
        *("free_requested", "free_completed"),
    ]
    assert (result.reserved_peak, result.allocated_peak) == (24 * MIB, 24 * MIB)
    # Where only 12 MiB are, b waits for the streams, a's segment goes back and is taken anew.
    result = memory.simulate(
        Trace([12 * MIB] * 2, [0, 2], [3, 5], notes={FREE_REQUESTED: [[0, 1]]}),
        capacity=12 * MIB,
        log=True,
    )
    assert device(result) == [("alloc", 12), ("free", 12), ("alloc", 12)]
    assert (result.fits, result.retries) == (True, 1)


def test_roundup_power2_divisions() -> None:
    # Between 1024 and 2048 MiB four parts are 1024, 1280, 1536, 1792: 1200 becomes 1280.
    by_four = AllocatorOptions.of("roundup_power2_divisions:4")
    one = memory.simulate(trace_of(("a", 1200 * MIB)), policy="caching+options", options=by_four)
    assert (one.reserved_peak, one.allocated_peak) == (1280 * MIB, 1280 * MIB)
    # Up to 512 * 4 bytes the rule is that of 512 bytes: 1025 becomes 1536, not 1280.
    assert allocated(run(("a", 1025), options="roundup_power2_divisions:4")) == [1536]
    # Powers of two stay; 2049 becomes 2560, a quarter of 2048 more.
    assert allocated(run(("a", 4096), options="roundup_power2_divisions:4")) == [4096]
    assert allocated(run(("a", 2049), options="roundup_power2_divisions:4")) == [2560]
    # One part turns all rounding off.
    assert allocated(run(("a", 2049), options="roundup_power2_divisions:1")) == [2049]


def test_roundup_power2_divisions_by_interval() -> None:
    # The first interval named stands for all below, ">" for all above the last one.
    options = AllocatorOptions.of("roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1]")
    assert options.roundup_power2_divisions == (*(8,) * 7, 2, 4, 2, 4, *(1,) * 5)
    # 33 MiB by eights of 32: 36. 130 MiB by halves of 128: 192. 2049 MiB + 1: no rounding at all.
    for size, rounded in ((33 * MIB, 36 * MIB), (130 * MIB, 192 * MIB)):
        result = memory.simulate(trace_of(("a", size)), policy="caching+options", options=options)
        assert result.allocated_peak == rounded


def test_max_split_size_keeps_large_blocks_whole() -> None:
    # a's 48 MiB are not below 40: b (30 MiB, below) may not use them and takes 30 more.
    result = run(("a", 48 * MIB), "a", ("b", 30 * MIB), options="max_split_size_mb:40")
    assert device(result) == [("alloc", 48), ("alloc", 30)]
    assert device(run(("a", 48 * MIB), "a", ("b", 30 * MIB))) == [("alloc", 48)]
    # A request of 40 or more may use a block that is less than 20 MiB larger, whole: 59 for 40.
    result = run(("a", 58 * MIB), "a", ("b", 40 * MIB), options="max_split_size_mb:40")
    assert (device(result), allocated(result)) == ([("alloc", 58)], [58 * MIB, 58 * MIB])
    result = run(("a", 60 * MIB), "a", ("b", 40 * MIB), options="max_split_size_mb:40")
    assert device(result) == [("alloc", 60), ("alloc", 40)]
    wide = "max_split_size_mb:40,max_non_split_rounding_mb:21"
    assert device(run(("a", 60 * MIB), "a", ("b", 40 * MIB), options=wide)) == [("alloc", 60)]


def test_oversize_blocks_go_back_before_all_others() -> None:
    # 100 MiB device, max_split 40. Idle: 50, 40 and, below 40, 10. A request of 22 finds no block
    # (10 is too small, the others oversize); 122 > 100: the smallest oversize block that is at
    # least 40 goes, which is enough; 10 and 50 stay.
    idle = [("a", 50 * MIB), ("b", 40 * MIB), ("c", 10 * MIB), "a", "b", "c"]
    options = "max_split_size_mb:40"
    result = run(*idle, ("d", 22 * MIB), options=options, capacity=100 * MIB)
    assert device(result)[3:] == [("free", 40), ("alloc", 22)]
    assert result.retries == 0
    # 82 needs more than any: the largest go until 82 are made up, 50 and 40.
    result = run(*idle, ("d", 82 * MIB), options=options, capacity=100 * MIB)
    assert device(result)[3:] == [("free", 50), ("free", 40), ("alloc", 82)]
    assert result.retries == 0


def test_at_the_capacity_the_cache_goes_back() -> None:
    # 40 MiB device, 32 reserved: a's 12, idle and whole, and 20, of which b holds 6. 20 MiB more do
    # not fit; the whole segment goes back, the split one stays, and 20 + 20 is all there is.
    events = [("a", 12 * MIB), ("b", 6 * MIB), ("c", 6 * MIB), "a", "c", ("d", 20 * MIB)]
    result = run(*events, capacity=40 * MIB)
    assert device(result) == [("alloc", 12), ("alloc", 20), ("free", 12), ("alloc", 20)]
    assert (result.fits, result.retries, result.reserved_peak) == (True, 1, 40 * MIB)


def test_out_of_memory_says_where_and_what_was_held() -> None:
    # As before in 39 MiB: 20 + 20 do not fit. In use are b's 6 MiB.
    events = [("a", 12 * MIB), ("b", 6 * MIB), ("c", 6 * MIB), "a", "c", ("d", 20 * MIB), "d"]
    result = run(*events, capacity=39 * MIB)
    assert (result.fits, result.oom_request) == (False, 3)
    assert result.oom == (5, 20 * MIB, 6 * MIB)
    assert result.oom.fragmentation == pytest.approx(14 / 20)
    assert ACTIONS[result.log[-1]["action"]] == "oom"
    assert result.last == result.oom


def test_empty_cache_returns_whole_segments_of_the_default_pool() -> None:
    # At 3: a's 12 MiB are whole; b's 2 MiB segment still holds b.
    result = run(("a", 12 * MIB), ("b", KIB), "a", "b", empty_cache=(3,))
    assert device(result)[2:] == [("free", 12), ("free", 2)]  # b is freed at 3, and first
    result = run(("a", 12 * MIB), ("b", KIB), "a", ("c", KIB), empty_cache=(3,))
    assert device(result)[2:] == [("free", 12)]
    private = Trace([KIB], [0], [1], pool=[4])
    assert memory.simulate(private, empty_cache=(2,)).device_frees == 0


def test_the_memory_fraction_counts_whole_segments() -> None:
    # Half of 40 MiB: the 2 MiB segment of one byte leaves 18, less than the 20 of 1 MiB + 1.
    options = "per_process_memory_fraction:0.5"
    assert run(("a", 2 * MIB), options=options, capacity=40 * MIB).fits
    assert not run(("a", 1), ("b", 2 * MIB), options=options, capacity=40 * MIB).fits


def test_garbage_collection_returns_what_is_idle_for_long() -> None:
    # Threshold 0.5 of 100 MiB. Searches for large blocks: a 1, b 2, c 3. a is idle since 3, b too,
    # c is held. d (24, 4th search) finds nothing: 20+22+30 = 72 reserved, 22 above the threshold.
    # Ages of a and b are 1 and 1, the average 1: both go, 42 >= 22. Then 24 is taken.
    options = "garbage_collection_threshold:0.5,per_process_memory_fraction:1.0"
    events = [("a", 20 * MIB), ("b", 22 * MIB), ("c", 30 * MIB), "a", "b", ("d", 24 * MIB)]
    result = run(*events, options=options, capacity=100 * MIB)
    assert device(result)[3:] == [("free", 20), ("free", 22), ("alloc", 24)]
    kept = [("a", 20 * MIB), ("b", 12 * MIB), "a", ("c", 30 * MIB), "b", ("d", 40 * MIB)]
    # 62 reserved, 12 above. a is idle since search 2, b since 3; d is search 4: ages 2 and 1,
    # average 1.5: a goes, 20 >= 12 is enough and b stays.
    result = run(*kept, options=options, capacity=100 * MIB)
    assert device(result)[3:] == [("free", 20), ("alloc", 40)]


def test_expandable_segments_grow_by_pages() -> None:
    # Small pages of 2 MiB, large ones of 20. 30 MiB: 2 pages, 10 left; 15 more: 10 + 5, another
    # page; 1.5 MiB go into the 15 left over, whatever remains.
    events = [("a", 30 * MIB), ("b", 15 * MIB), ("c", 3 * MIB // 2), ("d", 1)]
    result = run(*events, options=EXPANDABLE)
    assert device(result) == [("map", 40), ("map", 20), ("map", 2)]
    assert addresses(result)[:3] == [0, 30 * MIB, 45 * MIB]
    assert allocated(result)[-1] == 30 * MIB + 15 * MIB + 3 * MIB // 2 + 512
    assert result.segments == 2  # ranges of addresses: one of small, one of large blocks


def test_expandable_blocks_split_from_512_bytes_on() -> None:
    # 20 MiB - 512: what is left of the page goes on being used; 2 MiB need a page more.
    result = run(("a", 20 * MIB - 512), ("b", 2 * MIB), options=EXPANDABLE)
    assert device(result) == [("map", 20), ("map", 20)]
    assert addresses(result)[1] == 20 * MIB - 512


def test_an_expandable_block_counts_with_what_it_can_grow_by() -> None:
    # a 10, b 10 fill a page; c 10, d 4 and 6 idle MiB, which can grow, the next. a is freed: idle
    # are 10 (a) and 6. For 5 MiB the 6 are smaller, but reach to the end of the addresses: a's 10
    # are taken.
    events = [("a", 10 * MIB), ("b", 10 * MIB), ("c", 10 * MIB), ("d", 4 * MIB), "a"]
    result = run(*events, ("e", 5 * MIB), options=EXPANDABLE)
    assert addresses(result)[-1] == 0


def test_expandable_pages_go_back_when_memory_runs_out() -> None:
    # 60 MiB device: 3 large pages. a 30, b 10, c 10; a and c go. Idle: 0 to 30 and 40 to 60. The
    # small request finds no memory: the pages that are idle from end to end are unmapped, the first
    # and the third; b holds half of the second. 2 MiB are mapped. d's 12 MiB find 10 idle, from 20
    # to 30; 60 - 20 - 2 = 38 are left, and one page is mapped at 0, the lowest place with room.
    events = [("a", 30 * MIB), ("b", 10 * MIB), ("c", 10 * MIB), "a", "c", ("s", 1)]
    result = run(*events, ("d", 12 * MIB), options=EXPANDABLE, capacity=60 * MIB)
    assert device(result) == [
        *(("map", 40), ("map", 20), ("unmap", 20), ("unmap", 20), ("map", 2), ("map", 20)),
    ]
    assert (addresses(result)[-1], result.retries) == (0, 1)


def test_planned_is_the_plan_and_what_has_no_place_in_it() -> None:
    trace = trace_of(("a", 3 * MIB), ("b", 2 * MIB), "a", ("c", 3 * MIB), "b", "c")
    plan = memory.plan(trace, time_limit=None, work_limit=10_000)
    assert plan.size == 5 * MIB
    result = memory.simulate(trace, policy="planned", plan=plan)
    # The arena is 5 MiB, in pages of 2 MiB: 6.
    assert (result.reserved_peak, result.in_plan, result.conflicts) == (6 * MIB, 3, 0)
    assert result.allocated_peak == 5 * MIB
    assert result.fragmentation == pytest.approx(1 / 6)
    assert result.worst == (0, 0, 0)  # no request took more

    # Another trace: x is new, of 12 MiB, and goes to the caching allocator.
    other = trace_of(
        ("a", 3 * MIB), ("x", 12 * MIB), ("b", 2 * MIB), "a", ("c", 3 * MIB), "b", "c", "x"
    )
    result = memory.simulate(other, policy="planned", plan=plan)
    assert (result.reserved_peak, result.in_plan, result.conflicts) == (18 * MIB, 3, 0)
    assert result.worst == (1, 18 * MIB, 15 * MIB)  # a's 3 and x's 12
    # In a third a lives longer, when c comes: c's place is taken, and a segment of 20 MiB is.
    late = trace_of(("a", 3 * MIB), ("b", 2 * MIB), ("c", 3 * MIB), "a", "b", "c")
    result = memory.simulate(late, policy="planned", plan=plan)
    assert (result.reserved_peak, result.in_plan, result.conflicts) == (26 * MIB, 2, 1)
    assert result.unmatched == 0


def test_a_plan_that_matches_nothing_says_so() -> None:
    steps = memory.synthetic.training(2, steps=3)
    last = np.array([steps.phases[phase].endswith(" 2") for phase in steps.phase])
    plan = memory.plan(steps.take(~last), time_limit=None, work_limit=10_000)
    with pytest.warns(RuntimeWarning, match=rf"plan matches none of the trace's {last.sum()} "):
        result = memory.simulate(steps.take(last), policy="planned", plan=plan)
    assert (result.unmatched, result.in_plan) == (last.sum(), 0)
    result = memory.simulate(steps, policy="planned", plan=plan)  # earlier steps match
    assert (result.unmatched, result.in_plan) == (last.sum(), (~last).sum())


def test_plans_that_cannot_serve_are_refused() -> None:
    trace = trace_of(("a", 3 * MIB))
    plan = memory.plan(trace, time_limit=None, work_limit=1000)
    with pytest.raises(ValueError, match="plan is None: must be given for policy 'planned'"):
        memory.simulate(trace, policy="planned")
    with pytest.raises(ValueError, match="only for it"):
        memory.simulate(trace, plan=plan)
    with pytest.raises(ValueError, match="the device allows 2097152, which is 2097152 less"):
        memory.simulate(trace, policy="planned", plan=plan, capacity=2 * MIB)
    alone = Plan(plan.offsets, plan.arenas, plan.trace_digest)
    with pytest.raises(ValueError, match="the plan must have its trace"):
        memory.simulate(trace_of(("a", 4 * MIB)), policy="planned", plan=alone)


def test_peaks_and_the_worst_moment() -> None:
    # 20 MiB reserved for 2: 18 unused. Then 9, 9 fill it. 12 more are taken when only the 2 and 9
    # of the 20 are held: unused 9, in the first moment 18.
    result = run(("a", 2 * MIB), ("b", 9 * MIB), ("c", 9 * MIB), "c", ("d", 12 * MIB))
    assert result.worst == (0, 20 * MIB, 2 * MIB)
    assert result.worst.fragmentation == pytest.approx(0.9)
    assert result.at_peak == (4, 32 * MIB, 23 * MIB)
    assert result.fragmentation == pytest.approx(1 - 23 / 32)
    times, reserved, held = result.timeline
    assert (times[0], times[-1]) == (0, 5)  # what is never freed is held to the end
    assert (reserved.max(), held.max()) == (32 * MIB, 23 * MIB)
    with pytest.raises(ValueError, match="log is None"):
        _ = memory.simulate(trace_of(("a", 1))).timeline


def test_best_options_reserve_least() -> None:
    trace = trace_of(*((f"r{i}", (i + 1) * 700 * KIB) for i in range(20)))
    best = memory.best_options(trace)
    reserved = memory.simulate(trace, policy="caching+options", options=best).reserved_peak
    assert reserved <= memory.simulate(trace).reserved_peak


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("max_split_size_mb:19", "max_split_size_mb is 19: must be at least 20"),
        ("max_splits:30", "'max_splits' is no option"),
        ("max_split_size_mb=30", "cannot be read from"),
        ("max_split_size_mb:many", "must be a number"),
        ("roundup_power2_divisions:3", "must be 0 or a power of two"),
        ("roundup_power2_divisions:[3:4]", "an interval of 3: must be a power of two"),
        ("garbage_collection_threshold:0.8", "acts only under a per_process_memory_fraction"),
        ("garbage_collection_threshold:1.0,per_process_memory_fraction:1.0", "below 1"),
        ("per_process_memory_fraction:1.5", "at most 1"),
        ("backend:cudaMallocAsync", "backend: must be native"),
    ],
)
def test_options_that_cannot_be(options: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        run(("a", 1), options=options)


def test_options_as_text_and_back() -> None:
    text = "max_split_size_mb:64,roundup_power2_divisions:8,expandable_segments:True"
    options = AllocatorOptions.of(text)
    assert AllocatorOptions.of(str(options)) == options
    assert str(AllocatorOptions()) == ""
    listed = AllocatorOptions.of({"roundup_power2_divisions": {1: 8, 2: 4, ">": 2}})
    assert AllocatorOptions.of(str(listed)) == listed
    ignored = "backend:native,pinned_use_background_threads:True"
    assert AllocatorOptions.of(ignored) == AllocatorOptions()


def test_arguments_that_cannot_be() -> None:
    trace = trace_of(("a", 1))
    with pytest.raises(ValueError, match="policy is 'best': must be one of caching"):
        memory.simulate(trace, policy="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="capacity is 0"):
        memory.simulate(trace, capacity=0)
    with pytest.raises(ValueError, match="policy 'caching' has none"):
        memory.simulate(trace, options="max_split_size_mb:64")
    with pytest.raises(ValueError, match="needs some"):
        memory.simulate(trace, policy="caching+options")
    twins = Trace([1, 1], [0, 0], [1, 1], notes={FREE_REQUESTED: [[0, 1]]})
    with pytest.raises(ValueError, match="two have the same"):
        memory.simulate(twins)
    huge = Trace([1 << 61], [0], [1])
    with pytest.raises(ValueError, match="size of request 0 is"):
        memory.simulate(huge)
