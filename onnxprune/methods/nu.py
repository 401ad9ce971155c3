"""Neuro-Unification: channels that behave alike become one, pair after pair."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxprune.methods import Evidence, Float, Ints, method
from onnxprune.takeover import NOBODY, Behaviours, Takeover, products

PAPER = (
    "Kamma, Isoda, Inoue & Wada, Neural Behavior-Based Approach for Neural Network Pruning, "
    "IEICE Trans. E103-D(5), 2020"
)


class _Unification:
    """What is left of n channels while they are unified, and what the readers' outputs have lost.

    Channel i is emulated by j as a x_j (affine: + c) of least ‖x_i − a x_j‖², and w_j ← w_j + a w_i. What a reader
    has lost, XE, then grows by (x_i − a x_j) w_i, and its square by ‖(x_i − a x_j) w_i‖² + 2 ⟨XE, (x_i − a x_j) w_i⟩.
    `alone` [readers, n, n] holds the first term of all pairs, and `crossed` the products ⟨(XᵀXE)_k, w_l⟩.
    """

    def __init__(self, evidence: Evidence, affine: bool) -> None:
        self.cells, self.affine = evidence.cells, affine
        seen = Behaviours.of(evidence.problems, evidence.means, affine=affine)
        n = len(self.cells)
        self.importance = seen.importance
        self.factors = seen.factors(*np.indices((n, n)))
        self.factors[:, np.arange(n), np.arange(n)] = 0.0  # of a channel whose place nobody takes
        self.grams, self.weights = [], []
        for problem, mean in zip(evidence.problems, evidence.means, strict=True):
            rows = problem.rows.ravel()
            gram = products(problem, mean, affine=affine)[np.ix_(rows, rows)]
            self.grams.append(gram.reshape(*problem.rows.shape, *problem.rows.shape))
            self.weights.append(problem.weight[problem.rows])
        self.crossed = np.zeros_like(self.factors)
        self.alone = np.stack([self._alone(q, np.arange(n)) for q in range(len(self.grams))])
        self.alive = np.ones(n, bool)
        self.order: list[int] = []
        self.partners: list[int] = []

    def _alone(self, q: int, channels: Ints) -> Float:
        """‖(x_i − a x_j) w_i‖² of some channels i and all j."""
        gram, factors = self.grams[q], self.factors[q, channels]
        between = self.weights[q][channels] @ self.weights[q][channels].swapaxes(1, 2)
        own = np.einsum("mtmu->mtu", gram)
        squares = np.einsum("ntu,mtu->mn", own, between)
        products = np.einsum("mtnu,mtu->mn", gram[channels], between, optimize=True)
        itself = squares[np.arange(len(channels)), channels][:, None]
        alone: Float = itself - factors * (2 * products - factors * squares)
        return alone

    def run(self, goes: NDArray[np.bool_], steps: int) -> None:
        """So many unifications of channels that may go, one of each cell in turn."""
        waiting = np.zeros_like(goes)
        for _ in range(steps):
            if not (self.alive & waiting).any():
                waiting = goes.copy()
            gone, partner = self._cheapest(self.alive & waiting)
            self._unify(gone, partner)
            waiting[self.cells == self.cells[gone]] = False

    def _cheapest(self, allowed: NDArray[np.bool_]) -> tuple[int, int]:
        """The channel, and its partner or itself, whose unification leaves the least error."""
        gone, here = np.flatnonzero(allowed), np.flatnonzero(self.alive)
        error = np.zeros((len(gone), len(here)))
        for importance, alone, factors, crossed in zip(
            self.importance, self.alone, self.factors, self.crossed, strict=True
        ):
            lost = crossed[gone, gone][:, None] - factors[np.ix_(gone, here)] * crossed[np.ix_(here, gone)].T
            error += importance * (alone[np.ix_(gone, here)] + 2 * lost)
        i, j = np.unravel_index(error.argmin(), error.shape)
        return int(gone[i]), int(here[j])

    def _unify(self, gone: int, partner: int) -> None:
        """The partner takes over; if it is the channel itself, nobody does."""
        n = len(self.alive)
        for q, (gram, weights) in enumerate(zip(self.grams, self.weights, strict=True)):
            factor, own = self.factors[q, gone, partner], weights[gone]
            change = gram[:, :, gone] - factor * gram[:, :, partner]
            self.crossed[q] += change.reshape(n, -1) @ (weights @ own.T).reshape(n, -1).T
            if partner != gone:
                weights[partner] += factor * own
                self.crossed[q][:, partner] += factor * self.crossed[q][:, gone]
                self.alone[q, partner] = self._alone(q, np.array([partner]))
        self.alive[gone] = False
        self.order.append(gone)
        self.partners.append(partner if partner != gone else NOBODY)

    def takeover(self) -> Takeover:
        """Who takes over in the end: the partner, or who has taken over from that."""
        n = len(self.alive)
        partner, factors = np.full(n, NOBODY), np.zeros((len(self.weights), n))
        for gone, j in zip(reversed(self.order), reversed(self.partners), strict=True):
            if j == NOBODY:
                continue
            own = self.factors[:, gone, j]
            if self.alive[j]:
                partner[gone], factors[:, gone] = j, own
            else:
                partner[gone], factors[:, gone] = partner[j], own * factors[:, j]
        return Takeover(partner, factors, self.affine)


def nu(evidence: Evidence, *, affine: bool) -> Ints:
    """Greedy unification: in each step that of the pair after which the readers' outputs have changed least.

    The full text was not at hand. The abstract says that neurons are coded by their outputs on real inputs, channels
    of convolutions by their feature maps, that similar ones are unified, and that the survivor emulates the pruned
    one. How alike two are is taken as what their unification adds to the squared error of the readers' outputs. That
    counts what earlier unifications have changed there: without it, as if every pair were the first, LeNet-300-100
    loses 0.3 to 2.8 points more at 50 to 80 %. Each reader has factors of its own.
    """
    state = _Unification(evidence, affine)
    state.run(np.ones(len(evidence.cells), bool), len(evidence.cells) - len(np.unique(evidence.cells)))
    return np.array(state.order, np.int64)


def unified(evidence: Evidence, kept: Ints, *, affine: bool) -> Takeover:
    """The same unifications until only `kept` is left."""
    state = _Unification(evidence, affine)
    goes = np.ones(len(evidence.cells), bool)
    goes[kept] = False
    state.run(goes, int(goes.sum()))
    return state.takeover()


for _name, _affine, _what in (("nu", True, "factor and a constant"), ("nu-linear", False, "factor")):
    _order = partial(nu, affine=_affine)
    _order.__doc__ = nu.__doc__
    method(
        _name,
        reconstruct="unify",
        summary=f"unifies the two channels that behave most alike up to a {_what}, again and again",
        paper=PAPER,
        takeover=partial(unified, affine=_affine),
    )(_order)
