"""``warploom doctor``: what it says, and that broken installations do not pass for missing ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import warploom

LIBRARIES = Path(warploom._core.__file__).parent / "lib"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def doctor(**environment: str) -> tuple[int, dict]:
    done = run("-m", "warploom", "doctor", "--json", **environment)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_working_installation() -> None:
    code, report = doctor()
    assert code == 0
    assert report["problems"] == []
    assert report["version"] == warploom.__version__
    assert report["processor"]["target"] in {
        target["name"] for target in report["targets"] if target["available"]
    }
    assert report["packages"]["torch"]["state"] == "ready"
    assert Path(report["cmake_package"], "warploomConfig.cmake").exists()


def test_what_is_absent_comes_with_how_to_get_it() -> None:
    _, report = doctor(PATH="/nonexistent")
    parts = [*report["backends"].values(), *report["packages"].values(), *report["tools"].values()]
    assert {report["tools"][tool]["state"] for tool in ("nvcc", "cmake")} == {"absent"}
    assert all(part["fix"] for part in parts if part["state"] != "ready")


def test_the_text_names_the_same_parts() -> None:
    done = run("-m", "warploom", "doctor")
    assert done.returncode == 0
    _, report = doctor()
    for section in ("backends", "packages", "tools"):
        assert all(name in done.stdout for name in report[section])


def test_a_forced_target_that_does_not_exist_is_a_problem() -> None:
    code, report = doctor(WARPLOOM_CPU="abacus")
    assert code == 1
    assert "WARPLOOM_CPU is abacus: must be" in report["problems"][0]
    assert report["environment"]["WARPLOOM_CPU"] == "abacus"


def test_what_is_needed_and_absent_is_a_failure(tmp_path: Path) -> None:
    for library in LIBRARIES.glob("libwarploom_cpu_*.so"):
        shutil.copy(library, tmp_path)
    done = run("-m", "warploom", "doctor", "--need", "cuda", WARPLOOM_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "cuda is needed: not built" in done.stdout


def test_a_backend_of_another_build_is_a_problem(tmp_path: Path) -> None:
    """A stale library must be refused: its table of functions is in another order."""
    for library in LIBRARIES.glob("libwarploom_*.so"):
        content = library.read_bytes()
        if library.name == "libwarploom_emulator.so":
            fingerprint = next(
                line
                for line in _strings(content)
                if len(line) == 16 and all(c in b"0123456789abcdef" for c in line)
            )
            content = content.replace(fingerprint, b"0123456789abcdef")
        (tmp_path / library.name).write_bytes(content)
    code, report = doctor(WARPLOOM_LIBRARY_PATH=str(tmp_path))
    assert code == 1
    assert report["backends"]["emulator"]["state"] == "broken"
    assert "belongs to another build" in report["problems"][0]


def test_a_damaged_library_is_a_problem(tmp_path: Path) -> None:
    for library in LIBRARIES.glob("libwarploom_*.so"):
        shutil.copy(library, tmp_path)
    (tmp_path / "libwarploom_cpu_baseline.so").write_bytes(b"not a library")
    code, report = doctor(WARPLOOM_LIBRARY_PATH=str(tmp_path))
    assert code == 1
    assert any(problem.startswith("cpu_baseline: ") for problem in report["problems"])


def test_without_torch() -> None:
    """Planning and the doctor work; only the ops need torch."""
    blocked = (
        "import sys; sys.modules['torch'] = None; import warploom as wl; "
        "print(wl.explain('attention', dtype='bfloat16', head_dim=64).kernel); "
        "from warploom.cli import main; sys.exit(main(['doctor']))"
    )
    done = run("-c", blocked)
    assert "attention_prefill_bf16" in done.stdout, done.stderr
    assert "torch" in done.stdout


def test_the_log_names_the_kernel_of_each_call() -> None:
    call = "import warploom as wl, torch; q = torch.zeros(1, 2, 1, 8); wl.attention(q, q, q)"
    chosen = warploom.explain("attention", dtype="float32", head_dim=8).kernel
    logged = run("-c", call, WARPLOOM_LOG="1")
    assert logged.returncode == 0, logged.stderr
    assert f"warploom: {chosen} for attention prefill of float32 on cpu" in logged.stderr
    assert "warploom:" not in run("-c", call, WARPLOOM_LOG="0").stderr


def _strings(content: bytes) -> list[bytes]:
    return content.split(b"\0")
