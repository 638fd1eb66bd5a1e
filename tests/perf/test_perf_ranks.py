"""Processes that are told what to do, and the exchanges that they measure."""

import os
import signal
import time

import pytest

pytest.importorskip("torch")

import torch

from warploom.perf import exchanges, ranks

MESH = exchanges.Links("full_mesh", (2, 1.0))


def place(world, *arguments):
    return world.rank, world.size, arguments


def fail_on_one(world):
    if world.rank == 1:
        raise KeyError("planted")


def end_on_one(world):
    if world.rank == 1:
        os._exit(3)


def sleep_on_one(world):
    time.sleep(60.0 * world.rank)


def test_ranks_answer_again_and_again():
    with ranks.Ranks(2) as two:
        assert two.run(place, "a", 1) == [(0, 2, ("a", 1)), (1, 2, ("a", 1))]
        with pytest.raises(ranks.RankFailedError, match="rank 1: KeyError: 'planted'"):
            two.run(fail_on_one)
        what = exchanges.Gather(MESH, "direct", rows=5, width=8)
        spans = two.run(exchanges.gather, what, True)
        assert exchanges.makespan(spans) > 0
        assert exchanges.makespan(two.run(exchanges.gather_by_gloo, what)) > 0
        two.post(sleep_on_one)
        said, silent = two.collect([0, 1], 0.5)
        assert said.error is None
        assert isinstance(silent.error, TimeoutError)
        two.signal(1, signal.SIGKILL)
        assert two.collect([1], 10.0)[0].ended
        assert two.leave([0]) == [True]


def test_a_rank_that_ends_is_reported():
    with (
        pytest.raises(ranks.RankFailedError, match="rank 1: ended"),
        ranks.Ranks(2) as two,
    ):
        two.run(end_on_one)


def test_other_bytes_are_found():
    (spec,) = {exchanges.Spec((3, 4), torch.bfloat16)}
    right = exchanges.content(7, (spec, spec))
    assert not torch.equal(right[0], right[1])
    exchanges._must_equal(0, 7, right, exchanges.content(7, (spec, spec)))
    wrong = [right[0], right[1].clone()]
    wrong[1].view(torch.uint8)[2, 5] ^= 1
    with pytest.raises(ValueError, match="tensor 1 of chunk 7 came to rank 0 with other bytes"):
        exchanges._must_equal(0, 7, wrong, right)


def test_chunks_of_uneven_rows():
    what = exchanges.Gather(exchanges.Links("full_mesh", (4, 1.0)), "direct", rows=8, width=2)
    layout = exchanges.layout_of(what, what.schedule())
    assert [layout[chunk][0].shape[0] for chunk in range(3)] == [2, 3, 3]
    assert len(layout) == 12
    assert what.bytes_per_rank == 2 * 8 * 2 * 2
