"""What the numbers were taken on."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import warploom
from warploom import _core


def facts(device: str) -> dict[str, Any]:
    """Processor, cores, load, GPU, versions, date and commit: JSON-ready."""
    import torch

    described = json.loads(_core.describe_system())  # not all of it: it holds the user's paths
    known: dict[str, Any] = {
        "name": name(device),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "warploom": warploom.__version__,
        **{key: described[key] for key in ("compiler", "cpu_features", "cpu_target")},
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        known["gpu"] = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda or torch.version.hip,
        }
    return known


def name(device: str) -> str:
    """A short name of the machine, fit for a file's."""
    if device.startswith("cuda"):
        import torch

        words = torch.cuda.get_device_name(device)
    else:
        words = f"{cpu_model()} {len(os.sched_getaffinity(0))} cores"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def cpu_model() -> str:
    """Model name with family and model number: clouds hide the marketing name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
    words = [found.get("model name", platform.machine())]
    if "cpu family" in found:
        words.append(f"family {found['cpu family']} model {found['model']}")
    return " ".join(words)


def commit() -> str:
    """The commit that this code is of, "+" where files were changed since; "" outside of git."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(
            here, "status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.cc", "*.h"
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def _git(where: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
