"""Wanda: weights times the size of what they are multiplied by."""

import numpy as np

from onnxprune.elimination import Problem
from onnxprune.methods import Evidence, Float, Ints, by_score, method, over_readers


def products(problem: Problem, mean: Float) -> Float:
    """Σ |W_ro| · ‖x_r‖ over outputs o and each channel's rows r, [n]."""
    sizes = np.sqrt(np.diag(problem.gram) + np.square(mean))
    rows = np.abs(problem.weight).sum(1) * sizes
    found: Float = rows[problem.rows].sum(1)
    return found


@method(
    "wanda",
    reconstruct="none",
    summary="removes the channels with the least sum of |weight| × size of the input; nothing is repaired",
    paper="Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024",
)
def wanda(evidence: Evidence) -> Ints:
    """Score: each channel's share of Σ|W|·‖x‖ in its readers.

    Known deviation: the paper removes single weights, compared within each output; here their scores are added up over
    all that a layer reads of a channel.
    """
    return by_score(over_readers(evidence, products), evidence.cells)
