"""Which channels a layer can do without, and the least-squares weights of those that stay.

A reader of n channels computes Y = X W. Its input X [S, N] is seen only through its (centred) Gram matrix
H = XᵀX [N, N] and, where X has changed since Y was recorded, through G = XᵀY [N, o]; otherwise G = H W. With
D = diag(H) and a relative damping λ, the weights V of the kept rows K minimise

    ‖Y − X_K V‖² + λ ‖V − W_K‖²_D,   that is   (H_KK + λ D_K) V = G_K + λ D_K W_K,

so that W itself comes back when nothing is removed and X hasn't changed. Everything is float64 and solved in
correlation units: rows scaled by D^½, H with a unit diagonal. Rows without variance are dead and have no part
in the error. Whatever isn't finite, or can't be factored however damped, raises InternalError.

`eliminate` ranks channels by exact greedy backward elimination, `Nested` solves for V at each of its levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from onnxprune.errors import InternalError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

DEAD = 1e-14  # a row with less than this part of the largest variance is dead
RETRIES = 12  # Cholesky factorisations tried, each with ten times the damping of the one before
PANEL_ROWS = 64  # rows removed between two updates of the whole inverse
REFRESH = 8  # updates of the inverse before it is computed afresh


@dataclass(frozen=True)
class Problem:
    """One reader's least-squares problem.

    gram [N, N] is the Gram matrix of its input, weight [N, o] its weights, rows [n, b] the rows that each
    channel owns; rows of no channel always stay. cross [N, o] is XᵀY, None where that equals gram @ weight.
    importance scales this reader's squared error in the sum over readers.
    """

    gram: Array
    weight: Array
    rows: Indices
    importance: float = 1.0
    cross: Array | None = None


@dataclass(frozen=True)
class Elimination:
    """Channels in order of removal, and the error that each removal adds (importance · gram · weight²)."""

    order: Indices
    losses: Array


def eliminate(
    problems: Sequence[Problem],
    *,
    damping: float = 1e-4,
    keep: int = 1,
    cells: NDArray[np.integer] | None = None,
    panel: int | None = None,
) -> Elimination:
    """Remove the channel whose removal adds least error, all other weights refitted, until `keep` are left.

    The problems share n channels. With cells [n], labels of equally many channels each, each round removes
    one channel of every cell, and only whole rounds are made. Ties go to the lowest index. panel is the
    number of removals between two updates of the whole inverse: it changes the speed, not the result.

    Raises ValueError for problems of different channels, or cells of different sizes.
    REAP: Kamma & Wada, IEICE Trans. E104-D(1) 194–202, 2021, as block Schur complements.
    """
    n = _channel_count(problems)
    labels, cell_count = _labels(np.zeros(n, np.intp) if cells is None else cells)
    panel = panel or max(1, PANEL_ROWS // max(problem.rows.shape[1] for problem in problems))
    survivors = _Survivors([_Reader(problem, damping, panel) for problem in problems], n)
    removals = max(n - keep, 0) // cell_count * cell_count
    order, losses = np.empty(removals, np.intp), np.empty(removals)
    for step in range(removals):
        if step % cell_count == 0:
            waiting = np.ones(cell_count, bool)
        if step % panel == 0 and step > 0:
            survivors.compact(afresh=step % (REFRESH * panel) == 0)
        order[step], losses[step] = survivors.remove_cheapest(waiting[labels])
        waiting[labels[order[step]]] = False
    return Elimination(order, losses)


def ranked_rows(rows: Indices, order: Indices, size: int) -> Indices:
    """All `size` rows, most important first: of no channel, of channels never removed, of the last removed.

    rows [n, b] are those of a `Problem`, order that of an `Elimination`.
    """
    stayed = np.setdiff1d(np.arange(len(rows)), order)
    return np.concatenate([_fixed_rows(rows, size), rows[stayed].ravel(), rows[order[::-1]].ravel()])


def _channel_count(problems: Sequence[Problem]) -> int:
    counts = {len(problem.rows) for problem in problems}
    if len(counts) != 1:
        raise ValueError(f"the problems of one elimination must have the same channels, not {sorted(counts)}")
    return counts.pop()


def _labels(cells: NDArray[np.integer]) -> tuple[Indices, int]:
    """Cells renumbered from 0, and how many there are."""
    _, labels, sizes = np.unique(cells, return_inverse=True, return_counts=True)
    if len(set(sizes.tolist())) != 1:
        raise ValueError(f"cells must be equally large, not of {sizes.tolist()} channels")
    return labels, len(sizes)


class _Survivors:
    """The channels at each position in the readers, and which of them have gone since the last `compact`."""

    def __init__(self, readers: list["_Reader"], n: int) -> None:
        self.readers = readers
        self.channels = np.arange(n)
        self.gone = np.zeros(n, bool)

    def remove_cheapest(self, allowed: NDArray[np.bool_]) -> tuple[int, float]:
        """Remove the cheapest of the allowed [n] channels; return it and its cost."""
        position, cost = self._cheapest(allowed)
        if not cost >= 0:  # rounding has used up the inverse
            self.compact(afresh=True)
            position, cost = self._cheapest(allowed)
        for reader in self.readers:
            reader.remove(position)
        self.gone[position] = True
        return int(self.channels[position]), max(cost, 0.0)

    def _cheapest(self, allowed: NDArray[np.bool_]) -> tuple[int, float]:
        costs = np.sum([reader.costs() for reader in self.readers], axis=0)
        costs[self.gone | ~allowed[self.channels]] = np.inf
        position = int(costs.argmin())
        return position, float(costs[position])

    def compact(self, *, afresh: bool) -> None:
        """Drop what has gone, and bring every reader's inverse up to date (or compute it afresh)."""
        alive = np.flatnonzero(~self.gone)
        for reader in self.readers:
            reader.compact(alive, afresh=afresh)
        self.channels = self.channels[alive]
        self.gone = np.zeros(len(alive), bool)


