"""Statistics on made-up samples."""

import pytest

from warploom.perf.stats import Spread, paired_ratio, spread


def test_spread_is_median_and_quartiles():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([2.0]) == Spread(2.0, 2.0, 2.0)


def test_an_outlier_does_not_move_the_median():
    assert spread([1.0, 1.0, 1.0, 1.0, 1000.0]).median == 1.0


def test_drift_cancels_in_paired_ratios():
    """A machine that slows tenfold over the rounds shows a constant ratio."""
    drift = [1.0, 2.0, 5.0, 10.0]
    assert paired_ratio([6 / d for d in drift], [3 / d for d in drift]) == pytest.approx((2, 2, 2))


def test_pairs_must_be_whole():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        spread([])
