"""Magnitude: remove the channels whose own weights are smallest. The baselines.

Known deviation: biases count, and BatchNormalization is folded into the weights first, so that a model gives the same
order however it was exported. The papers take the filters alone, as trained.
"""

import numpy as np

from onnxprune.methods import Evidence, Float, Ints, by_score, method


def l1_norms(weights: Float) -> Float:
    """Σ|w| of each row."""
    norms: Float = np.abs(weights).sum(1)
    return norms


def l2_norms(weights: Float) -> Float:
    """‖w‖₂ of each row."""
    norms: Float = np.linalg.norm(weights, axis=1)
    return norms


@method(
    "l1",
    needs="weights",
    reconstruct="none",
    summary="removes the channels with the smallest sum of absolute weights; nothing is repaired",
    paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
)
def l1(evidence: Evidence) -> Ints:
    """Score: Σ|w| over all weights and biases that make the channel."""
    return by_score(l1_norms(evidence.weights), evidence.cells)


@method(
    "l2",
    needs="weights",
    reconstruct="none",
    summary="removes the channels with the smallest Euclidean norm of their weights; nothing is repaired",
    paper="He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018",
)
def l2(evidence: Evidence) -> Ints:
    """Score: ‖w‖₂ over all weights and biases that make the channel."""
    return by_score(l2_norms(evidence.weights), evidence.cells)
