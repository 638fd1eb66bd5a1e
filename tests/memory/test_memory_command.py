"""``warploom memory``, from a script to a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warploom import memory
from warploom.cli import main
from warploom.memory import synthetic

SCRIPT = """
import sys, numpy, torch
data = torch.from_numpy(numpy.ones((8, 64), numpy.float32))  # a real tensor
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=float(sys.argv[1]))
for step in range(100):
    loss = model(data).sum()
    loss.backward()
    print("loss", loss.item())
    optimizer.step()
    optimizer.zero_grad()
print("never reached")
"""


def test_from_a_script_to_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    script, trace = tmp_path / "train.py", tmp_path / "run.trace"
    plan, image = tmp_path / "run.plan", tmp_path / "run.png"
    script.write_text(SCRIPT)
    words = ["memory", "record", str(script), "--out", str(trace), "--steps", "4"]
    with pytest.warns(RuntimeWarning, match="fake tensors have none, 0 is given"):
        assert main([*words, "--args", "0.1"]) == 0
    shown = capsys.readouterr().out
    assert "requests" in shown
    assert "never reached" not in shown
    assert shown.count("loss 0.0") == 4
    assert len(memory.load(trace).notes["step_times"]) == 4
    assert main(["memory", "plan", str(trace), "--out", str(plan)]) == 0
    shown = capsys.readouterr().out
    assert "proven the smallest; valid" in shown
    assert "held at the peak, most by:" in shown
    memory.Plan.load(plan, memory.load(trace)).validate()
    pytest.importorskip("matplotlib")
    assert main(["memory", "view", str(plan), str(trace), "--out", str(image)]) == 0
    assert image.read_bytes()[:4] == b"\x89PNG"


def test_csv_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "some.csv", tmp_path / "planned.csv"
    path.write_text("id,lower,upper,size\na,0,4,5\nb,2,6,3\nc,4,8,5\n")
    assert main(["memory", "plan", str(path), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["size"], document["peak"], document["gap"]) == (8, 8, 0)
    header, *rows = (line.split(",") for line in out.read_text().splitlines())
    assert header == ["id", "lower", "upper", "size", "offset"]
    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert rows[0][4] == rows[2][4]


def test_capacity_decides_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.trace"
    memory.save(synthetic.training(3), path)
    need = synthetic.training(3).peak
    assert main(["memory", "plan", str(path), "--capacity", "1T"]) == 0
    assert main(["memory", "plan", str(path), "--capacity", "1K"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warploom memory: capacity is 1024 bytes: the maximum load is ")
    assert f"{need - 1024} more" in line


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.trace")
    assert main(["memory", "record", str(tmp_path / "no.py"), "--out", out]) == 2
    assert "no.py: there is no such script" in capsys.readouterr().err
    assert main(["memory", "plan", str(tmp_path / "no.trace")]) == 2
    other = tmp_path / "other.trace"
    other.write_bytes(b"something else")
    assert main(["memory", "plan", str(other)]) == 2
    assert "is not a trace of warploom" in capsys.readouterr().err


def test_what_other_devices_hold_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    script, trace = tmp_path / "some.py", tmp_path / "run.trace"
    script.write_text("import torch\na, b = (torch.ones(256, device=d) for d in ('cpu', 'cuda'))\n")
    words = ["memory", "record", str(script), "--out", str(trace)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "1 requests on cuda:0, " in shown.out
    assert "left out: 1 requests on cpu, " in shown.err
    assert memory.load(trace).notes["device"] == "cuda:0"
    assert main([*words, "--device", "cpu"]) == 0
    assert memory.load(trace).notes["left_out"] == {"cuda:0": {"requests": 1, "bytes": 1024}}
    assert main([*words, "--device", "cuda:7"]) == 2
    assert "device is 'cuda:7': tensors were on cpu, cuda:0 only" in capsys.readouterr().err
    known = ["memory", "record", "--model", "gpt2-345m", "--device", "cpu", "--out", str(trace)]
    assert main(known) == 2
    assert "--device cpu: must be left out" in capsys.readouterr().err
