"""``warploom topology`` and the pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from warploom import collectives as co
from warploom.cli import main


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--nodes 2x8 --intra 400 --inter 50 --seq 128k --heads 32/8"
    assert main(["topology", *words.split()]) == 0
    text = capsys.readouterr().out
    assert "2 nodes of 8, 400 GB/s each link inside a node, 50 GB/s each network card" in text
    assert "131072 tokens, 32 heads of 128 (8 for keys and values), causal, forward" in text
    assert "\npick: " in text
    assert "not direct, parts 1: a rank would hold 15.0 times" in text


def test_json_has_the_same_as_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    words = "topology --mesh 8 --intra 64 --latency 3 --seq 64k --heads 32 --tflops 300 --json"
    assert main(words.split()) == 0
    document = json.loads(capsys.readouterr().out)
    workload = co.Workload(65536, 32, 128, kv_heads=32, flops_per_s=3e14)
    topology = co.Topology.full_mesh(8, 64, latency_us=3)
    best = co.predictions(topology, workload)[0]
    assert document["pick"] == {"kind": best.kind, **best.options}
    assert document["schedules"][0]["seconds"] == best.seconds
    assert {row["kind"] for row in document["schedules"]} == set(co.KINDS) - {"hierarchical"}


@pytest.mark.parametrize(
    "shape", ["--ring 6", "--switch 6", "--bus 6", "--nodes 1x6 --wiring switch"]
)
def test_other_shapes(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"topology {shape} --intra 64 --backward".split()) == 0
    assert "forward and backward" in capsys.readouterr().out


def test_a_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "links.json").write_text("[[0, 9, 3], [9, 0, 9], [3, 9, 0]]")
    assert main(["topology", "--matrix", str(tmp_path / "links.json")]) == 0
    assert "matrix of 3, links of 3 to 9 GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mesh 8", "--intra is missing"),
        ("--nodes 2x8 --intra 400", "--inter is missing"),
        ("--mesh 1 --intra 4", "ranks is 1"),
        ("--mesh 4 --intra 4 --heads 5/2", "heads is 5"),
        ("--matrix absent.json", "absent.json"),
        ("--mesh 4 --intra 4 --tflops 0", "flops_per_s is 0"),
        ("--mesh 4 --intra 4 --inter 50", "--inter is of nodes"),
        ("--switch 4 --intra 4 --inter-latency 3", "--inter-latency is of nodes"),
        ("--matrix links.json --intra 4", "the matrix has the bandwidths"),
    ],
)
def test_wrong_words(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GB/s", "is not JSON"),
        ('{"a": 1}', "must hold a list of lists of numbers"),
        ("[[0, null], [10, 0]]", "must hold a list of lists of numbers"),
        ("[[5, 10], [10, 0]]", "the diagonal must be 0"),
        ("[[0, 10], [10]]", "must be square"),
    ],
)
def test_wrong_matrices(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "links.json"
    path.write_text(text)
    assert main(["topology", "--matrix", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("ranks", [2, 5, 20])
def test_pictures(ranks: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for kind in ("ring", "hamilton", "ulysses"):
        path = tmp_path / f"{kind}.png"
        co.schedule(co.Topology.full_mesh(ranks, 64), kind).plot(path)
        assert path.read_bytes()[:4] == b"\x89PNG"
    words = f"topology --nodes 2x{ranks // 2} --intra 64 --inter 8 --plot {tmp_path / 'pick.svg'}"
    assert main(words.split()) == 0
    assert "<svg" in (tmp_path / "pick.svg").read_text()


def test_a_picture_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(f"topology --mesh 4 --intra 4 --plot {tmp_path / 'pick.svg'}".split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warploom topology: ")
    assert "matplotlib" in line