class _Reader:
    """The inverse M = H⁻¹ [N, N] and weights W = M G [N, o] of a problem's alive rows, channels' rows first.

    Removing the rows c costs tr(W_cᵀ M_cc⁻¹ W_c); it takes M_:c M_cc⁻¹ M_c: from M, M_:c M_cc⁻¹ W_c from W.
    All that costs need are each channel's blocks [n, b, b] of M (`pivots`) and W Wᵀ (`power`), which are kept
    exact. M and W follow in panels; until then they stand for M − UᵀK and W − KᵀT, where U, K [r, N] and
    T [r, o] have one row for each removed one.
    """

    def __init__(self, problem: Problem, damping: float, panel: int) -> None:
        self.block = problem.rows.shape[1]
        self.importance = problem.importance
        self.capacity = panel * self.block
        rows = np.concatenate([problem.rows.ravel(), _fixed_rows(problem.rows, len(problem.gram))])
        equations = _Equations.of(problem.gram, problem.cross, problem.weight, rows)
        self.correlation = equations.correlation
        lower, self.damping = _cholesky(self.correlation, damping)
        self.target = _narrow(equations.target(self.damping))
        self.rows = np.arange(len(rows))
        self._restart(len(problem.rows), *_inverse(lower, self.target))

    def costs(self) -> Array:
        """Importance times the error that removing each channel would add, [n]."""
        if self.block == 1:
            return self.importance * self.power.ravel() / self.pivots.ravel()
        traces: Array = np.einsum("nii->n", np.linalg.solve(self.pivots, self.power))
        return self.importance * traces

    def remove(self, position: int) -> None:
        """Remove a channel: its rows go to U, K, T, every channel's blocks change."""
        b, r, n = self.block, self.used, len(self.pivots)
        own = slice(position * b, (position + 1) * b)
        past_k, past_t = self.k[:r], self.t[:r]
        u = self.inverse[own] - past_k[:, own].T @ self.u[:r]
        k = np.linalg.solve(u[:, own], u)
        t = self.weight[own] - past_k[:, own].T @ past_t
        products = t @ self.weight.T - (t @ past_t.T) @ past_k
        z = products - 0.5 * products[:, own] @ k
        u_blocks, k_blocks, z_blocks = (x[:, : n * b].reshape(b, n, b).swapaxes(0, 1) for x in (u, k, z))
        self.pivots -= k_blocks.swapaxes(1, 2) @ u_blocks
        change = k_blocks.swapaxes(1, 2) @ z_blocks
        self.power -= change + change.swapaxes(1, 2)
        self.pivots[position], self.power[position] = np.eye(b), 0.0
        self.u[r : r + b], self.k[r : r + b], self.t[r : r + b] = u, k, t
        self.used += b

    def compact(self, alive: Indices, *, afresh: bool) -> None:
        """Keep the channels at these positions, with an up-to-date (or freshly computed) inverse."""
        n, b, r = len(self.pivots), self.block, self.used
        places = np.arange(len(self.rows))
        kept = np.concatenate([places[: n * b].reshape(n, b)[alive].ravel(), places[n * b :]])
        self.rows = self.rows[kept]
        if afresh:
            lower, _ = _cholesky(_square(self.correlation, self.rows), self.damping)
            self._restart(len(alive), *_inverse(lower, self.target[self.rows]))
        else:
            u, k = self.u[:r, kept], self.k[:r, kept]
            inverse, weight = _square(self.inverse, kept), self.weight[kept]
            inverse -= u.T @ k
            weight -= k.T @ self.t[:r]
            self._restart(len(alive), inverse, weight)

    def _restart(self, n: int, inverse: Array, weight: Array) -> None:
        b = self.block
        self.inverse, self.weight = inverse, weight
        every = np.arange(n)
        self.pivots = inverse[: n * b, : n * b].reshape(n, b, n, b)[every, :, every]
        blocks = weight[: n * b].reshape(n, b, -1)
        self.power = blocks @ blocks.swapaxes(1, 2)
        self.u, self.k = np.empty((2, self.capacity, len(inverse)))
        self.t = np.empty((self.capacity, weight.shape[1]))
        self.used = 0


