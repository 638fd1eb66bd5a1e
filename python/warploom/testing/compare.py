"""The rule by which a kernel's result counts as right.

Against a float64 oracle, the root of a result's mean square error may be at most twice that of
plain torch computing the same formula in the kernel's own precision, plus an ulp; its largest error
at most three times torch's, plus an ulp, because the largest of thousands of roundings scatters
more than their mean. So one bad row shows, and a small bias everywhere does too. The ulp is that of
the stored result, and two of the float32 that both products are accumulated in, each kernel in an
order of its own. Before all that, infinities and NaNs must stand where the oracle has them, and
nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

ALLOWED_RATIO = {"rms": 2.0, "largest": 3.0}


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
    """The allowance for rounding, at the oracle's largest and root-mean-square value."""
    size = error_of(expected, torch.zeros_like(expected))
    info = torch.finfo(dtype)
    eps = info.eps + 2 * torch.finfo(torch.float32).eps
    return Error(eps * size.largest + info.tiny, eps * size.rms + info.tiny)


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
    for norm, ratio in ALLOWED_RATIO.items():
        found = getattr(error, norm)
        limit = ratio * getattr(allowed, norm) + getattr(ulp, norm)
        assert found <= limit, (
            f"{name}: {norm} error {found:.3g} exceeds {limit:.3g}: {ratio:g} times torch's "
            f"{getattr(allowed, norm):.3g} in {dtype} plus an ulp, {getattr(ulp, norm):.3g}"
        )
