"""Survivors that take over what removed channels did: x_i ≈ a · x_j, so reader's weights of j gain a times those of i.

`Behaviours` holds what readers see of the channels of one group, which says who can stand in for whom. A channel is
seen as all rows that a reader has of it (the taps of a kernel, the places of a flattened map), with one factor for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.correlation import DEAD
from onnxprune.elimination import Problem

Ints = NDArray[np.int64]
Float = NDArray[np.float64]
NOBODY = -1


@dataclass(frozen=True)
class Takeover:
    """partner [n]: the survivor that takes over from each channel, or NOBODY; factors [readers or 1, n]: how strongly.

    With `affine`, biases make up for what the means of the readers' outputs would change.
    """

    partner: Ints
    factors: Float
    affine: bool


def products(problem: Problem, mean: Float, *, affine: bool) -> Float:
    """E[x xᵀ] of the rows that a reader has, [N, N]; about their means [N] if affine."""
    return problem.gram if affine else problem.gram + np.outer(mean, mean)


@dataclass(frozen=True)
class Behaviours:
    """Products of the channels' behaviours, grams [readers, n, n], and what each reader's error counts, [readers]."""

    grams: Float
    importance: Float

    @classmethod
    def of(cls, problems: Sequence[Problem], means: Sequence[Float], *, affine: bool) -> Behaviours:
        """Σ over a channel's rows of `products`; means [N]: of every row, per reader."""
        grams = []
        for problem, mean in zip(problems, means, strict=True):
            seen = products(problem, mean, affine=affine)
            grams.append(sum(seen[np.ix_(rows, rows)] for rows in problem.rows.T))
        return cls(np.stack(grams), np.array([p.importance for p in problems]))

    @property
    def energies(self) -> Float:
        """Energy of each channel in each reader, [readers, n]; 0 for dead ones, which stand in for nobody."""
        energies = np.einsum("qii->qi", self.grams)
        return np.where(energies > DEAD * energies.max(1, keepdims=True, initial=0.0), energies, 0.0)

    def factors(self, i: Ints | int, j: Ints | int) -> Float:
        """a_i←j [readers, ...] of least ‖x_i − a x_j‖²; 0 where x_j is dead."""
        energies = self.energies[:, j]
        return np.divide(self.grams[:, i, j], energies, out=np.zeros_like(self.grams[:, i, j]), where=energies > 0)

    def losses(self) -> Float:
        """‖x_i − a_i←j x_j‖² [readers, n, n]; on the diagonal ‖x_i‖², what it costs if nobody takes over."""
        energies = self.energies
        squares, shared = energies[:, None, :], np.square(self.grams)
        explained = np.divide(shared, squares, out=np.zeros_like(shared), where=squares > 0)
        losses = np.maximum(energies[:, :, None] - explained, 0.0)
        every = np.arange(losses.shape[1])
        losses[:, every, every] = energies
        return losses


def outgoing(problem: Problem) -> Float:
    """The reader's weights of each channel, [n, b * o]."""
    return problem.weight[problem.rows].reshape(len(problem.rows), -1)


def closest(problems: Sequence[Problem], means: Sequence[Float], kept: Ints) -> Takeover:
    """Each removed channel goes to the survivor that emulates it, up to a constant, with least error at the outputs."""
    seen = Behaviours.of(problems, means, affine=True)
    power = np.stack([np.square(outgoing(p)).sum(1) for p in problems]) * seen.importance[:, None]
    costs = np.einsum("qij,qi->ij", seen.losses(), power)
    partner = kept[costs[:, kept].argmin(1)]
    partner[kept] = NOBODY
    factors = seen.factors(np.arange(len(partner)), partner)
    return Takeover(partner, np.where(partner == NOBODY, 0.0, factors), affine=True)
