"""A CUDA kernel that spills registers fails the checked build; those for head dim 256 may."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import warploom

ROOT = Path(__file__).parents[2]
# Keeps VALUES floats per thread alive across a barrier; 256 threads leave 255 registers each.
KERNEL = """\
__global__ void __launch_bounds__(256) hold(float* x, int n) {
  float held[VALUES];
#pragma unroll
  for (int i = 0; i < VALUES; ++i) held[i] = x[i * n + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < VALUES; ++i) x[i * n + threadIdx.x] = held[i] * held[(i * 7 + 3) % VALUES];
}
"""

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the checked build compiles each CUDA kernel with, by kernel."""
    build = tmp_path_factory.mktemp("spills")
    options = {"CUDA": "on", "HIP": "off", "WERROR": "ON", "PYTHON": "OFF", "EMULATOR": "OFF"}
    subprocess.run(
        ["cmake", "-S", ROOT, "-B", build, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
        + [f"-DWARPLOOM_{name}={value}" for name, value in options.items()],
        check=True,
        capture_output=True,
    )
    commands = (build / "compile_commands.json").read_text()
    found = {}
    for command in re.findall(r'"command": "(.*)"', commands):
        if match := re.search(r"-c \S*/((?:attention|kv)_\w+)\.cu ", command):
            found[match[1]] = command.split()
    return found


@needs_nvcc
def test_every_kernel_of_those_sizes_is_checked(flags: dict[str, list[str]]) -> None:
    kernels = {k.name: k for k in warploom.list_kernels() if k.target.startswith("sm_")}
    assert flags.keys() == kernels.keys()
    for name in kernels:
        assert "-Xptxas=--warn-on-spills" in flags[name]
        checked = "-Xptxas=--warning-as-error" in flags[name]
        assert checked == ("_d256_" not in name), name


@needs_nvcc
@pytest.mark.parametrize(("values", "fails"), [(32, False), (512, True)])
def test_a_spilling_kernel_fails(
    flags: dict[str, list[str]], tmp_path: Path, values: int, fails: bool
) -> None:
    checked = next(f for f in flags.values() if "-Xptxas=--warning-as-error" in f)
    source = tmp_path / "hold.cu"
    source.write_text(KERNEL)
    ptxas = [flag for flag in checked if flag.startswith(("-Xptxas", "--generate-code", "-O"))]
    done = subprocess.run(
        ["nvcc", *ptxas, f"-DVALUES={values}", "-c", source, "-o", tmp_path / "hold.o"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == fails, done.stderr
    assert ("spilled" in done.stderr) == fails
