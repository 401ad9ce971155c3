"""Swap local search: a removed channel comes back for one that stays, as long as that lowers the least-squares error.

Greedy elimination never takes a removal back. Here every removed channel is tried: with it added, the exact cost of
removing each of those that stay is known (OSSCAR, Meng et al., ICML 2024, swaps by the same blocks). The error is that
of `elimination`: damped, all weights refitted, summed over readers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from onnxprune.correlation import Correlation, narrow, square
from onnxprune.elimination import Problem

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
SWEEPS = 4  # times that all removed channels are tried
LEAST = 1e-6  # part of the error that a swap must gain


def swapped(problems: Sequence[Problem], kept: Ints, *, damping: float, cells: Ints) -> Ints:
    """As many channels as `kept`, of the same cells, ascending, with at most its error at the readers."""
    readers = [_Reader(problem, kept, damping) for problem in problems]
    before = sum(reader.error(kept) for reader in readers)
    stays = np.zeros(len(cells), bool)
    stays[kept] = True
    for _ in range(SWEEPS):
        if not _sweep(readers, stays, cells, LEAST * before):
            break
    found = np.flatnonzero(stays)
    return found if sum(reader.error(found) for reader in readers) < before else np.sort(kept)


def _sweep(readers: Sequence[_Reader], stays: NDArray[np.bool_], cells: Ints, least: float) -> bool:
    """Try every removed channel once and carry out what gains more than `least`; whether anything did."""
    swaps = 0
    for channel in np.flatnonzero(~stays).tolist():
        changes = np.sum([reader.changes(channel) for reader in readers], axis=0)
        changes[~stays | (cells != cells[channel])] = np.inf
        other = int(changes.argmin())
        if changes[other] < -least:
            for reader in readers:
                reader.add(channel)
                reader.remove(other)
            stays[channel], stays[other] = True, False
            swaps += 1
    return swaps > 0


class _Reader:
    """The damped correlation A [N, N] and target T [N, o] of a problem, M = A_KK⁻¹ and W = M T_K of what stays.

    M and W have the size of A and T, with zeros where channels are gone. Rows of channel c are c·b to (c + 1)·b.
    """

    def __init__(self, problem: Problem, kept: Ints, damping: float) -> None:
        self.n, self.block = problem.rows.shape
        self.importance = problem.importance
        fixed = np.setdiff1d(np.arange(len(problem.gram)), problem.rows)
        correlation = Correlation.of(problem.gram, np.concatenate([problem.rows.ravel(), fixed]))
        damping = correlation.factor(damping).damping
        prior = correlation.prior(problem.weight)
        cross = correlation.matrix @ prior if problem.cross is None else correlation.covariance(problem.cross)
        self.target = narrow(cross + damping * prior)
        self.matrix = correlation.matrix
        self.matrix.flat[:: len(self.matrix) + 1] += damping
        rows = self._rows(kept)
        self.inverse = np.zeros_like(self.matrix)
        self.inverse[np.ix_(rows, rows)] = np.linalg.inv(square(self.matrix, rows))
        self.weight = self.inverse @ self.target

    def _rows(self, channels: Ints) -> Ints:
        own = (channels[:, None] * self.block + np.arange(self.block)).ravel()
        return np.concatenate([own, np.arange(self.n * self.block, len(self.matrix))])

    def error(self, kept: Ints) -> float:
        """Importance · (‖Y‖² explained by all channels − that explained by these), computed afresh."""
        explained = []
        for rows in (self._rows(np.arange(self.n)), self._rows(kept)):
            lower = np.linalg.cholesky(square(self.matrix, rows))
            explained.append(np.square(solve_triangular(lower, self.target[rows], lower=True)).sum())
        return self.importance * float(explained[0] - explained[1])

    def _entering(self, channel: int) -> tuple[Array, Array, Array]:
        """v [N, b], S⁻¹ [b, b] and g [b, o] of a channel that comes back: M gains v S⁻¹ vᵀ, W gains v S⁻¹ g."""
        own = slice(channel * self.block, (channel + 1) * self.block)
        v = -self.inverse @ self.matrix[:, own]
        v[own] = np.eye(self.block)
        pivot = np.asarray(np.linalg.inv(self.matrix[own] @ v), np.float64)
        return v, pivot, self.target[own] - self.matrix[own] @ self.weight

    def changes(self, channel: int) -> Array:
        """Importance · change of the error [n] when this channel comes back and another goes for it."""
        v, pivot, residual = self._entering(channel)
        n, b = self.n, self.block
        every, blocks = np.arange(n), v[: n * b].reshape(n, b, b)
        own = self.inverse[: n * b, : n * b].reshape(n, b, n, b)[every, :, every]
        pivots = own + blocks @ pivot @ blocks.swapaxes(1, 2)
        gone = ~np.einsum("nii->n", own).astype(bool)
        pivots[gone] = np.eye(b)
        weights = self.weight[: n * b].reshape(n, b, -1) + blocks @ (pivot @ residual)
        costs = np.einsum("nbo,nbo->n", weights, np.linalg.solve(pivots, weights))
        changes: Array = self.importance * (costs - np.sum(residual * (pivot @ residual)))
        return changes

    def add(self, channel: int) -> None:
        """Bring a channel back."""
        v, pivot, residual = self._entering(channel)
        self.inverse += v @ pivot @ v.T
        self.weight += v @ (pivot @ residual)

    def remove(self, channel: int) -> None:
        """Take a channel out."""
        own = slice(channel * self.block, (channel + 1) * self.block)
        k = np.linalg.solve(self.inverse[own, own], self.inverse[own])
        self.weight -= k.T @ self.weight[own]
        self.inverse -= self.inverse[:, own] @ k
        self.inverse[own], self.inverse[:, own], self.weight[own] = 0.0, 0.0, 0.0
