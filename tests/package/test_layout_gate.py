"""No kernel is offered on a device whose matrix instructions are not as the tables say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("WARPLOOM_TEST_BUILD", "build/cpu")

# The entry points of the emulator's library, with no kernel in it.
STUB = """
#include "base/backend.h"
namespace warploom::attention {
KernelTable gpu_table() { return {nullptr, 0}; }
}
namespace warploom::kv_cache {
KernelTable gpu_table() { return {nullptr, 0}; }
}
"""
ASK = """
import json, warploom
from warploom import _core
_core.emulate(True, 1)
reasons = {k.target: k.reason for k in warploom.list_kernels() if k.device != "cpu"}
print(json.dumps(reasons))
"""
# What stands in machine.h and what a device that differs would make of it.
TABLES = {
    "none": ("", "", set()),
    "b at 32 lanes": (
        "return {(lane & 3) * 2 + (e & 1) + ((e >> 1) & 1) * 8, (lane >> 2) + (e >> 2) * 8};",
        "return {(lane & 3) * 2 + (e & 1) + (e >> 2) * 8, (lane >> 2) + ((e >> 1) & 1) * 8};",
        {"sm_80"},
    ),
    "b at 64 lanes": (
        "return {(lane >> 4) * 4 + e, lane & 15};",
        "return {(lane >> 4) + e * 4, lane & 15};",
        {"gfx90a"},
    ),
    "rows at 64 lanes": (
        "static constexpr int row_mask_low = 16, row_mask_high = 32;",
        "static constexpr int row_mask_low = 16, row_mask_high = 16;",
        {"gfx90a"},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_wrong_tables_refuse_the_device(tmp_path: Path, name: str) -> None:
    old, new, refused = TABLES[name]
    text = (ROOT / "csrc/simt/machine.h").read_text()
    if old:
        assert text.count(old) == 1
    (tmp_path / "simt").mkdir()
    (tmp_path / "simt/machine.h").write_text(text.replace(old, new) if old else text)
    (tmp_path / "stub.cc").write_text(STUB)
    sources = [
        tmp_path / "stub.cc",
        ROOT / "csrc/backends/emulator.cc",
        BUILD / "generated/backends/layout_gate_emulator.cc",
    ]
    include = (tmp_path, ROOT / "csrc", ROOT / "include", BUILD / "generated")
    library = tmp_path / "libwarploom_emulator.so"
    done = subprocess.run(
        ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
         *(f"-I{folder}" for folder in include), *map(str, sources),
         str(BUILD / "csrc/simt/libsimt_emulator.a"), f"-L{BUILD / 'lib'}", "-lwarploom",
         "-o", str(library)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "WARPLOOM_LIBRARY_PATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    reasons = json.loads(asked.stdout)
    assert {target for target, reason in reasons.items() if reason} == refused, reasons
    assert all("layout" in reasons[target] for target in refused), reasons
