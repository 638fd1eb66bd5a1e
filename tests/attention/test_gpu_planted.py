"""The emulator finds bugs planted in the kernels: each is a copy of the source with one change,
compiled here and run at 32 and 64 lanes over several seeds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc"
SEEDS = range(5)

# op: {name: (file, what stands there, what stands there instead, what the report must say)}
PREFILL = {
    "keys_read_before_all_have_landed": (
        "gpu_forward.cuh",
        "    k_load.land(vector);\n    simt::sync_block();\n",
        "    k_load.land(vector);\n",
        "race|not landed",
    ),
    "values_not_landed": (
        "gpu_forward.cuh",
        "    v_load.land(vector);\n    simt::sync_block();\n",
        "    simt::sync_block();\n",
        "ticket|not landed",
    ),
    "values_read_before_all_have_landed": (
        "gpu_forward.cuh",
        "    v_load.land(vector);\n    simt::sync_block();\n",
        "    v_load.land(vector);\n",
        "race|not landed",
    ),
    "keys_copied_onto_values": (
        "gpu_forward.cuh",
        "k_load.start(k_tile, key_row(t + 1)",
        "k_load.start(v_tile, key_row(t + 1)",
        "race|not landed",
    ),
    "queries_read_before_they_are_written": (
        "gpu_forward.cuh",
        "  simt::sync_block();\n  q.load(",
        "  q.load(",
        "race|unwritten",
    ),
    "keys_past_the_end": (
        "gpu_prefill.cuh",
        "maybe_row<T>{k + j * a.k.row, j < seq.sk}",
        "maybe_row<T>{k + j * a.k.row, true}",
        "out of bounds",
    ),
    "rows_past_the_end": (
        "gpu_prefill.cuh",
        "if (rows.inside(r)) store_run<T>",
        "store_run<T>",
        "out of bounds",
    ),
    "columns_never_written": (
        "gpu_prefill.cuh",
        "if (rows.inside(r)) store_run<T>",
        "if (rows.inside(r) && c != 8) store_run<T>",
        "never written",
    ),
    "barrier_in_one_warp": (
        "gpu_forward.cuh",
        "    v_load.land(vector);\n    simt::sync_block();\n",
        "    v_load.land(vector);\n    if (warp == 0) simt::sync_block();\n",
        "divergence|deadlock|race",
    ),
}
BACKWARD = {
    "tiles_read_before_all_have_landed": (
        "gpu_backward_loop.cuh",
        "    second_load.land(side.vector);\n    simt::sync_block();\n",
        "    second_load.land(side.vector);\n",
        "race|not landed|unwritten",
    ),
    "stage_overwritten_while_it_is_read": (
        "gpu_backward_loop.cuh",
        "    simt::sync_block();\n    if (t + 1 < turns) start(t + 1);\n",
        "    if (t + 1 < turns) start(t + 1);\n    simt::sync_block();\n",
        "race|not landed",
    ),
    "gradients_past_the_end": (
        "gpu_backward.cuh",
        "if (r < count) store_run<T>(dk",
        "store_run<T>(dk",
        "out of bounds",
    ),
}
DECODE = {
    "split_dropped_from_the_merge": (
        "gpu_merge_rows.cuh",
        "  for (int part = 0; part < parts; ++part) {\n",
        "  for (int part = 1; part < parts; ++part) {\n",
        "wrong result",
    ),
    "element_never_written_by_the_merge": (
        "gpu_merge_rows.cuh",
        "  if (c < to.dv) {\n",
        "  if (c < to.dv && id != 9) {\n",
        "never written",
    ),
    "part_never_written": (
        "gpu_split.cuh",
        "      simt::store(lses, index(",
        "      if (split != 1) simt::store(lses, index(",
        "unwritten",
    ),
}
PAGES = {
    "queries_read_before_they_are_written": (
        "gpu_pages_loop.cuh",
        "    simt::sync_block();\n",
        "",
        "race|unwritten",
    ),
    "positions_past_the_end": (
        "gpu_pages.cuh",
        "last = simt::ceil_div(seen.end, kStep);",
        "last = simt::ceil_div(seen.end, kStep) + 1;",
        "out of bounds|wrong result",
    ),
    "a_line_of_codes_too_far": (
        "gpu_pages_view.cuh",
        "w * width / 8 * 16 + row % 16",
        "w * width / 8 * 16 + 16 + row % 16",
        "out of bounds|wrong result",
    ),
    "codes_of_a_byte_taken_for_the_next_s": (
        "gpu_pages_loop.cuh",
        "simt::centred<width>(u >> 8)",
        "simt::centred<width>(u >> 4)",
        "wrong result",
    ),
    "values_in_the_atom_s_order": (
        "gpu_pages_loop.cuh",
        "column(int col) { return neighbour<M>(col); }",
        "column(int col) { return col; }",
        "wrong result",
    ),
}
OPS = {"prefill": PREFILL, "backward": BACKWARD, "decode": DECODE, "pages": PAGES}

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or not SOURCES.exists(), reason="needs g++ and the sources"
)


@pytest.fixture(scope="module")
def emulator_library(tmp_path_factory) -> Path:
    """The emulator and the error texts, compiled once."""
    folder = tmp_path_factory.mktemp("emulator")
    sources = [*sorted((SOURCES / "simt/emulator").glob("*.cc")), SOURCES / "base/status.cc"]
    objects = []
    for source in sources:
        target = folder / f"{source.stem}.o"
        _compile("-c", str(source), "-o", str(target), '-DWARPLOOM_VERSION=""')
        objects.append(str(target))
    library = folder / "libemulator.a"
    subprocess.run(["ar", "rcs", str(library), *objects], check=True)
    return library


def _compile(*arguments: str, first: Path | None = None) -> None:
    include = [f"-I{path}" for path in (first, SOURCES, ROOT / "include") if path is not None]
    command = ["g++", "-std=c++20", "-O1", "-pthread", *include, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _reports(
    folder: Path,
    library: Path,
    op: str,
    bug: tuple[str, str, str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> list[str]:
    copies = folder / "attention"
    copies.mkdir()
    for source in (SOURCES / "attention").glob("*"):
        if source.suffix in {".h", ".cuh", ".def"}:
            shutil.copy(source, copies)
    if bug is not None:
        name, old, new, _ = bug
        text = (copies / name).read_text()
        assert text.count(old) == 1, f"{name} holds this {text.count(old)} times: {old}"
        (copies / name).write_text(text.replace(old, new))
    program = folder / "planted"
    main = Path(__file__).parent / f"gpu/planted_{op}.cc"
    _compile(str(main), str(library), "-o", str(program), first=folder)
    lines = []
    for seed in SEEDS:
        done = subprocess.run(
            [str(program), str(seed), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        lines += done.stdout.splitlines()
    assert len(lines) == 2 * len(SEEDS)
    return lines


@pytest.mark.parametrize("op", OPS)
def test_without_a_bug_it_is_clean(emulator_library, tmp_path, op):
    assert set(_reports(tmp_path, emulator_library, op)) == {"clean"}


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, bugs in OPS.items() for name in bugs])
def test_bug_is_reported(emulator_library, tmp_path, op, name):
    bug = OPS[op][name]
    for line in _reports(tmp_path, emulator_library, op, bug):
        assert any(word in line for word in bug[3].split("|")), line


def test_too_little_shared_memory_is_refused_before_anything_is_written(emulator_library, tmp_path):
    for line in _reports(tmp_path, emulator_library, "backward", arguments=("1000",)):
        assert re.fullmatch(
            r"attention_backward_keys needs \d+ bytes of shared memory a block: "
            "this device allows 1000",
            line,
        ), line
