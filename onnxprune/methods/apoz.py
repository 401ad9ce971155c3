"""Network Trimming: remove the channels that are switched off most of the time."""

from onnxprune.errors import InternalError
from onnxprune.methods import Evidence, Ints, by_score, method


@method(
    "apoz",
    needs="activity",
    reconstruct="ls",
    summary="removes the channels whose activation is zero most often, and refits the layers that read them",
    paper="Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures, "
    "arXiv:1607.03250, 2016",
)
def apoz(evidence: Evidence) -> Ints:
    """Score: 1 − the average percentage of zeros (APoZ) behind the activation.

    Where no channel of a group is ever exactly zero (sigmoid, SiLU, GELU, none at all), values below a tenth of the
    layer's root mean square are counted instead; there the criterion says less.

    Known deviations: the paper retrains between its steps, which is what --iterations with --retrain does; without
    --retrain the recovery is our least squares. It trims a few layers at a time, here all are trimmed together.
    """
    if evidence.zeros is None or evidence.faint is None:
        raise InternalError("apoz was called without the activity that it needs")
    off = evidence.zeros if evidence.zeros.any() else evidence.faint
    return by_score(1.0 - off, evidence.cells)
