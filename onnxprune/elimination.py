"""Which channels a layer can do without: exact greedy backward elimination.

The loss of a set of removed rows is that of the least squares in `correlation`, with all other rows refitted.
`eliminate` takes time as N³; a `Compression` makes a smaller problem to rank the channels of a wide reader by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from onnxprune.correlation import Correlation, cholesky, inverse_of, inverted, narrow, square

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

SINGULAR = 1e-10  # a direction with less than this part of the largest variance of its channel isn't told from rounding
WIDE = 512  # rows of channels that a problem is compressed to
PANEL_ROWS = 64  # rows removed between two updates of the whole inverse, at least
PANELS = 8  # about as many updates in all


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

    @cached_property
    def compression(self) -> "Compression | None":
        """To `WIDE` rows of channels, if there are more."""
        return Compression.of(self, WIDE)

    @property
    def compressed(self) -> "Problem":
        """The problem with no more rows of channels than that."""
        return self._smaller or self

    @cached_property
    def _smaller(self) -> "Problem | None":  # what is known of an object must not hold it: it would outlive its use
        return None if self.compression is None else self.compression.problem(self)


@dataclass(frozen=True)
class Compression:
    """A few combinations of each channel's own rows in place of these: combinations [n, b, k] of rows [n, b].

    They are the k directions, at least two, in which the channel X_c [S, b] adds most to the outputs X_c W_c [S, o]:
    the left singular vectors of that product. With one, ResNet-20 lost 5 % more than with all; with two no more.
    """

    rows: Indices
    combinations: Array

    @classmethod
    def of(cls, problem: Problem, most: int) -> "Compression | None":
        """To about `most` rows of channels; None for a problem that hasn't more."""
        n, b = problem.rows.shape
        k = max(2, most // n)
        if k >= b:
            return None
        variances, axes = np.linalg.eigh(_blocks(problem))
        floor = SINGULAR * variances.max(1, keepdims=True, initial=0.0)
        root = np.sqrt(np.where(variances > floor, variances, 0.0))[:, None, :]
        seen = (axes * root).swapaxes(1, 2) @ problem.weight[problem.rows]
        leading = np.linalg.eigh(seen @ seen.swapaxes(1, 2))[1][:, :, -k:]
        return cls(problem.rows, (axes * inverted(root)) @ leading)

    def combined(self, matrix: Array) -> Array:
        """Rows of channels combined, and behind them those of no channel: [N, m] becomes [n k + fixed, m]."""
        n, b, k = self.combinations.shape
        own = self.combinations.swapaxes(1, 2) @ matrix[self.rows.ravel()].reshape(n, b, -1)
        return np.concatenate([own.reshape(n * k, -1), matrix[_fixed_rows(self.rows, len(matrix))]])

    def square(self, gram: Array) -> Array:
        """The Gram matrix of what is left, given that of all."""
        return self.combined(np.ascontiguousarray(self.combined(gram).T))

    def problem(self, problem: Problem) -> Problem:
        """The problem as far as it is seen in these directions."""
        n, _, k = self.combinations.shape
        weight = problem.weight.copy()
        weight[self.rows] = _blocks(problem) @ weight[self.rows]
        rows = np.arange(n * k).reshape(n, k)
        cross = None if problem.cross is None else self.combined(problem.cross)
        return Problem(self.square(problem.gram), self.combined(weight), rows, problem.importance, cross)


def _blocks(problem: Problem) -> Array:
    """Each channel's own part of the Gram matrix, [n, b, b]."""
    return problem.gram[problem.rows[:, :, None], problem.rows[:, None, :]]


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
    panel = panel or max(1, n // PANELS, PANEL_ROWS // max(problem.rows.shape[1] for problem in problems))
    survivors = _Survivors([_Reader(problem, damping, panel) for problem in problems], n)
    removals = max(n - keep, 0) // cell_count * cell_count
    order, losses = np.empty(removals, np.intp), np.empty(removals)
    for step in range(removals):
        if step % cell_count == 0:
            waiting = np.ones(cell_count, bool)
        if step % panel == 0 and step > 0:
            survivors.compact()
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
        self.fresh = n  # channels when the inverses were last computed afresh

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

    def compact(self, *, afresh: bool = False) -> None:
        """Drop what has gone, and bring every reader's inverse up to date; compute it afresh when half has gone."""
        alive = np.flatnonzero(~self.gone)
        afresh = afresh or 2 * len(alive) <= self.fresh
        self.fresh = len(alive) if afresh else self.fresh
        for reader in self.readers:
            reader.compact(alive, afresh=afresh)
        self.channels = self.channels[alive]
        self.gone = np.zeros(len(alive), bool)


class _Reader:
    """The inverse M = H⁻¹ [N, N] and the best weights W [N, o] of a problem's alive rows.

    Rows of no channel stay: they are regressed out first, and H is the damped Gram matrix of what they leave of the
    others. `start` is W as long as all rows are alive, so that H start is the target of any of them.
    Removing the rows c costs tr(W_cᵀ M_cc⁻¹ W_c); it takes M_:c M_cc⁻¹ M_c: from M, M_:c M_cc⁻¹ W_c from W.
    All that costs need are each channel's blocks [n, b, b] of M (`pivots`) and W Wᵀ (`power`), which are kept
    exact. M and W follow in panels; until then they stand for M − UᵀK and W − KᵀT, where U, K [r, N] and
    T [r, o] have one row for each removed one.
    """

    def __init__(self, problem: Problem, damping: float, panel: int) -> None:
        self.block = problem.rows.shape[1]
        self.importance = problem.importance
        self.capacity = panel * self.block
        fixed = _fixed_rows(problem.rows, len(problem.gram))
        correlation = Correlation.of(problem.gram, np.concatenate([fixed, problem.rows.ravel()]))
        factor = correlation.factor(damping)
        weight = correlation.prior(problem.weight)
        if problem.cross is not None:
            half = factor.half(problem.cross, problem.weight)
            weight = solve_triangular(factor.lower, half, lower=True, trans="T", check_finite=False)
        self.start = narrow(weight[len(fixed) :].astype(np.float64, copy=False))
        lower = factor.lower[len(fixed) :, len(fixed) :].astype(np.float64)
        self.gram = lower @ lower.T
        self.rows = np.arange(len(lower))
        self._restart(len(problem.rows), inverse_of(lower), self.start.copy())

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
        u_blocks, k_blocks, z_blocks = (x.reshape(b, n, b).swapaxes(0, 1) for x in (u, k, z))
        self.pivots -= k_blocks.swapaxes(1, 2) @ u_blocks
        change = k_blocks.swapaxes(1, 2) @ z_blocks
        self.power -= change + change.swapaxes(1, 2)
        self.pivots[position], self.power[position] = np.eye(b), 0.0
        self.u[r : r + b], self.k[r : r + b], self.t[r : r + b] = u, k, t
        self.used += b

    def compact(self, alive: Indices, *, afresh: bool) -> None:
        """Keep the channels at these positions, with an up-to-date (or freshly computed) inverse."""
        b, r = self.block, self.used
        kept = (alive[:, None] * b + np.arange(b)).ravel()
        self.rows = self.rows[kept]
        if afresh:
            inverse = inverse_of(cholesky(square(self.gram, self.rows), 0.0)[0])
            weight = inverse @ (self.gram[self.rows] @ self.start)
        else:
            inverse, weight = square(self.inverse, kept), self.weight[kept]
            inverse -= self.u[:r, kept].T @ self.k[:r, kept]
            weight -= self.k[:r, kept].T @ self.t[:r]
        self._restart(len(alive), inverse, weight)

    def _restart(self, n: int, inverse: Array, weight: Array) -> None:
        b = self.block
        self.inverse, self.weight = inverse, weight
        every = np.arange(n)
        self.pivots = inverse.reshape(n, b, n, b)[every, :, every]
        blocks = weight.reshape(n, b, -1)
        self.power = blocks @ blocks.swapaxes(1, 2)
        self.u, self.k = np.empty((2, self.capacity, len(inverse)))
        self.t = np.empty((self.capacity, weight.shape[1]))
        self.used = 0


def _fixed_rows(rows: Indices, size: int) -> Indices:
    return np.setdiff1d(np.arange(size), rows)
