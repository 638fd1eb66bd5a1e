"""A quantized cache that starts at 16 bits and halves widths when its budget forces it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from warploom.methods.pm_kvq.allocation import Widths, allocate
from warploom.methods.pm_kvq.layout import Layout
from warploom.methods.pm_kvq.outliers import KeyOutlier, key_outliers
from warploom.methods.pm_kvq.sensitivity import Profile, sensitivity
from warploom.methods.pm_kvq.smoothing import smooth

if TYPE_CHECKING:
    from warploom.methods.pm_kvq.cache import Cache

__all__ = [
    "Cache",
    "KeyOutlier",
    "Layout",
    "Profile",
    "Widths",
    "allocate",
    "key_outliers",
    "sensitivity",
    "smooth",
]


def __getattr__(name: str) -> Any:
    """Imports the cache, and transformers with it, when it is first asked for."""
    if name != "Cache":
        raise AttributeError(f"module 'warploom.methods.pm_kvq' has no attribute {name!r}")
    return importlib.import_module("warploom.methods.pm_kvq.cache").Cache
