"""Ring attention between processes over gloo, and the training example."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.architecture.sources import ROOT
from tests.distributed.processes import run_processes
from warploom.mask import causal
from warploom.methods import tasp
from warploom.testing.cases import AttentionCase
from warploom.testing.compare import peer_bound, peer_distance

from .ranks import check, run, run_rank, same_bits

CASE = AttentionCase(b=2, sq=37, h=4, hk=2, d=16, dv=8, mask=causal())
CASES = (CASE, replace(CASE, dtype="bfloat16"), replace(CASE, lengths_q=(11, 1, 25)))
KINDS = ("ring", "hamilton", "direct", "ulysses")


def attend(world):
    torch.set_num_threads(1)
    results = [tuple(run_rank(world, case, kind)) for case in CASES for kind in KINDS]
    packed = io.BytesIO()  # a tensor in a pipe is a reference to its process, which ends
    torch.save(results, packed)
    return packed.getvalue()


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_get_the_bits_of_simulated_ranks(ranks):
    outcomes = run_processes(ranks, attend)
    assert [(outcome.error, outcome.exit_code) for outcome in outcomes] == [(None, 0)] * ranks
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = [run(case, ranks, kind) for case in CASES for kind in KINDS]
    torch.set_num_threads(threads)
    for outcome in outcomes:
        found = torch.load(io.BytesIO(outcome.result))
        assert all(map(same_bits, found, wanted))
    for case, results in zip((c for c in CASES for _ in KINDS), wanted, strict=True):
        check(case, results)


def compiled(world):
    """Whether a compiled function of whole rows gives the bits of the same without a compiler."""
    torch.set_num_threads(1)
    part = tasp.Sharding(21, world)
    x = torch.randn(1, 21, 2, 8, generator=torch.Generator().manual_seed(0))

    def f(rows):
        o = tasp.ring_attention(2 * rows, rows, rows, sharding=part, mask=causal(), schedule="ring")
        return part.unshard(o.sin()).cos()

    found = []
    for function in (f, torch.compile(f, backend="aot_eager")):
        rows = part.shard(x).requires_grad_()
        o = function(rows)
        o.sum().backward()
        found.append((o, rows.grad))
    return same_bits(*found)


def test_compilers_leave_it_alone():
    outcomes = run_processes(2, compiled, limit=90)
    assert [(outcome.error, outcome.result) for outcome in outcomes] == [(None, True)] * 2


EXAMPLE = "examples/train_sequence_parallel.py"


def train(world, schedule):
    torch.set_num_threads(1)
    example = runpy.run_path(str(ROOT / EXAMPLE))
    return example["train"](length=257, steps=4, schedule=schedule, device=torch.device("cpu"))


def test_the_training_example_loses_as_one_process_does():
    losses = []
    for ranks, schedule in ((1, "auto"), (4, "hamilton")):
        outcomes = run_processes(ranks, train, schedule, limit=90)
        assert [outcome.error for outcome in outcomes] == [None] * ranks
        assert all(outcome.result == outcomes[0].result for outcome in outcomes)
        losses.append(torch.tensor(outcomes[0].result))
    alone, together = losses
    assert alone[-1] < alone[0]
    assert peer_distance(together, alone) <= peer_bound(torch.float32)


@pytest.mark.slow
def test_the_training_example_runs_as_its_first_lines_say():
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    done = subprocess.run(
        [*words, EXAMPLE, "--length", "65", "--steps", "2"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["step", "0"], ["step", "1"]]
