"""The one-way rule, read from the includes and imports themselves.

include <- csrc/base <- csrc/simt <- csrc/<family>, collectives <- csrc/backends, csrc/bindings
<- warploom.ops, reference, testing, kv_cache, collectives, memory <- distributed <- methods,
integrations
<- cli, perf
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .sources import ROOT, compiled, text, tracked

# Folders of csrc that are not families, with their place; families, and collectives/ with them,
# stand between 2 and 4.
C_LAYERS = {"base": 1, "simt": 2, "backends": 4, "bindings": 4}
FAMILY = 3
GENERATED = {"base/fingerprint.h"}

PYTHON_LAYERS = {
    "_core": 0,
    "ops": 2,
    "reference": 2,
    "testing": 2,
    "kv_cache": 2,
    "collectives": 2,
    "memory": 2,
    "distributed": 3,
    "methods": 4,
    "integrations": 4,
    "perf": 5,
    "cli": 5,
}
SHARED = 1  # plain modules such as mask.py
ROOT_MODULE = 2  # warploom/__init__.py gathers the ops; what comes later may use it

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def c_layer(path: Path) -> int:
    if path.parts[0] == "include":
        return 0
    return FAMILY if path.parts[0] == "collectives" else C_LAYERS.get(path.parts[1], FAMILY)


def folder(path: Path) -> Path:
    """What is one family, or one layer's folder."""
    return Path(*path.parts[: 1 if path.parts[0] == "collectives" else 2])


def resolve(source: Path, name: str) -> Path | None:
    for root in (Path("include"), Path("csrc"), Path()):
        if (ROOT / root / name).is_file():
            return root / name
    return None


def c_violations(source: Path, content: str) -> list[str]:
    """What is wrong with one file's includes."""
    wrong = []
    for kind, name in INCLUDE.findall(content):
        if re.match(r"(torch|ATen|c10|caffe2)/", name):
            wrong.append(f"{source} includes {name}: torch stays in Python")
        if name.startswith("pybind11/") and source.parts[:2] != ("csrc", "bindings"):
            wrong.append(f"{source} includes {name}: only csrc/bindings may")
        if kind == "<" or name in GENERATED:
            continue
        target = resolve(source, name)
        if target is None:
            wrong.append(f"{source} includes {name}, which is none of ours")
        elif c_layer(target) > c_layer(source):
            wrong.append(f"{source} includes {target} of a later layer")
        elif c_layer(target) == c_layer(source) and folder(target) != folder(source):
            wrong.append(f"{source} includes {target} of a sibling folder")
    return wrong


def python_modules() -> list[Path]:
    return [p for p in tracked() if p.parts[:2] == ("python", "warploom") and p.suffix == ".py"]


def python_layer(module: str) -> int:
    """Layer of a dotted name below (or being) warploom."""
    parts = module.split(".")
    return PYTHON_LAYERS.get(parts[1], SHARED) if len(parts) > 1 else ROOT_MODULE


def imports(tree: ast.AST, top_level: bool = False) -> set[str]:
    """Dotted names that a module imports: all of them, or those that importing it runs."""
    names = set()
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "warploom":
                names |= {f"warploom.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
        deferred = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if not (top_level and deferred):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def python_violations(source: Path, content: str) -> list[str]:
    """What is wrong with one module's imports."""
    dotted = ".".join(source.with_suffix("").parts[1:]).removesuffix(".__init__")
    own = python_layer(dotted)
    if dotted == "warploom.__main__":
        own = PYTHON_LAYERS["cli"]
    wrong = []
    tree = ast.parse(content)
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
        wrong.append(f"{source}: write imports from warploom, not relative ones")
    for name in imports(tree):
        if name.split(".")[0] != "warploom":
            continue
        target = ROOT / "python" / Path(*name.split("."))
        is_module = target.is_dir() or target.with_suffix(".py").is_file()
        layer = python_layer(name) if is_module or name == "warploom._core" else ROOT_MODULE
        if layer > own:
            wrong.append(f"{source} imports {name} of a later layer")
    return wrong


@pytest.mark.parametrize("source", compiled(), ids=str)
def test_includes_point_one_way(source: Path) -> None:
    assert not c_violations(source, text(source))


@pytest.mark.parametrize("source", python_modules(), ids=str)
def test_imports_point_one_way(source: Path) -> None:
    assert not python_violations(source, text(source))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("csrc/base/x.cc", '#include "attention/kernels.h"'),
        ("csrc/splat/x.cc", '#include "attention/kernels.h"'),
        ("csrc/attention/x.cc", '#include "bindings/bindings.h"'),
        ("include/warploom/x.h", '#include "base/status.h"'),
        ("csrc/base/x.cc", "#include <torch/extension.h>"),
        ("csrc/attention/x.cc", "#include <pybind11/pybind11.h>"),
        ("csrc/attention/x.cc", '#include "kernels.h"'),
        ("csrc/attention/x.cc", '#include "collectives/schedule.h"'),
        ("collectives/x.cc", '#include "attention/kernels.h"'),
        ("collectives/x.cc", '#include "bindings/bindings.h"'),
    ],
)
def test_a_wrong_include_is_found(source: str, line: str) -> None:
    assert c_violations(Path(source), line)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("python/warploom/mask.py", "from warploom.testing import cases"),
        ("python/warploom/testing/x.py", "def f():\n    from warploom.cli import main"),
        ("python/warploom/reference/x.py", "import warploom.cli"),
        ("python/warploom/testing/x.py", "from ..cli import main"),
    ],
)
def test_a_wrong_import_is_found(source: str, line: str) -> None:
    assert python_violations(Path(source), line)


def test_the_device_language_stays_in_simt() -> None:
    spelling = re.compile(
        r"\b(threadIdx|blockIdx|blockDim|gridDim|__syncthreads|__shfl\w*|__global__|__shared__"
        r"|cuda[A-Z]\w+|hip[A-Z]\w+)\b|<(cuda|hip)[_/]"
    )
    wrong = [
        f"{path}: {match.group()}"
        for path in compiled()
        if path.parts[0] == "csrc" and c_layer(path) == FAMILY
        for match in spelling.finditer(text(path))
    ]
    assert not wrong


def test_torch_is_not_needed_to_build() -> None:
    build_files = [
        p for p in tracked() if p.name == "CMakeLists.txt" or p.parts[0] in ("cmake", "csrc")
    ]
    assert [p for p in build_files if re.search(r"find_package\(Torch|import torch", text(p))] == []
    requires = re.search(r"requires = \[(.*)\]", text(Path("pyproject.toml")))
    assert requires
    assert "torch" not in requires.group(1)
