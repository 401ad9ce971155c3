"""REAP: remove the channels whose behaviour the others can reconstruct."""

from onnxprune.elimination import eliminate
from onnxprune.methods import Evidence, Ints, method


@method(
    "reap",
    reconstruct="ls",
    summary="removes the channels that the others can best stand in for, and refits the layers that read them",
    paper="Kamma & Wada, REAP: A Method for Pruning Convolutional Neural Networks with Performance Preservation, "
    "IEICE Trans. E104-D(1), 2021",
)
def reap(evidence: Evidence) -> Ints:
    """Exact greedy backward elimination on the readers' inputs.

    The full text was not at hand: whether the paper selects per channel or per column of a k × k patch isn't known to
    us. Here a channel is the block of all columns that it feeds, in all its readers, and the removal cost is the exact
    increase of the damped least-squares error (see `elimination`). Where a reader is wide, each channel's
    leading directions stand for its block.
    """
    keep = len(set(evidence.cells.tolist()))
    problems = [problem.compressed for problem in evidence.problems]
    return eliminate(problems, damping=evidence.damping, cells=evidence.cells, keep=keep).order
