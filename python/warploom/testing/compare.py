"""The rule by which a kernel's result counts as right.

Against a float64 oracle, a result may be at most twice as wrong as plain torch is when it computes
the same formula in the kernel's own precision, plus one ulp. It is judged by the largest error and
by the root of the mean square, so that one bad row shows and a small bias everywhere does too.
Before that, infinities and NaNs must stand where the oracle has them, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

ALLOWED_RATIO = 2.0


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


def ulp_of(expected: torch.Tensor, dtype: torch.dtype) -> Error:
    """One unit in the last place of ``dtype``, at the oracle's largest and mean-square value."""
    size = error_of(expected, torch.zeros_like(expected))
    info = torch.finfo(dtype)
    return Error(
        max(info.eps * size.largest, info.smallest_normal),
        max(info.eps * size.rms, info.smallest_normal),
    )


def assert_matches(
    name: str,
    actual: torch.Tensor,
    expected: torch.Tensor,
    yardstick: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> None:
    """Raises AssertionError, naming the result and the first offence, unless the rule holds.

    Args:
        name: what is compared, for the message.
        actual: the kernel's result.
        expected: the oracle's, in float64.
        yardstick: the same formula by torch in the kernel's precision.
        dtype: the kernel's precision where the result is kept in a wider one (an lse).
    """
    dtype = actual.dtype if dtype is None else dtype
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
    error, allowed, ulp = (
        error_of(actual, expected),
        error_of(yardstick, expected),
        ulp_of(expected, dtype),
    )
    for norm in ("largest", "rms"):
        found = getattr(error, norm)
        limit = ALLOWED_RATIO * getattr(allowed, norm) + getattr(ulp, norm)
        assert found <= limit, (
            f"{name}: {norm} error {found:.3g} exceeds {limit:.3g}: twice torch's "
            f"{getattr(allowed, norm):.3g} in {dtype} plus an ulp, {getattr(ulp, norm):.3g}"
        )
