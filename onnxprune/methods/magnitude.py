"""Magnitude: remove the channels whose own weights are smallest. The baselines."""

import numpy as np

from onnxprune.methods import Evidence, Ints, by_score, method


@method(
    "l1",
    reconstruct="none",
    summary="removes the channels with the smallest sum of absolute weights; nothing is repaired",
    paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
)
def l1(evidence: Evidence) -> Ints:
    """Score: Σ|w| over all weights that make the channel."""
    return by_score(np.abs(evidence.weights).sum(1), evidence.cells)


@method(
    "l2",
    reconstruct="none",
    summary="removes the channels with the smallest Euclidean norm of their weights; nothing is repaired",
    paper="He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018",
)
def l2(evidence: Evidence) -> Ints:
    """Score: ‖w‖₂ over all weights that make the channel."""
    return by_score(np.linalg.norm(evidence.weights, axis=1), evidence.cells)
