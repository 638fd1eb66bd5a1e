"""The repository's own files, for the tests that read them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("include", "csrc", "collectives")  # what is compiled


@cache
def tracked() -> tuple[Path, ...]:
    """Every file under version control, relative to the root; in a source archive, every file."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        paths = [Path(line) for line in listing.stdout.splitlines()]
    else:
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return tuple(path for path in paths if (ROOT / path).is_file())


def text(path: Path) -> str:
    """The file's text; empty for a file that is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def compiled() -> list[Path]:
    """C and C++ sources and headers of the library."""
    suffixes = {".h", ".cc", ".cuh", ".cu", ".inl", ".def"}
    return [p for p in tracked() if p.parts[0] in FOLDERS and p.suffix in suffixes]
