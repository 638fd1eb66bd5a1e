"""The kernels that the emulator runs also compile for devices, where their compilers are found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("compiler", "target"), [("nvcc", "simt_cuda_check"), ("hipcc", "simt_hip_check")]
)
def test_test_kernels_compile_for_a_device(simt_build: Path, compiler: str, target: str) -> None:
    """sm_80 and sm_90a by nvcc, gfx90a by hipcc; warnings are errors."""
    if shutil.which(compiler) is None and not Path(f"/usr/local/cuda/bin/{compiler}").exists():
        pytest.skip(f"no {compiler} on this machine")
    done = subprocess.run(
        ["cmake", "--build", str(simt_build.parents[1]), "--target", target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
