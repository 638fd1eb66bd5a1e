"""The rule by which a result counts as right, and the tolerances there are: no other file has any.

Against a float64 oracle, both the largest error of a result and the root of its mean square error
may be at most twice that of plain torch computing the same formula in the kernel's own precision,
plus what rounding alone costs. So one bad row shows, and a small bias everywhere does too. Before
that, infinities and NaNs must stand where the oracle has them, and nowhere else.

docs/numerics.md argues for the numbers and says how they were measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

ALLOWED_RATIO = 2.0
NORMS = ("largest", "rms")

# Float32 ulps of a result that the order of summation may cost: each kernel has its own.
SUMMATION_ULPS = 3

# What a kernel of stated lower precision may err by beyond the rule. The lse of bfloat16 inputs is
# a sum of exponentials good to 3e-6, because they are rounded to bfloat16 next. On a GPU the sums
# inside a matrix instruction are the hardware's own, and no kernel has been measured there yet.
STATED_LSE = {torch.bfloat16: 3e-6}
STATED_LSE_ON_GPU = {torch.bfloat16: 1e-5, torch.float16: 1e-5}


@dataclass(frozen=True)
class Stated:
    """The largest relative L2 error of o, and what o and lse are granted beyond the rule."""

    relative: float
    o: float
    lse: float


# Attention to quantized pages, against the oracle on what codes and grids stand for. Where queries
# and weights are integers, they have 16 bits of a row's largest or, in fast, 8; in float32 the
# products with codes are summed in one chain, where torch has several. Weights of blocks of 16 bits
# are bfloat16 where queries are (relative error 1.6e-3, as in decode).
STATED_PAGES = {
    ("exact", torch.float32): Stated(1e-5, 2e-7, 0.0),
    ("exact", torch.float16): Stated(1e-3, 0.0, 1e-4),
    ("exact", torch.bfloat16): Stated(2e-3, 0.0, 1e-4),
    ("fast", torch.float32): Stated(1.5e-2, 0.0, 2e-2),
    ("fast", torch.float16): Stated(1.5e-2, 0.0, 2e-2),
    ("fast", torch.bfloat16): Stated(1.5e-2, 0.0, 2e-2),
}

# Relative L2 distance at which two implementations count as computing the same, where no oracle is
# affordable: in ulps of their precision.
PEER_ULPS = {torch.float32: 32, torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True)
class Error:
    """Distance from the oracle over the positions where that is finite."""

    largest: float
    rms: float


def error_of(actual: torch.Tensor, expected: torch.Tensor) -> Error:
    """Largest and root-mean-square distance, in float64, where both are finite."""
    difference = (actual.double() - expected.double()).abs()
    difference = difference[difference.isfinite()]
    if difference.numel() == 0:
        return Error(0.0, 0.0)
    return Error(difference.max().item(), difference.square().mean().sqrt().item())


def rounding_of(expected: torch.Tensor, dtype: torch.dtype, stated: float = 0.0) -> Error:
    """What rounding costs a result that is right: the order of summation in float32 and, for 16
    bits, storing the oracle; at the result's largest and at its root-mean-square value."""
    size = error_of(expected, torch.zeros_like(expected))
    stored = Error(0.0, 0.0) if dtype == torch.float32 else error_of(expected.to(dtype), expected)
    eps = SUMMATION_ULPS * torch.finfo(torch.float32).eps
    least = stated + torch.finfo(dtype).tiny
    return Error(eps * size.largest + stored.largest + least, eps * size.rms + stored.rms + least)


@dataclass(frozen=True)
class Comparison:
    """What one result is judged by."""

    name: str
    dtype: torch.dtype
    error: Error
    yardstick: Error
    rounding: Error

    def ratio(self, norm: str) -> float:
        """The error beyond rounding in multiples of torch's: what the rule bounds."""
        beyond: float = getattr(self.error, norm) - getattr(self.rounding, norm)
        theirs: float = getattr(self.yardstick, norm)
        if beyond <= 0:
            return 0.0
        return beyond / theirs if theirs else float("inf")


# Told of every comparison before it is judged: for tables of the ratios that kernels reach.
watchers: list[Callable[[Comparison], None]] = []


def assert_matches(
    name: str,
    actual: torch.Tensor,
    expected: torch.Tensor,
    yardstick: torch.Tensor,
    stated: float = 0.0,
) -> None:
    """Raises AssertionError, naming the result and the first offence, unless the rule holds.

    Args:
        name: what is compared, for the message.
        actual: the kernel's result, in the precision in which it is judged.
        expected: the oracle's, in float64.
        yardstick: the same formula by torch in the kernel's precision.
        stated: an error that the kernel's documentation grants, from this file.
    """
    assert actual.shape == expected.shape, (
        f"{name} has shape {tuple(actual.shape)}: must be {tuple(expected.shape)}"
    )
    assert expected.dtype == torch.float64, f"{name}: the oracle is in {expected.dtype}"
    rounded = expected.to(actual.dtype)
    for kind, test in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = (test(actual) != test(rounded)).nonzero()
        if len(wrong):
            at = tuple(wrong[0].tolist())
            raise AssertionError(
                f"{name} has {kind} in the wrong places: {len(wrong)} of {actual.numel()}, first "
                f"at {at}, where it is {actual[at].item()} and the oracle {expected[at].item()}"
            )
    found = Comparison(
        name,
        actual.dtype,
        error_of(actual, expected),
        error_of(yardstick, expected),
        rounding_of(expected, actual.dtype, stated),
    )
    for watch in watchers:
        watch(found)
    for norm in NORMS:
        error, theirs, rounding = (
            getattr(e, norm) for e in (found.error, found.yardstick, found.rounding)
        )
        limit = ALLOWED_RATIO * theirs + rounding
        assert error <= limit, (
            f"{name}: {norm} error {error:.3g} exceeds {limit:.3g}: {ALLOWED_RATIO:g} times "
            f"torch's {theirs:.3g} in {actual.dtype} plus rounding, {rounding:.3g}"
        )


def peer_distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative L2 distance, NaN where either holds one."""
    return float((theirs.double() - ours.double()).norm() / ours.double().norm())


def peer_bound(dtype: torch.dtype) -> float:
    """The distance that :data:`PEER_ULPS` allows."""
    return PEER_ULPS[dtype] * torch.finfo(dtype).eps
