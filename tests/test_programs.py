"""Runs every C++ test program that the build registered with ctest, each as one test."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ROOT / os.environ.get("WARPLOOM_TEST_BUILD", "build/cpu")


def registered() -> dict[str, dict[str, Any]]:
    if not (BUILD / "CTestTestfile.cmake").exists():
        return {}
    listing = subprocess.run(
        ["ctest", "--test-dir", str(BUILD), "--show-only=json-v1"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {test["name"]: test for test in json.loads(listing.stdout)["tests"]}


PROGRAMS = registered()


def test_the_build_has_programs() -> None:
    assert PROGRAMS, f"no test programs in {BUILD}: run `make test`, or set WARPLOOM_TEST_BUILD"


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    test = PROGRAMS[name]
    properties = {entry["name"]: entry["value"] for entry in test.get("properties", [])}
    done = subprocess.run(
        test["command"],
        cwd=properties.get("WORKING_DIRECTORY"),
        capture_output=True,
        text=True,
        timeout=properties.get("TIMEOUT", 300),
    )
    if done.returncode == properties.get("SKIP_RETURN_CODE"):
        pytest.skip(f"{name}: {done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
