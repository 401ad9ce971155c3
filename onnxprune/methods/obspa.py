"""OBSPA: optimal brain surgeon on the behaviour of the network on noise."""

from onnxprune.methods import Evidence, Ints, method
from onnxprune.methods.reap import reap


@method(
    "obspa",
    needs="noise",
    reconstruct="local",
    summary="removes what the others can best stand in for on noise, and refits on noise: no data at all",
    paper="Wang et al., Structurally Prune Anything: Any Architecture, Any Framework, Any Time, arXiv:2403.18955, 2024",
)
def obspa(evidence: Evidence) -> Ints:
    """The elimination of `reap` on inputs of normal noise (0 or 1 for integers).

    The full text was not at hand. Known deviations: the paper refreshes the statistics of BatchNormalization
    afterwards, here the refitted biases do that; it normalises scores per operator, here they are errors at readers,
    each relative to that reader's output.
    """
    return reap(evidence)
