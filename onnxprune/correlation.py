"""Least-squares weights of a layer that keeps some of the rows that it reads.

A layer computes Y = X W. Its input X [S, N] is seen only through its (centred) Gram matrix H = XᵀX [N, N] and, where X
has changed since Y was recorded, through G = XᵀY [N, o]; otherwise G = H W. With D = diag(H) and a relative damping λ,
the weights V of the kept rows K minimise

    ‖Y − X_K V‖² + λ ‖V − W_K‖²_D,   that is   (H_KK + λ D_K) V = G_K + λ D_K W_K,

so that W itself comes back when nothing is removed and X hasn't changed. All is solved in correlation units: rows
scaled by D^½, H with a unit diagonal; in float64 but for wide matrices that are damped. Rows without variance are dead
and have no part in the error. What isn't finite raises DataError; what can't be factored however damped InternalError.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from onnxprune.errors import DataError, InternalError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

DEAD = 1e-14  # a row with less than this part of the largest variance is dead
COARSE = 1e-2  # relative damping from which rounding in float32 (1e-6, in effect) is none worth mentioning
SMALL = 512  # rows of a matrix up to which all is done in float64
RETRIES = 12  # Cholesky factorisations tried, each with ten times the damping of the one before
TILE = 64  # rows of a matrix that are copied or mirrored at a time


@dataclass(frozen=True)
class Correlation:
    """A Gram matrix of some rows in correlation units, the left-hand side of (correlation + λ I) v = target.

    Only the upper triangle of `matrix` counts.
    root [N] is the square root of each row's variance, 0 for dead rows: uncorrelated rows with a target of 0.
    """

    matrix: Array
    root: Array
    rows: Indices

    @classmethod
    def of(cls, gram: Array, rows: Indices) -> Correlation:
        """Of these rows, in this order."""
        return cls.among(square(gram, rows), rows, float(np.diagonal(gram).max(initial=0.0)))

    @classmethod
    def among(cls, matrix: Array, rows: Indices, largest: float, least: float = 0.0) -> Correlation:
        """Of rows whose own Gram matrix this is (which is overwritten); `largest` is the largest variance of all.

        Rows of less than `least`, a variance, are scaled (and so damped) as if they had that.
        """
        variance = np.diagonal(matrix)
        _demand_finite(matrix)
        root = np.sqrt(np.where(variance > DEAD * largest, np.maximum(variance, least), 0.0))
        inverse = inverted(root)
        matrix *= inverse
        matrix *= inverse[:, None]
        np.fill_diagonal(matrix, np.where(root > 0, np.diagonal(matrix), 1.0))
        return cls(matrix, root, rows)

    def prior(self, weight: Array) -> Array:
        """W [N, o] in these units."""
        _demand_finite(weight)
        scaled: Array = weight[self.rows] * self.root[:, None]
        return scaled

    def covariance(self, cross: Array) -> Array:
        """G [N, o] in these units."""
        _demand_finite(cross)
        scaled: Array = cross[self.rows] * inverted(self.root)[:, None]
        return scaled

    def factor(self, damping: float) -> Factor:
        """The Cholesky factor for a damping; of a wide matrix in float32, where that changes the damping by little."""
        if len(self.matrix) > SMALL and damping >= COARSE:
            coarse = self.matrix.astype(np.float32)
            coarse.flat[:: len(coarse) + 1] += damping
            lower, failed = lapack.spotrf(coarse.T, lower=1, clean=1, overwrite_a=1)
            if not failed:
                return Factor(self, lower, damping)
        return Factor(self, *cholesky(self.matrix, damping))


@dataclass(frozen=True)
class Factor:
    """The lower Cholesky factor of correlation + λ I, and λ: one serves all targets."""

    correlation: Correlation
    lower: Array
    damping: float

    def half(self, cross: Array, prior: Array) -> Array:
        """The target after the first of two triangular solves, [N, o]."""
        target = self.correlation.covariance(cross) + self.damping * self.correlation.prior(prior)
        target = target.astype(self.lower.dtype, copy=False)
        return np.asarray(solve_triangular(self.lower, target, lower=True, check_finite=False))

    def weights(self, half: Array, prior: Array) -> Array:
        """V [k, o] of the first k rows, from the first k rows of `half` and of the prior weights in their order."""
        k = len(half)
        scaled = solve_triangular(self.lower[:k, :k], half, lower=True, trans="T", check_finite=False)
        root = self.correlation.root[:k, None]
        return np.divide(scaled, root, out=prior.copy(), where=root > 0)

    def solve(self, cross: Array, prior: Array) -> Array:
        """V [N, o] of the kept rows, zero elsewhere."""
        weights = np.zeros_like(prior)
        rows = self.correlation.rows
        weights[rows] = self.weights(self.half(cross, prior), prior[rows])
        return weights


class Nested:
    """Least-squares weights for every leading part of `order`, its rows in order of importance.

    The leading parts of a matrix have the leading parts of its Cholesky factor: one factorisation serves all
    levels, and each costs one triangular solve. gram [N, N], cross = G [N, o] and prior = W [N, o] are those
    of the module's equation; `damping` becomes the λ used, ten times more as often as factoring needs.
    """

    def __init__(self, gram: Array, cross: Array, prior: Array, order: Indices, damping: float = 1e-4) -> None:
        self.order, self.prior = order, prior
        self.factor = Correlation.of(gram, order).factor(damping)
        self.damping = self.factor.damping
        self.half = self.factor.half(cross, prior)

    def leading(self, k: int) -> Array:
        """V [k, o] for the first k rows, in their order; dead rows keep their prior weights."""
        return self.factor.weights(self.half[:k], self.prior[self.order[:k]])

    def solve(self, k: int) -> Array:
        """V [N, o] for the first k rows in order, zero elsewhere."""
        weights = np.zeros_like(self.prior)
        weights[self.order[:k]] = self.leading(k)
        return weights


class Removal:
    """What it changes to remove any of a few `rows` [r] from weights W [N, o], all others refitted (G = H W).

    With M = (H + λ D)⁻¹ the weights without the rows R are W − M_:R M_RR⁻¹ W_R: one factorisation serves all sets.
    """

    def __init__(self, gram: Array, rows: Indices, damping: float = 1e-4) -> None:
        correlation = Correlation.of(gram, np.arange(len(gram)))
        factor = correlation.factor(damping)
        units = np.zeros((len(gram), len(rows)), factor.lower.dtype, order="F")
        units[rows, np.arange(len(rows))] = 1.0
        half = solve_triangular(factor.lower, units, lower=True, check_finite=False)
        columns = solve_triangular(factor.lower, half, lower=True, trans="T", check_finite=False)
        self.influence = np.asarray(columns, np.float64) * inverted(correlation.root)[:, None]
        self.root = correlation.root[rows]
        self._inner = (half.T @ half).astype(np.float64)

    def shares(self, gone: Indices | slice, weight: Array) -> Array:
        """By what the influence [N, g] of the rows that go is multiplied, [g, o]; weight [g, o] is what they have."""
        return np.asarray(np.linalg.solve(self._inner[gone][:, gone], self.root[gone, None] * weight), np.float64)


def solve(gram: Array, cross: Array, prior: Array, rows_kept: Indices, damping: float = 1e-4) -> Array:
    """Least-squares weights V [N, o] of the kept rows, zero elsewhere: `Nested` at one level."""
    return Correlation.of(gram, rows_kept).factor(damping).solve(cross, prior)


def squared_error(gram: Array, cross: Array, power: float, weights: Array) -> float:
    """‖Y − X V‖² = power − 2 tr(VᵀG) + tr(VᵀHV), where power is ‖Y‖²; V may come from other data."""
    return float(power + np.sum(weights * (gram @ weights - 2 * cross)))


# ---------------------------------------------------------------------------------------------- matrices


def cholesky(gram: Array, damping: float) -> tuple[Array, float]:
    """Lower factor of a matrix (upper triangle, diagonal about 1) + λ I, and λ: ten times more as often as needed."""
    smallest = len(gram) * np.finfo(np.float64).eps
    for _ in range(RETRIES):
        damped = gram.copy()
        damped.flat[:: len(gram) + 1] += damping
        lower, failed = lapack.dpotrf(damped.T, lower=1, clean=1, overwrite_a=1)
        if not failed and np.diagonal(lower).min(initial=1.0) ** 2 > smallest:
            return lower, damping
        damping = max(10 * damping, 1e-12)
    raise InternalError(f"a Gram matrix of {len(gram)} rows isn't positive definite, however much damped")


def symmetric(upper: Array) -> Array:
    """The symmetric matrix [N, N] with this upper triangle, whatever is below it; row-major."""
    full = upper.copy(order="K")
    for start in range(0, len(full), TILE):
        own = slice(start, start + TILE)
        block = full[own, own]
        block[:] = np.triu(block) + np.triu(block, 1).T
        for below in range(start + TILE, len(full), TILE):
            full[below : below + TILE, own] = full[own, below : below + TILE].T
    return full if full.flags.c_contiguous else full.T


def square(matrix: Array, rows: Indices) -> Array:
    """Some rows and the same columns of a symmetric matrix, in this order; row-major."""
    matrix = matrix.T if matrix.flags.f_contiguous else matrix  # whole rows are quick to copy where they are contiguous
    found = np.empty((len(rows), len(rows)))
    for start in range(0, len(rows), TILE):
        own = slice(start, start + TILE)
        np.take(matrix.take(rows[own], 0), rows, 1, out=found[own], mode="clip")
    return found


def narrow(target: Array) -> Array:
    """The target or, if wider than high, a square one of the same target @ target.T: costs need no more."""
    rows, outputs = target.shape
    if outputs <= rows:
        return target
    _, r = np.linalg.qr(target.T)
    return np.ascontiguousarray(r.T)


def inverse_of(lower: Array) -> Array:
    """H⁻¹, given the lower Cholesky factor of H."""
    triangle, _ = lapack.dpotri(lower, lower=1)
    return symmetric(triangle.T)


def inverted(root: Array) -> Array:
    """1 / root, 0 where that is 0."""
    return np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)


def _demand_finite(moment: Array) -> None:
    if not np.isfinite(moment).all():
        raise DataError("the model makes infinities or NaN of these inputs; are they preprocessed as it expects?")
