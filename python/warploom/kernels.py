"""Which kernels there are, and which one a call would take. Needs no torch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from warploom import _core
from warploom.mask import Mask

DEVICE_CODES = {"cpu": 0, "cuda": 1, "hip": 2}
_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
# The ops by their public names: the core's op, and what they need beyond the arguments below.
_OPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "attention": ("prefill", ()),
    "attention_varlen": ("prefill", ("RAGGED",)),
    "attention_backward": ("backward", ()),
    "attention_varlen_backward": ("backward", ("RAGGED",)),
    "attention_decode": ("decode", ("WINDOW",)),
    "attention_pages": ("pages", ("WINDOW", "PAGED")),
    "merge_states": ("merge", ()),
    "page_write": ("page_write", ("PAGED",)),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel: what it is for, what it needs, whether it runs here."""

    name: str
    family: str  # "attention" or "kv_cache"
    op: str
    dtype: str  # "": it takes codes alone
    target: str
    device: str
    needs: str
    max_head_dim: int  # 0: any
    head_dim_multiple: int
    features: tuple[str, ...]
    score: int
    available: bool
    reason: str  # why it is not available


@dataclass(frozen=True)
class Candidate:
    """A kernel of the op in question: taken, or refused for a reason."""

    name: str
    target: str
    score: int
    taken: bool
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What was asked and what became of every kernel of that op. Prints as a table."""

    asked: str
    candidates: tuple[Candidate, ...]

    @property
    def kernel(self) -> str | None:
        """The name of the kernel that the call would run, None if nothing fits."""
        return next((c.name for c in self.candidates if c.taken), None)

    def __str__(self) -> str:
        width = max((len(c.name) for c in self.candidates), default=0)
        lines = [f"{self.asked}: {self.kernel or 'no kernel fits'}"]
        for c in sorted(self.candidates, key=lambda c: (not c.taken, -c.score)):
            lines.append(f"  {c.name:<{width}}  {'taken' if c.taken else c.reason}")
        return "\n".join(lines)

    __repr__ = __str__


def list_kernels() -> list[Kernel]:
    """Every kernel of the library, whether or not this machine can run it."""
    return [
        Kernel(**{**fields, "family": family, "features": tuple(fields["features"])})
        for family, text in (
            ("attention", _core.attention_list_kernels()),
            ("kv_cache", _core.kv_list_kernels()),
        )
        for fields in json.loads(text)
    ]


def explain(
    op: str,
    *,
    dtype: Any,
    head_dim: int = 0,
    value_dim: int | None = None,
    mask: str | Mask = "full",
    device: Any = "cpu",
    softcap: float | None = None,
    grouped: bool = False,
    paged: bool = False,
    grad_lse: bool = False,
    keys_per_channel: bool = False,
    kernel: str | None = None,
) -> Explanation:
    """Which kernel an op would run, and why each other one would not.

    Args:
        op: "attention", "attention_varlen", "attention_backward", "attention_varlen_backward",
            "attention_decode", "attention_pages", "merge_states" or "page_write".
        dtype: a torch or NumPy dtype, or its name.
        head_dim: d of queries and keys (merging and page writing take any).
        value_dim: dv; None is head_dim.
        mask: "full", "causal", "window", or a ``wl.mask``.
        device: "cpu", "cuda", "cuda:1", "hip", or a torch device.
        softcap: as the op is given it.
        grouped: whether there are fewer key/value heads than query heads.
        paged: whether the cache of a decode is paged.
        grad_lse: whether a gradient arrives through lse (backward).
        keys_per_channel: whether keys were quantized per channel (attention_pages).
        kernel: a forced kernel.

    Raises:
        ValueError: an argument is not one of the above.
    """
    if op not in _OPS:
        raise ValueError(f"op is {op!r}: must be one of {', '.join(_OPS)}")
    core_op, features = _OPS[op]
    kind, index = _device(device)
    needed = set(features)
    if not isinstance(mask, Mask) and mask not in ("full", "causal", "window"):
        raise ValueError(f"mask is {mask!r}: must be 'full', 'causal', 'window' or a wl.mask")
    windowed = not mask.is_full if isinstance(mask, Mask) else mask != "full"
    if kernel is not None and all(known.name != kernel for known in list_kernels()):
        raise ValueError(f"kernel is {kernel!r}: there is no such kernel; see wl.list_kernels()")
    value_dim = head_dim if value_dim is None else value_dim
    for feature, wanted in (
        ("WINDOW", windowed),
        ("SOFTCAP", bool(softcap)),
        ("GROUPED", grouped),
        ("PAGED", paged),
        ("VALUE_DIM", value_dim != head_dim),
        ("GRAD_LSE", grad_lse),
        ("CHANNEL_GRIDS", keys_per_channel),
    ):
        if wanted:
            needed.add(feature)
    bits = sum(1 << _core.ATTENTION_FEATURES[feature] for feature in needed)
    name = _dtype(dtype)
    found = json.loads(
        _core.attention_explain(
            core_op, DEVICE_CODES[kind], index, _DTYPES[name], head_dim, value_dim, bits, kernel
        )
    )
    words = [f"{op} {name} on {kind}, head_dim {head_dim}"]
    if value_dim != head_dim:
        words.append(f"value_dim {value_dim}")
    words += sorted(feature.lower() for feature in needed)
    if kernel is not None:
        words.append(f"kernel={kernel}")
    return Explanation(", ".join(words), tuple(Candidate(**candidate) for candidate in found))


def _dtype(dtype: Any) -> str:
    name = getattr(dtype, "__name__", None) or str(dtype)
    name = name.removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}: must be one of {', '.join(_DTYPES)}")
    return name


def _device(device: Any) -> tuple[str, int]:
    kind, _, index = str(device).partition(":")
    torch = sys.modules.get("torch")
    if kind == "cuda" and torch is not None and torch.version.hip:
        kind = "hip"  # what torch's ROCm builds call cuda
    if kind not in DEVICE_CODES or not (index == "" or index.isdigit()):
        raise ValueError(f"device is {str(device)!r}: must be cpu, cuda or hip, and may say :index")
    return kind, int(index or 0)
