"""What leaves the shared objects: the committed list, and nothing that another build could use.

An inline function compiled for AVX-512 that was visible could be picked by the linker for every
target, and crash older processors.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import warploom

from .sources import ROOT, text, tracked

LIBRARIES = Path(warploom._core.__file__).parent / "lib"
BACKENDS = sorted(LIBRARIES.glob("libwarploom_*.so"))
CORE = next(LIBRARIES.glob("libwarploom.so.*"))
# The linker's own hooks, weak and undefined in every shared object.
TOOLCHAIN = {
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__gmon_start__",
    "__cxa_finalize",
    "__pthread_key_create",
}


def symbols(library: Path) -> list[tuple[str, str]]:
    """(type letter as nm prints it, name without its version) of every dynamic symbol."""
    listing = subprocess.run(["nm", "-D", str(library)], check=True, capture_output=True, text=True)
    found = [line.split()[-2:] for line in listing.stdout.splitlines()]
    return [(kind, name.split("@")[0]) for kind, name in found]


def defined(library: Path) -> set[str]:
    return {name for kind, name in symbols(library) if kind not in "Uw"}


def test_the_core_exports_the_committed_list() -> None:
    listed = text(Path("tests/architecture/exported_symbols.txt")).splitlines()
    assert sorted(defined(CORE)) == [line for line in listed if not line.startswith("#")]


def test_every_declared_function_is_exported_and_the_other_way_round() -> None:
    headers = "".join(text(p) for p in tracked() if p.parts[:2] == ("include", "warploom"))
    declared = set(re.findall(r"WL_API[^;(]*?\b(wl_\w+)\(", headers))
    assert declared == {name for name in defined(CORE) if name.startswith("wl_")}


@pytest.mark.parametrize("library", BACKENDS, ids=lambda path: path.stem)
def test_a_backend_exports_its_table_alone(library: Path) -> None:
    assert defined(library) == {"warploom_backend"}


@pytest.mark.parametrize("library", [CORE, *BACKENDS], ids=lambda path: path.stem)
def test_no_weak_symbol_leaks(library: Path) -> None:
    weak = {name for kind, name in symbols(library) if kind in "wWvVu"}
    assert weak - TOOLCHAIN == set()


@pytest.mark.parametrize("library", [CORE, *BACKENDS], ids=lambda path: path.stem)
def test_libraries_are_found_beside_each_other(library: Path) -> None:
    """No path of the machine that built them is left in them."""
    content = library.read_bytes()
    dynamic = subprocess.run(
        ["readelf", "-d", str(library)], check=True, capture_output=True, text=True
    ).stdout
    assert re.findall(r"R(?:UN)?PATH.*\[(.*)\]", dynamic) == ["$ORIGIN"]
    assert str(ROOT).encode() not in content


def test_the_core_has_a_versioned_name() -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", str(CORE)], check=True, capture_output=True, text=True
    ).stdout
    abi = re.search(r"WL_ABI_VERSION (\d+)", text(Path("include/warploom/base.h")))
    assert abi
    assert f"[libwarploom.so.{abi.group(1)}]" in dynamic
    assert CORE.name == f"libwarploom.so.{abi.group(1)}"
