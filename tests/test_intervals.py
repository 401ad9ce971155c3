"""Intervals hold the true figure as often as they say, and no more samples are asked for than it takes."""

import numpy as np
import pytest

from onnxprune import intervals

DRAWN = 2000


def coverage(interval, true):
    """The share of draws whose interval holds the true figure."""
    found = np.array([interval(np.random.default_rng(seed)) for seed in range(DRAWN)])
    assert (found[:, 0] <= found[:, 1]).all()
    return np.mean((found[:, 0] <= true) & (true <= found[:, 1]))


def test_the_interval_of_a_share_is_wilsons():
    """Figures of Newcombe, Statistics in Medicine 17:857 (1998), table I."""
    for count, total, expected in (
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (20, 20, (0.8389, 1.0)),
    ):
        assert intervals.proportion(count, total) == pytest.approx(expected, abs=6e-5)
    assert intervals.proportion(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("share", "bound"), [(0.0, 0.01), (0.002, 0.01), (0.03, 0.05), (0.5, 0.51)])
def test_samples_are_as_many_as_it_takes(share, bound):
    enough = intervals.samples_for(share, bound)
    assert intervals.proportion(share * enough, enough)[1] <= bound
    assert intervals.proportion(share * (enough - 1), enough - 1)[1] > bound


@pytest.mark.parametrize(("fall", "rise"), [(0.1, 0.05), (0.02, 0.02), (0.01, 0.0)])
def test_a_difference_on_the_same_samples_is_held(fall, rise):
    def interval(rng):
        draw = rng.random(200)
        before, after = draw >= rise, draw >= fall + rise
        after[draw < rise] = True
        return intervals.difference(before.astype(float), after.astype(float))

    assert 0.93 <= coverage(interval, fall - rise) <= 1.0


def test_pairing_makes_an_interval_narrow():
    """Samples that both get wrong tell nothing of the difference."""
    before = np.repeat([1.0, 0.0], 100)
    low, high = intervals.difference(before, before)
    assert low == -high
    assert high < 0.02
    after = np.where(np.arange(200) < 10, 0.0, before)
    low, high = intervals.difference(before, after)
    assert 0.01 < low < 10 / 200 < high < 0.1


def test_the_interval_of_a_relative_error_holds_it():
    rng = np.random.default_rng(5)
    powers, share = rng.gamma(2.0, size=(300, 100)), rng.gamma(1.0, 0.01, size=(300, 100))
    found = np.array([intervals.root_of_ratio(p * s, p) for p, s in zip(powers, share, strict=True)])
    assert 0.88 <= np.mean((found[:, 0] <= 0.1) & (found[:, 1] >= 0.1)) <= 0.98
    assert intervals.root_of_ratio(np.zeros(5), np.zeros(5)) == (0.0, 0.0)
    assert intervals.root_of_ratio(np.full(5, 4.0), np.full(5, 16.0)) == (0.5, 0.5)
