"""Runs each C++ case of the kernel language (tests/simt/test_*.cc) as one test.

The names come from the sources, so that a case which the build lost shows as a failure.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _cases() -> list[str]:
    names: list[str] = []
    for source in sorted(HERE.glob("test_*.cc")):
        text = source.read_text()
        names += re.findall(r"^SIMT_CASE\((\w+)\)", text, re.M)
        for name in re.findall(r"^FAULT\((\w+),", text, re.M):
            names += [f"{name}_is_found", f"{name}_without_the_bug_is_clean"]
        for prefix, name in re.findall(r"^(\w+)_FAULT\((\w+),", text, re.M):
            names.append(f"{prefix.lower()}_{name}_is_found")
    return names


@pytest.mark.parametrize("case", _cases())
def test_case(simt_build: Path, case: str) -> None:
    """One C++ case: 20 seeds at 32 and at 64 lanes where it launches kernels."""
    done = subprocess.run(
        [str(simt_build / "simt_tests"), case],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_built_case_is_run(simt_build: Path) -> None:
    """The list above and the program agree."""
    done = subprocess.run(
        [str(simt_build / "simt_tests")], capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == sorted(_cases())
