"""Hosts as network namespaces: exchanges between them, a fault, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.rehearsal import __main__ as program
from perf.rehearsal import faults, net
from perf.rehearsal.cases import bench, links_of
from warploom.distributed import RankLostError, RankStalledError
from warploom.distributed.failure import Failure
from warploom.perf.exchanges import Gather, gather
from warploom.perf.ranks import Outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine() -> Iterator[None]:
    try:
        net.check_machine()
    except net.CannotBuildError as error:
        pytest.skip(f"the rehearsal {error}")
    yield
    assert made_by(os.getpid()) == []


@pytest.mark.slow
def test_bytes_arrive_over_the_links_alone(machine: None) -> None:
    plan = net.Mesh(3, 50.0)
    with bench(plan, rows=32) as up:
        for kind in ("ring", "direct"):
            up.check(up.what(kind))
        sent = {link: bytes_sent(up.net, *link) for link in [(0, 1), (1, 0), (0, 2)]}
        up.ranks.run(gather, up.what("ring"))
        moved = {link: bytes_sent(up.net, *link) - old for link, old in sent.items()}
    chunk = Gather(links_of(plan), "ring", 32, 1024).bytes_per_rank
    assert moved[0, 1] > 2 * chunk  # two rounds go round the ring's own way
    assert moved[1, 0] < chunk / 2
    assert moved[0, 2] < chunk / 2


def bytes_sent(up: net.Net, source: int, target: int) -> int:
    path = f"/sys/class/net/to{target}/statistics/tx_bytes"
    return int(net.run([*up.command(source), "cat", path]))


@pytest.mark.slow
def test_cards_of_two_nodes(machine: None) -> None:
    with bench(net.Nodes(2, 2, 100.0, 50.0), rows=16) as up:
        for kind in ("direct", "hierarchical"):
            up.check(up.what(kind))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["process killed", "link cut"])
def test_a_fault_is_named_by_all_survivors(name: str, machine: None) -> None:
    (fault,) = (fault for fault in faults.FAULTS if fault.name == name)
    trial = faults.strike(fault, "ring", 0.4)
    assert trial.wrong() == []
    assert len(trial.raised) == len(fault.survivors)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(number: signal.Signals, machine: None) -> None:
    command = [sys.executable, "-m", "perf.rehearsal", "--quick", "--cases", "mesh_ring"]
    path = os.pathsep.join([str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60.0
    while not made_by(process.pid) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30.0) != 0
    if number == signal.SIGKILL:
        assert set(made_by(process.pid)) <= set(net.clean())
    assert made_by(process.pid) == []


def made_by(process: int) -> list[str]:
    return [name for name in net.namespaces() if name.startswith(f"{net.PREFIX}{process}-")]


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert program.main(["--faults"]) == 2
    assert "needs root" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(net.shutil, "which", lambda tool: None)
    assert program.main([]) == 2
    assert "needs iproute2: ip is not found" in capsys.readouterr().err


def test_cases_are_listed_and_selected(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list", "--cases", "nodes_*"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "nodes_ring", "nodes_direct", "nodes_hierarchical", "nodes_attention_hierarchical",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="fits no case"):
        program.main(["--list", "--cases", "nothing"])


def test_what_is_wrong_with_a_fault_is_told() -> None:
    killed = faults.FAULTS[0]
    lost = RankLostError(Failure("lost", faults.HIT, "is gone", 0))
    right = [Outcome(rank, error=lost, seconds=1.0) for rank in killed.survivors]
    assert faults.Trial(killed, "ring", 0.5, right, [True] * 3).wrong() == []
    slow = [*right[:2], Outcome(3, error=lost, seconds=60.0)]
    other = [*right[:2], Outcome(3, error=ValueError("x"), seconds=1.0)]
    misnamed = RankLostError(Failure("lost", 0, "is gone", 0))
    wrong = [*right[:2], Outcome(3, error=misnamed, seconds=1.0)]
    nobody = [Outcome(rank, seconds=1.0) for rank in killed.survivors]
    for survivors, closed in (
        (slow, True),
        (other, True),
        (wrong, True),
        (nobody, True),
        (right, False),
    ):
        assert faults.Trial(killed, "ring", 0.5, survivors, [closed] * 3).wrong()


def test_whom_the_struck_rank_may_name() -> None:
    """Cut off from all, it cannot blame itself; at a cut link's end it may hear that others do."""
    at = {fault.name: fault for fault in faults.FAULTS}
    for name, itself in (("host unplugged", False), ("link cut", True)):
        for named in (faults.HIT, faults.HIT - 1):
            error = RankStalledError(Failure("stalled", named, "does not answer", 0))
            outcome = Outcome(faults.HIT, error=error, seconds=3.0)
            assert at[name].right(outcome) == (itself or named != faults.HIT)
