"""``pip install`` of a source archive into an empty environment, and what a C user finds there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import warploom

ROOT = Path(__file__).parents[2]
CMAKE = """\
cmake_minimum_required(VERSION 3.24)
project(user LANGUAGES C)
find_package(warploom {version} REQUIRED)
add_executable(program {source})
target_link_libraries(program PRIVATE warploom::warploom)
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command], capture_output=True, text=True, timeout=1500, **options
    )


def succeed(*command: object, **options: object) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but what pip brought from the archive. No GPU backend: their
    compilers may or may not be here, and every kernel is compiled elsewhere in CI."""
    folder = tmp_path_factory.mktemp("install")
    succeed(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    (archive,) = folder.glob("warploom-*.tar.gz")
    venv.create(folder / "env", with_pip=True)
    settings = [f"--config-settings=cmake.define.WARPLOOM_{name}=off" for name in ("CUDA", "HIP")]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    succeed(folder / "env/bin/python", "-m", "pip", "install", *settings, archive, env=clean)
    return folder / "env"


def package_folder(environment: Path) -> Path:
    code = "import warploom, pathlib; print(pathlib.Path(warploom.__file__).parent)"
    folder = Path(succeed(environment / "bin/python", "-c", code, cwd=environment).strip())
    assert folder.is_relative_to(environment), "the test must not import the working tree"
    return folder


@pytest.mark.slow
def test_the_package_works_without_torch(installed: Path) -> None:
    report = json.loads(succeed(installed / "bin/warploom", "doctor", "--json", cwd=installed))
    assert report["version"] == warploom.__version__
    assert report["packages"]["torch"]["state"] == "absent"
    assert report["backends"]["emulator"]["state"] == "absent"
    assert report["problems"] == []
    call = "import numpy, warploom as wl; x = numpy.zeros((1, 2, 1, 8)); wl.attention(x, x, x)"
    refused = run(installed / "bin/python", "-c", call, cwd=installed)
    assert refused.returncode != 0
    assert "torch" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_package_computes(installed: Path) -> None:
    """With the tests' own torch lent to the empty environment."""
    package_folder(installed)
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    call = (
        "import torch, warploom as wl; torch.manual_seed(0); q, k, v = torch.randn(3, 1, 9, 2, 16);"
        "want = torch.nn.functional.scaled_dot_product_attention("
        "*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2);"
        "print((wl.attention(q, k, v) - want).abs().max().item())"
    )
    lent = os.environ | {"PYTHONPATH": str(Path(spec.origin).parents[1])}
    error = float(succeed(installed / "bin/python", "-c", call, env=lent, cwd=installed))
    assert error < 1e-5


@pytest.mark.slow
def test_a_c_program_finds_and_uses_the_library(installed: Path, tmp_path: Path) -> None:
    source = Path(__file__).with_name("program.c")
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.format(version="0.1", source=source))
    prefix = f"-DCMAKE_PREFIX_PATH={package_folder(installed)}"
    succeed("cmake", "-S", tmp_path, "-B", tmp_path / "build", prefix)
    succeed("cmake", "--build", tmp_path / "build")
    # Equal scores: the mean of (1, 2) and (3, 6), and lse = 1 + log 2.
    printed = succeed(tmp_path / "build/program")
    assert printed.split() == [warploom.__version__, "2.0000", "4.0000", "1.6931"]


@pytest.mark.slow
def test_a_later_version_is_not_found(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.format(version="99.0", source="none.c"))
    prefix = f"-DCMAKE_PREFIX_PATH={package_folder(installed)}"
    refused = run("cmake", "-S", tmp_path, "-B", tmp_path / "build", prefix)
    assert refused.returncode != 0
    assert "99.0" in refused.stderr


@pytest.mark.parametrize("header", sorted((ROOT / "include/warploom").glob("*.h")), ids=str)
def test_headers_are_plain_c(header: Path, tmp_path: Path) -> None:
    """Each stands alone, in strict C99 as in C++."""
    unit = tmp_path / "unit.c"
    unit.write_text(f'#include "warploom/{header.name}"\n')
    for language in ("-xc", "-std=c99"), ("-xc++", "-std=c++20"):
        succeed(
            "g++" if language[0] == "-xc++" else "gcc",
            *(*language, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"),
            *("-I", ROOT / "include", unit),
        )
