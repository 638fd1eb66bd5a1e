"""Names in kernels.def say what a kernel does, in one form, and the docs know every one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import warploom
from warploom.kernels import Kernel

from .sources import ROOT, text, tracked

SHORT = {"float32": "_f32", "float16": "_f16", "bfloat16": "_bf16", "": ""}
PREFIX = {"attention": "attention", "kv_cache": "kv"}
KERNELS = warploom.list_kernels()


def name_problem(kernel: Kernel) -> str:
    """What is wrong with a kernel's name, "" if nothing.

    The form: <family>_<op>[_<dtype>][_d<largest head dim>][_<how>]_<target>.
    """
    form = re.compile(
        rf"{PREFIX[kernel.family]}_{kernel.op}{SHORT[kernel.dtype]}(_d(?P<d>\d+))?(_[a-z0-9]+)*?"
        rf"_(?P<target>{kernel.target}|{kernel.target.replace('sm_', 'sm')})"
    )
    match = form.fullmatch(kernel.name)
    if not match:
        return f"{kernel.name} does not match {form.pattern}"
    if match["d"] and int(match["d"]) != kernel.max_head_dim:
        return f"{kernel.name} takes head dims up to {kernel.max_head_dim}"
    return ""


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_name_says_what_the_kernel_does(kernel: Kernel) -> None:
    assert name_problem(kernel) == ""


def test_names_are_unique() -> None:
    names = [kernel.name for kernel in KERNELS]
    assert len(set(names)) == len(names)


def test_a_wrong_name_is_found() -> None:
    good = KERNELS[0]
    for name in (good.name.replace("_f32", "_f16"), good.name + "_fast", "my_kernel"):
        assert name_problem(Kernel(**{**vars(good), "name": name}))


def test_equal_kernels_have_a_preference() -> None:
    """Two kernels that take the same calls on one target would be chosen by their order alone."""
    seen = {}
    for k in KERNELS:
        key = (k.op, k.dtype, k.target, k.max_head_dim, k.head_dim_multiple, k.features, k.score)
        assert key not in seen, f"{k.name} and {seen.get(key)} differ in name only"
        seen[key] = k.name


def test_the_support_table_is_in_step() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "warploom", "doctor", "--support"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert text(Path("docs/support.md")) == printed, (
        "run `warploom doctor --support > docs/support.md`"
    )


def test_every_environment_variable_is_documented() -> None:
    """The table of docs/environment.md and the names that the sources read are the same."""
    pattern = re.compile(r"\"(WARPLOOM_[A-Z_]+)\"")
    read = {
        name
        for path in tracked()
        if path.parts[0] in ("csrc", "python") and path.suffix in (".cc", ".h", ".py")
        for line in text(path).splitlines()
        if "getenv" in line or "environ" in line
        for name in pattern.findall(line)
    }
    table = set(re.findall(r"^\| `(WARPLOOM_\w+)`", text(Path("docs/environment.md")), re.M))
    assert read == table
