"""Settings of PyTorch's caching allocator, as ``PYTORCH_ALLOC_CONF`` states them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MIB = 1 << 20
ROUNDINGS = 16  # intervals of sizes: below 2 MiB, below 4 MiB, and so on; the last has no end
_LEAST_MB = 20
# What changes nothing of what is simulated.
_WITHOUT_EFFECT = {
    "pinned_free_catch_all",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "release_lock_on_cudamalloc",
    "throw_on_cudamalloc_oom",
}


@dataclass(frozen=True)
class AllocatorOptions:
    """The settings that decide what the allocator takes from the device; None is PyTorch's own
    default of none."""

    max_split_size_mb: int | None = None
    max_non_split_rounding_mb: int = _LEAST_MB
    garbage_collection_threshold: float | None = None
    roundup_power2_divisions: tuple[int, ...] = (0,) * ROUNDINGS  # of each interval; 0: none
    expandable_segments: bool = False
    per_process_memory_fraction: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_split_size_mb", "max_non_split_rounding_mb"):
            value = getattr(self, name)
            if value is not None and not _LEAST_MB <= value < 1 << 40:
                raise ValueError(f"{name} is {value}: must be at least {_LEAST_MB}")
        threshold = self.garbage_collection_threshold
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(
                f"garbage_collection_threshold is {threshold}: must be above 0 and below 1"
            )
        fraction = self.per_process_memory_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(
                f"per_process_memory_fraction is {fraction}: must be above 0 and at most 1"
            )
        if threshold is not None and fraction is None:
            raise ValueError(
                f"garbage_collection_threshold is {threshold}: acts only under a "
                "per_process_memory_fraction, which must be given too"
            )
        divisions = self.roundup_power2_divisions
        if len(divisions) != ROUNDINGS or not all(n >= 0 and n & (n - 1) == 0 for n in divisions):
            raise ValueError(
                f"roundup_power2_divisions is {divisions}: must be 0 or a power of two for each of "
                f"{ROUNDINGS} intervals"
            )

    @classmethod
    def of(cls, given: AllocatorOptions | str | Mapping[str, Any] | None) -> AllocatorOptions:
        """Options of a text as ``"max_split_size_mb:128,expandable_segments:True"``, or of a
        mapping of the same names, in which roundup_power2_divisions may also be a number, or a
        mapping of MiB to numbers with ``">"`` for what is larger.

        Raises:
            ValueError: an unknown name, or a value that PyTorch refuses.
        """
        if given is None:
            return cls()
        if isinstance(given, AllocatorOptions):
            return given
        values = _parsed(given) if isinstance(given, str) else dict(given)
        if values.pop("backend", "native") != "native":
            raise ValueError("backend: must be native, no other allocator is simulated")
        for name in _WITHOUT_EFFECT:
            values.pop(name, None)
        for name in values:
            if name not in cls.__dataclass_fields__:
                known = ", ".join(cls.__dataclass_fields__)
                raise ValueError(f"{name!r} is no option: must be one of {known}")
        if "roundup_power2_divisions" in values:
            values["roundup_power2_divisions"] = _divisions(values["roundup_power2_divisions"])
        return cls(**values)

    def with_expandable_segments(self) -> AllocatorOptions:
        return replace(self, expandable_segments=True)

    def __str__(self) -> str:
        """As in ``PYTORCH_ALLOC_CONF``, without what is PyTorch's default."""
        parts = []
        for name, field in self.__dataclass_fields__.items():
            value = getattr(self, name)
            if value == field.default:
                continue
            parts.append(f"{name}:{_text(value) if isinstance(value, tuple) else value}")
        return ",".join(parts)


def _text(divisions: tuple[int, ...]) -> str:
    if len(set(divisions)) == 1:
        return str(divisions[0])
    words = [f"{1 << power}:{number}" for power, number in enumerate(divisions)]
    return f"[{','.join(words)}]"


def _parsed(text: str) -> dict[str, Any]:
    """Names and values of a text; a value in brackets becomes a mapping."""
    values: dict[str, Any] = {}
    left = re.sub(r"\s", "", text)
    while left:
        match = re.match(r"(\w+):(\[[^]]*\]|[^,\[\]]+)(,|$)", left)
        if not match:
            raise ValueError(f"options {text!r}: cannot be read from {left!r} on")
        values[match[1]] = _value(match[1], match[2])
        left = left[match.end() :]
    return values


def _value(name: str, text: str) -> Any:
    if name == "backend":
        return text
    if text in ("True", "False"):
        return text == "True"
    try:
        if text.startswith("["):
            pairs = [word.split(":") for word in text[1:-1].split(",")]
            return {size if size == ">" else int(size): int(number) for size, number in pairs}
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}: must be a number, True, False or a list") from None


def _divisions(given: Any) -> tuple[int, ...]:
    """What each interval gets: the first size named also stands for all below it, ">" for all above
    the last; others that are not named get 0."""
    if isinstance(given, int):
        return (given,) * ROUNDINGS
    if not isinstance(given, Mapping):
        return tuple(given)
    divisions = [0] * ROUNDINGS
    last = -1
    for size, number in given.items():
        if size == ">":
            divisions[last + 1 :] = [number] * (ROUNDINGS - last - 1)
            continue
        if not isinstance(size, int) or size < 1 or size & (size - 1):
            raise ValueError(
                f"roundup_power2_divisions has an interval of {size!r}: must be a power of two "
                "(of MiB) or '>'"
            )
        power = min(size.bit_length() - 1, ROUNDINGS - 1)
        if last < 0:
            divisions[:power] = [number] * power
        divisions[power] = number
        last = power
    return tuple(divisions)
