"""How far a figure measured on some samples may be from the true one: intervals that hold it in 95 of 100 draws.

Samples are taken to be independent. That a model may have been chosen by the very samples that judge it isn't counted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Interval = tuple[float, float]
Z = 1.959964  # of the normal distribution, at 97.5 %
DRAWS = 1000


def proportion(count: float, total: int) -> Interval:
    """Of a share of samples, `count` out of `total` (Wilson 1927): sensible near 0 and for few samples, too."""
    if not total:
        return 0.0, 1.0
    p, z = count / total, Z * Z / total
    middle, half = (p + z / 2) / (1 + z), math.sqrt(p * (1 - p) * z + z * z / 4) / (1 + z)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def samples_for(share: float, bound: float) -> int:
    """Samples of which this share makes the upper end of `proportion` the bound, which is above the share."""
    return math.ceil(Z * Z * bound * (1 - bound) / (bound - share) ** 2)


def difference(before: Float, after: Float) -> Interval:
    """Of the mean of `before` - `after`, zeros and ones for the same samples [n] (Bonett and Price 2012).

    Only samples that differ tell anything; one is added to each of the two ways to differ.
    """
    fell, rose = (float(np.sum(change > 0)) + 1 for change in (before - after, after - before))
    total = len(before) + 2
    middle, spread = (fell - rose) / total, math.sqrt(fell + rose - (fell - rose) ** 2 / total) / total
    return max(middle - Z * spread, -1.0), min(middle + Z * spread, 1.0)


def root_of_ratio(changes: Float, powers: Float) -> Interval:
    """Of √(Σ changes / Σ powers), given for each sample [n], by drawing samples again (bootstrap, percentiles)."""
    rng, n = np.random.default_rng(0), len(changes)
    found = []
    for _ in range(DRAWS):
        drawn = rng.integers(n, size=n)
        power = powers[drawn].sum()
        found.append(math.sqrt(changes[drawn].sum() / power) if power else 0.0)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
