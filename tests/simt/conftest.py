"""Builds the C++ test programs of the kernel language once per test session."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def simt_build() -> Path:
    """Folder of the test programs: of the finished build WARPLOOM_TEST_BUILD, else built here."""
    if finished := os.environ.get("WARPLOOM_TEST_BUILD"):
        return ROOT / finished / "tests" / "simt"
    build = ROOT / "build-tests"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build)]
    if not (build / "CMakeCache.txt").exists() and shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    configure += ["-DWARPLOOM_PYTHON=OFF", "-DWARPLOOM_BUILD_TESTS=ON", "-DWARPLOOM_EMULATOR=ON"]
    compile_ = ["cmake", "--build", str(build), "--target", "simt_tests", "--parallel", "2"]
    for command in (configure, compile_):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return build / "tests" / "simt"
