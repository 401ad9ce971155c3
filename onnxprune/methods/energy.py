"""Energy: remove the channels that carry least signal."""

import numpy as np

from onnxprune.elimination import Problem
from onnxprune.methods import Evidence, Float, Ints, by_score, method, over_readers


def energies(problem: Problem, mean: Float) -> Float:
    """E[x²] of each channel, summed over its rows, [n]."""
    squares = np.diag(problem.gram) + np.square(mean)
    found: Float = squares[problem.rows].sum(1)
    return found


@method(
    "energy",
    reconstruct="none",
    summary="removes the channels with the least mean square of what the next layers read; nothing is repaired",
    paper="baseline",
)
def energy(evidence: Evidence) -> Ints:
    """Score: each channel's share of the energy that its readers read."""
    return by_score(over_readers(evidence, energies), evidence.cells)