def _fixed_rows(rows: Indices, size: int) -> Indices:
    return np.setdiff1d(np.arange(size), rows)


def _square(matrix: Array, rows: Indices) -> Array:
    return matrix.take(rows, 0).take(rows, 1)


def _narrow(target: Array) -> Array:
    """The target or, if wider than high, a square one of the same target @ target.T: costs need no more."""
    rows, outputs = target.shape
    if outputs <= rows:
        return target
    _, r = np.linalg.qr(target.T)
    return np.ascontiguousarray(r.T)


def _inverse(lower: Array, target: Array) -> tuple[Array, Array]:
    """H⁻¹ and H⁻¹ target, given the lower Cholesky factor of H."""
    weight, _ = lapack.dpotrs(lower, target, lower=1)
    triangle, _ = lapack.dpotri(lower, lower=1)
    return np.tril(triangle) + np.tril(triangle, -1).T, np.ascontiguousarray(weight)


class Nested:
    """Least-squares weights for every leading part of `order`, its rows in order of importance.

    The leading parts of a matrix have the leading parts of its Cholesky factor: one factorisation serves all
    levels, and each costs one triangular solve. gram [N, N], cross = G [N, o] and prior = W [N, o] are those
    of the module's equation; `damping` becomes the λ used, ten times more as often as factoring needs.
    """

    def __init__(self, gram: Array, cross: Array, prior: Array, order: Indices, damping: float = 1e-4) -> None:
        self.order, self.prior = order, prior
        equations = _Equations.of(gram, cross, prior, order)
        self.root = equations.root
        self.lower, self.damping = _cholesky(equations.correlation, damping)
        self.half = solve_triangular(self.lower, equations.target(self.damping), lower=True)

    def solve(self, k: int) -> Array:
        """V [N, o] for the first k rows in order, zero elsewhere; dead rows keep their prior weights."""
        scaled = solve_triangular(self.lower[:k, :k], self.half[:k], lower=True, trans="T")
        kept, root = self.order[:k], self.root[:k, None]
        weights = np.zeros_like(self.prior)
        weights[kept] = np.divide(scaled, root, out=self.prior[kept], where=root > 0)
        return weights


def solve(gram: Array, cross: Array, prior: Array, rows_kept: Indices, damping: float = 1e-4) -> Array:
    """Least-squares weights V [N, o] of the kept rows, zero elsewhere: `Nested` at one level."""
    return Nested(gram, cross, prior, rows_kept, damping).solve(len(rows_kept))


def squared_error(gram: Array, cross: Array, power: float, weights: Array) -> float:
    """‖Y − X V‖² = power − 2 tr(VᵀG) + tr(VᵀHV), where power is ‖Y‖²; V may come from other data."""
    return float(power + np.sum(weights * (gram @ weights - 2 * cross)))


@dataclass(frozen=True)
class _Equations:
    """(correlation + λ I) v = covariance + λ prior: the normal equations of some rows, in correlation units.

    root [N] is the square root of each row's variance, 0 for dead rows: uncorrelated rows with a target of 0.
    """

    correlation: Array
    covariance: Array
    prior: Array
    root: Array

    @classmethod
    def of(cls, gram: Array, cross: Array | None, weight: Array, rows: Indices) -> "_Equations":
        """The equations of these rows, in this order; cross None stands for gram @ weight."""
        variance = np.diagonal(gram)
        if not all(np.isfinite(moment).all() for moment in (gram, weight, cross) if moment is not None):
            raise InternalError("a layer's moments aren't finite: look for infinities in the data")
        root = np.sqrt(np.where(variance > DEAD * variance.max(initial=0.0), variance, 0.0))[rows]
        inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
        correlation = _square(gram, rows)
        correlation *= inverse
        correlation *= inverse[:, None]
        np.fill_diagonal(correlation, 1.0)
        prior = weight[rows] * root[:, None]
        covariance = correlation @ prior if cross is None else cross[rows] * inverse[:, None]
        return cls(correlation, covariance, prior, root)

    def target(self, damping: float) -> Array:
        """The right-hand side [N, o]."""
        return self.covariance + damping * self.prior


def _cholesky(correlation: Array, damping: float) -> tuple[Array, float]:
    """Lower factor of correlation + λ I, and λ: the damping, or ten times more as often as needed."""
    smallest = len(correlation) * np.finfo(np.float64).eps
    for _ in range(RETRIES):
        damped = correlation.copy()
        np.fill_diagonal(damped, 1.0 + damping)
        lower, failed = lapack.dpotrf(damped.T, lower=1, clean=1, overwrite_a=1)
        if not failed and np.diagonal(lower).min(initial=1.0) ** 2 > smallest:
            return lower, damping
        damping = max(10 * damping, 1e-12)
    raise InternalError(f"a Gram matrix of {len(correlation)} rows isn't positive definite, however much damped")
