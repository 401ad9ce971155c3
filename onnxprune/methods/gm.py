"""Geometric median: remove the channels that lie in the middle of the others, which can replace them."""

import numpy as np

from onnxprune.methods import Evidence, Float, Ints, by_score, method

TIE = 1e-9  # above what is rounding in the sum


def distances(weights: Float) -> Float:
    """Σ_j ‖w_i − w_j‖₂ for each row; −1 for rows of zeros. Of two that are equally far the shorter is nearer."""
    squares = np.square(weights).sum(1)
    between = squares[:, None] + squares - 2 * weights @ weights.T
    np.fill_diagonal(between, 0.0)
    found = np.sqrt(np.maximum(between, 0.0)).sum(1)
    return np.where(squares > 0, found + TIE * np.sqrt(squares), -1.0)


@method(
    "gm",
    needs="weights",
    reconstruct="none",
    summary="removes the channels whose weights are closest to the geometric median of all; nothing is repaired",
    paper="He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, "
    "CVPR 2019",
)
def gm(evidence: Evidence) -> Ints:
    """Score: the sum of distances to the weights of all other channels, as in the authors' code.

    Known deviations: those of `magnitude`, and channels whose weights are all zero go first wherever they lie.
    """
    return by_score(distances(evidence.weights), evidence.cells)
