"""Neuro-Unification: the pair of channels that behave most alike become one, again and again."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxprune.methods import Evidence, Ints, emulated, method
from onnxprune.takeover import Behaviours, outgoing

PAPER = (
    "Kamma, Isoda, Inoue & Wada, Neural Behavior-Based Approach for Neural Network Pruning, "
    "IEICE Trans. E103-D(5), 2020"
)


class _Unification:
    """Channels that are still there, their weights in the readers, and the cheapest partner of each.

    Channel i is emulated by j as a_i←j x_j (affine: + c), at a cost of ‖x_i − a x_j‖² ‖w_i‖² per reader.
    """

    def __init__(self, evidence: Evidence, affine: bool) -> None:
        self.seen = Behaviours.of(evidence.problems, evidence.means, affine=affine)
        self.losses = self.seen.losses() * self.seen.importance[:, None, None]
        self.weights = [outgoing(p) for p in evidence.problems]
        self.power = np.stack([np.square(w).sum(1) for w in self.weights])
        n = len(evidence.cells)
        self.alive = np.ones(n, bool)
        self.costs, self.partners = np.empty(n), np.empty(n, np.int64)
        self._look(np.arange(n))

    def _look(self, channels: Ints) -> None:
        """Find the best partner of some channels; where none is of use it may be the channel itself."""
        table = np.einsum("qij,qi->ij", self.losses[:, channels], self.power[:, channels])
        table[:, ~self.alive] = np.inf
        self.partners[channels], self.costs[channels] = table.argmin(1), table.min(1)

    def unify(self, allowed: NDArray[np.bool_]) -> int:
        """Carry out the cheapest unification of an allowed channel, w_j ← w_j + a w_i; gives the channel that goes."""
        gone = int(np.where(self.alive & allowed, self.costs, np.inf).argmin())
        partner = int(self.partners[gone])
        self.alive[gone] = False
        if partner != gone:
            for q, factor in enumerate(self.seen.factors(gone, partner)):
                self.weights[q][partner] += factor * self.weights[q][gone]
                self.power[q, partner] = np.square(self.weights[q][partner]).sum()
        self._look(np.flatnonzero(self.alive & ((self.partners == gone) | (np.arange(len(self.alive)) == partner))))
        return gone


def nu(evidence: Evidence, *, affine: bool) -> Ints:
    """Greedy unification of the most similar pair, by the Gram matrices of what the readers see.

    The full text was not at hand. The abstract says that neurons are coded by their outputs on real inputs, channels
    of convolutions by their feature maps, that similar ones are unified, and that the survivor emulates the pruned
    one; the cost is what follows from that for the readers' outputs. Each reader has factors of its own.

    In the end the weights of what was unified go straight to the survivor that emulates it best, not through those that
    took over in between: the accuracy is the same (within 0.2 points on LeNet-300-100), and there is nothing to keep.
    """
    cells, state = evidence.cells, _Unification(evidence, affine)
    count = len(np.unique(cells))
    order = np.empty(len(cells) - count, np.int64)
    for step in range(len(order)):
        if step % count == 0:
            waiting = np.ones(len(cells), bool)
        order[step] = state.unify(waiting)
        waiting[cells == cells[order[step]]] = False
    return order


for _name, _affine, _what in (("nu", True, "factor and a constant"), ("nu-linear", False, "factor")):
    _order = partial(nu, affine=_affine)
    _order.__doc__ = nu.__doc__
    method(
        _name,
        reconstruct="unify",
        summary=f"unifies the two channels that behave most alike up to a {_what}, again and again",
        paper=PAPER,
        takeover=partial(emulated, affine=_affine),
    )(_order)
