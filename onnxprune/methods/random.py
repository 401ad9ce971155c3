"""Random: the baseline that any criterion must beat."""

import numpy as np

from onnxprune.methods import Evidence, Ints, by_score, method


@method(
    "random",
    needs="weights",
    reconstruct="none",
    summary="removes channels at random; nothing is repaired",
    paper="baseline",
)
def random(evidence: Evidence) -> Ints:
    """Score: uniform noise."""
    return by_score(evidence.rng.random(len(evidence.cells)), np.asarray(evidence.cells))
