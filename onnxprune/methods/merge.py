"""Neuron Merging: what a removed channel did goes to the survivor whose weights point the same way. No data."""

from collections.abc import Callable
from functools import partial

import numpy as np

from onnxprune.methods import Evidence, Float, Ints, by_score, method
from onnxprune.methods.gm import distances
from onnxprune.methods.magnitude import l1_norms, l2_norms
from onnxprune.takeover import NOBODY, Takeover

COSINES = {False: 0.45, True: 0.1}  # least cosine for which channels are merged: matrices, convolutions


def merged(evidence: Evidence, kept: Ints) -> Takeover:
    """W ≈ Z Y, with Y the kept rows of W: z_ij = ‖w_i‖ / ‖w_j‖ at the j of the largest cosine, if it is large enough.

    Behind whatever passes positive factors on, x_i = x_j · z_ij where w_i = z_ij w_j.
    """
    weights, cells = evidence.weights, evidence.cells
    norms = l2_norms(weights)
    unit = weights / np.where(norms > 0, norms, 1.0)[:, None]
    cosines = np.where(cells[:, None] == cells[kept], unit @ unit[kept].T, -1.0)
    closest = cosines.argmax(1)
    partner = kept[closest]
    alike = cosines[np.arange(len(partner)), closest] >= COSINES[evidence.spatial]
    partner[~alike | ~np.full(len(partner), evidence.scales)] = NOBODY
    partner[kept] = NOBODY
    factors = np.divide(norms, norms[partner], out=np.zeros_like(norms), where=partner != NOBODY)
    return Takeover(partner, factors[None], affine=False)


def _merge(evidence: Evidence, norm: Callable[[Float], Float]) -> Ints:
    """Selection by the size of the weights, as if nothing was merged; merging (see `merged`) comes with `unify`.

    Weights are [w, b] with BatchNormalization folded in, for convolutions as for matrices, so a model gives the same
    with and without BatchNormalization nodes, and a negative scale or a bias that doesn't fit lowers the cosine.

    Known deviations: for convolutions the paper weighs the cosine of the filters against the mismatch of the biases
    (λ = 0.85); the ratio of the BatchNormalizations in the released code is the reciprocal of the one that follows from
    the algebra. A Clip counts as a ReLU. Where anything else than ReLU, LeakyReLU, pooling and the like stands between
    a layer and its readers (a sigmoid, a depthwise convolution), merging isn't valid, and channels are just removed.
    """
    return by_score(norm(evidence.weights), evidence.cells)


for _name, _norm, _what in (
    ("merge", l1_norms, "smallest sum of absolute weights"),
    ("merge-l2", l2_norms, "smallest norm of weights"),
    ("merge-gm", distances, "weights closest to the geometric median"),
):
    _order = partial(_merge, norm=_norm)
    _order.__doc__ = _merge.__doc__
    method(
        _name,
        needs="weights",
        reconstruct="unify",
        summary=f"removes the channels with the {_what}; survivors of like weights take over, without data",
        paper="Kim et al., Neuron Merging: Compensating for Pruned Neurons, NeurIPS 2020",
        takeover=merged,
    )(_order)
