"""The compiled simulator against the slow model: every event, address and sum of random traces."""

from __future__ import annotations

import numpy as np
import pytest

from warploom import memory
from warploom.memory import Trace
from warploom.memory.allocator_options import AllocatorOptions
from warploom.memory.simulator import ACTIONS, FREE_REQUESTED

from .slow_allocator import MIB, replay

OPTIONS = {
    "defaults": "",
    "expandable": "expandable_segments:True",
    "max_split": "max_split_size_mb:24",
    "max_split and rounding": "max_split_size_mb:20,max_non_split_rounding_mb:30",
    "roundup": "roundup_power2_divisions:4",
    "roundup by interval": "roundup_power2_divisions:[1:8,4:2,16:1,>:0]",
    "collection": "garbage_collection_threshold:0.5,per_process_memory_fraction:1.0",
    "collection and max_split": "garbage_collection_threshold:0.3,max_split_size_mb:20,"
    "per_process_memory_fraction:0.9",
    "fraction, expandable": "expandable_segments:True,per_process_memory_fraction:0.8",
}


def random_trace(seed: int, requests: int = 240) -> Trace:
    """Sizes around all thresholds, some streams and pools, some frees that other streams delay."""
    generator = np.random.default_rng(seed)
    alloc = np.arange(requests) * 10
    life = generator.geometric(0.03, requests) * 10 - generator.integers(0, 9, requests)
    edges = np.array([0, 1, 512, 513, MIB, MIB + 1, 2 * MIB, 10 * MIB - 512, 10 * MIB, 24 * MIB])
    near = generator.choice(edges, requests) + generator.integers(-1, 2, requests) * 512
    wide = np.exp(generator.uniform(np.log(100), np.log(60 * MIB), requests)).astype(np.int64)
    size = np.maximum(np.where(generator.random(requests) < 0.3, near, wide), 0)
    free = alloc + np.maximum(life, 1)
    waits = generator.random(requests) < 0.2
    earlier = alloc + 1 + (generator.random(requests) * (free - alloc - 1)).astype(np.int64)
    pairs = np.stack([alloc, earlier], 1)[waits & (free > alloc + 1)]
    return Trace(
        size,
        alloc,
        free,
        stream=generator.choice([0, 0, 0, 7, 9], requests),
        pool=generator.choice([0, 0, 0, 0, 1], requests),
        notes={FREE_REQUESTED: pairs.tolist()},
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_every_event_is_that_of_the_slow_model(name: str) -> None:
    options = AllocatorOptions.of(OPTIONS[name])
    seen: set[str] = set()
    for seed in range(6):
        trace = random_trace(seed)
        unlimited = memory.simulate(trace, policy="caching+options", options=options)
        for capacity in (None, 2000 * MIB, 3 * unlimited.allocated_peak // 2, 170 * MIB):
            if capacity is None and options.per_process_memory_fraction:
                continue
            empty_cache = [] if seed % 2 else [400, 401, 1000]
            result = memory.simulate(
                trace,
                policy="caching+options",
                options=options,
                capacity=capacity,
                empty_cache=empty_cache,
                log=True,
            )
            requested = trace.free.copy()
            for begin, time in trace.notes[FREE_REQUESTED]:
                requested[begin // 10] = time
            model, failed = replay(trace, options, capacity, requested.tolist(), empty_cache)
            fields = ["address", "size", "reserved", "allocated"]
            events = [
                (ACTIONS[event["action"]], *(int(event[name]) for name in fields))
                for event in result.log
            ]
            for number, (ours, theirs) in enumerate(zip(events, model.log, strict=False)):
                assert ours == theirs, f"event {number}"
            assert len(events) == len(model.log)
            assert result.oom_request == failed
            assert result.reserved_peak == max(event[3] for event in model.log)
            assert result.allocated_peak == max(event[4] for event in model.log)
            seen |= {event[0] for event in events}
    usual = {"alloc", "free_requested", "free_completed", "oom"}
    mapped = {"segment_map", "segment_unmap"}
    taken = mapped if options.expandable_segments else {"segment_alloc", "segment_free"}
    assert seen == usual | taken
