"""``warploom doctor``: what this machine can run, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from warploom import _core
from warploom.cli.support import support_text

# What each optional piece is for and how it is had.
TOOLS = {
    "g++": "builds the library: install your system's C++ compiler",
    "cmake": "builds the library: install CMake 3.24 or newer",
    "nvcc": "builds the CUDA kernels: install the CUDA toolkit, then build with WARPLOOM_CUDA=on",
    "hipcc": "builds the HIP kernels: install hipcc and the HIP headers, then WARPLOOM_HIP=on",
}
PACKAGES = {
    "numpy": "arrays: pip install numpy",
    "torch": "the ops (torch, NumPy or DLPack arrays): pip install torch",
    "transformers": "the demo and the transformers integration: pip install 'warploom[demo]'",
    "matplotlib": "plots of perf and demo: pip install matplotlib",
}
# Libraries of GPU kernels: file, the targets it serves, how it is had.
BACKENDS = {
    "cuda": ("libwarploom_cuda.so", ("sm_80", "sm_90a"), "WARPLOOM_CUDA=on, with nvcc on PATH"),
    "hip": ("libwarploom_hip.so", ("gfx90a",), "WARPLOOM_HIP=on, with hipcc on PATH"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--support", action="store_true", help="print the table of what runs where, as Markdown"
    )
    parser.add_argument(
        "--need", choices=BACKENDS, help="fail unless this library's kernels run here"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; 1 when what is installed does not work or what is needed is not there."""
    if arguments.support:
        print(support_text(), end="")
        return 0
    report = examine()
    if arguments.need and report["backends"][arguments.need]["state"] == "absent":
        detail = report["backends"][arguments.need]["detail"]
        report["problems"].append(f"{arguments.need} is needed: {detail}")
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))
    return 1 if report["problems"] else 0


def examine() -> dict[str, Any]:
    """Everything the report says, as plain data; ``problems`` is empty when all is well."""
    system = json.loads(_core.describe_system())
    problems = [system["cpu_problem"]] if system["cpu_problem"] else []
    targets = {target["name"]: target for target in system["targets"]}
    folder = Path(system["library_folder"])
    backends = {
        name: _backend(folder / file, [targets[t] for t in served], how)
        for name, (file, served, how) in BACKENDS.items()
    }
    backends["emulator"] = _emulator(folder / "libwarploom_emulator.so")
    packages = {name: _package(name, use) for name, use in PACKAGES.items()}
    for name, part in {**backends, **packages}.items():
        if part["state"] == "broken":
            problems.append(f"{name}: {part['detail']}")
    for target in targets.values():
        library = folder / f"libwarploom_{target['name']}.so"
        if target["name"].startswith("cpu_") and target["reason"].startswith(str(library)):
            problems.append(f"{target['name']}: {target['reason']}")
    return {
        "version": system["version"],
        "abi": system["abi"],
        "python": platform.python_version(),
        "library_folder": str(folder),
        "cmake_package": str(folder / "cmake" / "warploom"),
        "built_with": {key: system[key] for key in ("compiler", "cuda_compiler", "hip_compiler")},
        "processor": {
            "name": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "features": system["cpu_features"].split(),
            "target": system["cpu_target"],
        },
        "targets": system["targets"],
        "backends": backends,
        "packages": packages,
        "tools": {name: _tool(name, use) for name, use in TOOLS.items()},
        "environment": {k: v for k, v in os.environ.items() if k.startswith("WARPLOOM_")},
        "problems": problems,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _part(state: str, detail: str, fix: str = "") -> dict[str, str]:
    """state: "ready", "absent" (and how to get it) or "broken" (there, but it does not work)."""
    return {"state": state, "detail": detail, "fix": fix}


def _backend(library: Path, targets: list[dict[str, Any]], how: str) -> dict[str, str]:
    if not library.exists():
        return _part("absent", "not built", f"build warploom with {how}")
    ready = [target["name"] for target in targets if target["available"]]
    if ready:
        return _part("ready", f"kernels of {', '.join(ready)} run here")
    reason = targets[0]["reason"]
    if "layout probe" in reason:
        return _part("broken", reason, "report this device: its matrix instructions differ")
    # The loader names our own file when that is what is wrong, and a file of the driver otherwise.
    if reason.startswith(str(library)):
        return _part("broken", reason, "install warploom again")
    return _part("absent", f"built, but no device: {reason}", "install the GPU's driver")


def _emulator(library: Path) -> dict[str, str]:
    try:
        _core.emulate(True, 0)
    except Exception as error:
        if library.exists():
            return _part("broken", str(error), "install warploom again")
        return _part("absent", "not built", "build warploom with WARPLOOM_EMULATOR=ON")
    _core.emulate(False, 0)
    return _part("ready", "GPU kernels can be checked without a GPU")


def _package(name: str, use: str) -> dict[str, str]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _part("absent", "not installed", use)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return _part("broken", f"{version} cannot be imported: {error}", use)
    if name != "torch":
        return _part("ready", version)
    devices = "sees a GPU" if module.cuda.is_available() else "sees no GPU"
    return _part("ready", f"{version}, {module.get_num_threads()} threads, {devices}")


def _tool(name: str, use: str) -> dict[str, str]:
    path = shutil.which(name)
    if path is None:
        return _part("absent", "not on PATH", use)
    shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in shown.stdout.splitlines() if any(c.isdigit() for c in line)]
    if name == "nvcc":  # its first lines are about copyright
        lines = [line for line in lines if "release" in line]
    version = lines[0] if lines else ""
    return _part("ready", f"{version.strip()} ({path})")


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    processor = report["processor"]
    built = ", ".join(text for text in report["built_with"].values() if text)
    lines = [
        f"warploom {report['version']} (ABI {report['abi']}), Python {report['python']}",
        f"  libraries   {report['library_folder']}",
        f"  built with  {built}",
        "",
        f"Processor: {processor['name']}, {processor['cores']} usable cores",
        f"  features    {' '.join(processor['features']) or 'none beyond the baseline'}",
        f"  calls run on {processor['target']}",
    ]
    lines += [f"  {_mark(t['available'])} {t['name']:<13} {_why(t)}" for t in report["targets"]]
    for title, key in (
        ("GPU kernels", "backends"),
        ("Python packages", "packages"),
        ("Tools to build with", "tools"),
    ):
        lines += ["", f"{title}:"]
        for name, part in report[key].items():
            fix = f"; {part['fix']}" if part["fix"] else ""
            lines.append(f"  {_mark(part['state'] == 'ready')} {name:<13} {part['detail']}{fix}")
    if report["environment"]:
        lines += ["", "Environment:"]
        lines += [f"  {name}={value}" for name, value in report["environment"].items()]
    lines.append("")
    if report["problems"]:
        lines += ["Broken:", *(f"  {problem}" for problem in report["problems"])]
    else:
        lines.append("Nothing that is installed is broken.")
    return "\n".join(lines)


def _mark(good: bool) -> str:
    return "+" if good else "-"


def _why(target: dict[str, Any]) -> str:
    needs, reason = str(target["needs"]), str(target["reason"])
    return needs if target["available"] else f"{needs}: {reason}"
