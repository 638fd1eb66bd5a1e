"""Properties of the sources that no compiler checks: size, paths, and commands in the README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import warploom
from warploom.cli import COMMANDS

from .sources import ROOT, text, tracked

LONGEST = 700
SOURCES = {".cc", ".h", ".cuh", ".cu", ".inl", ".def", ".py", ".cmake"}


def test_no_file_is_too_long() -> None:
    lengths = {p: text(p).count("\n") for p in tracked() if p.suffix in SOURCES}
    assert {p: n for p, n in lengths.items() if n > LONGEST} == {}


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.$}>)])/(work|home|root|tmp|Users)/\w")
    assert [p for p in tracked() if place.search(text(p))] == []


def test_no_unfinished_marks() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    own = Path(__file__).relative_to(ROOT)
    assert [p for p in tracked() if p != own and mark.search(text(p))] == []


def test_the_version_is_one() -> None:
    project = tomllib.loads(text(Path("pyproject.toml")))["project"]
    assert warploom.__version__ == project["version"]
    assert f"## {project['version']}" in text(Path("CHANGELOG.md"))


def documents() -> list[Path]:
    return [p for p in tracked() if p.suffix == ".md" and p.parts[0] in ("README.md", "docs")]


@pytest.mark.parametrize("document", documents(), ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(document))
    assert [link for link in links if not (ROOT / document.parent / link).exists()] == []


@pytest.mark.parametrize("document", documents(), ids=str)
def test_files_that_are_named_exist(document: Path) -> None:
    """Paths in code spans; <placeholders>, globs and generated folders are not files."""
    named = re.findall(
        r"`((?:csrc|include|python|tests|cmake|docs|perf)/[\w./-]+\.\w+)`", text(document)
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", documents(), ids=str)
def test_commands_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):", text(Path("Makefile")), re.M))
    targets = {name for names in targets for name in names.split()}
    spans = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text(document), re.S)
    code = "\n".join(block or span for block, span in spans)
    for target in re.findall(r"^(?:\$ )?make ([\w-]+)", code, re.M):
        assert target in targets, f"{document}: make {target}"
    for command in re.findall(r"^(?:\$ )?warploom ([a-z]+)", code, re.M):
        assert command in COMMANDS, f"{document}: warploom {command}"
    for name in re.findall(r"\bwl\.([a-z]\w*)", code):
        assert hasattr(warploom, name), f"{document}: wl.{name}"


def test_tolerances_are_in_one_file() -> None:
    """Numbers are compared by warploom.testing.compare; who brings another tolerance is found."""
    tolerance = re.compile(r"\b(allclose|assert_close|assert_allclose|rtol|atol|isclose)\b")
    own = Path(__file__).relative_to(ROOT)
    sources = [p for p in tracked() if p.suffix == ".py" and p != own]
    assert [p for p in sources if tolerance.search(text(p))] == []
