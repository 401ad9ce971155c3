"""New weights of one layer that reads removed channels: as they were, with a new bias, or by least squares.

All fits are centred (the bias is refitted) and damped towards the old weights. Damping is relative to each row's
variance, so that units don't matter; but rows that hardly vary in these samples, as behind a gate that is shut, would
get weights as large as it takes to explain what is left. An EfficientNet whose gates open on other samples answered
10¹⁰ times what it should; so there is a least variance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.correlation import Correlation, Factor
from onnxprune.coupling import Coupling, Mask
from onnxprune.ops.linear import Linear
from onnxprune.plan import Weights
from onnxprune.statistics import Moments

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
DAMPINGS = (1e-4, 1e-2, 0.1, 0.5, 2.0, 8.0)
DEFAULT_DAMPING = 1e-2  # without samples to choose by
OUTPUTS = 64  # outputs that a damping is chosen by
FAINT = 1e-4  # part of the rows' mean variance that a row is damped by at least


@dataclass(frozen=True)
class Refit:
    """New weights of a layer, the damping chosen, and its relative squared error on samples that weren't fitted."""

    weights: Weights
    damping: float
    error: float


def kept_rows(linear: Linear, flags: NDArray[np.bool_]) -> list[Ints]:
    """Rows of the matrix that belong to kept input channels, per convolution group."""
    rows = np.repeat(flags, linear.taps).reshape(linear.conv_group, -1)
    return [np.flatnonzero(r) for r in rows]


def masked(linear: Linear, flags: NDArray[np.bool_], matrix: Float | None = None) -> Weights:
    """The layer's own weights (or other ones), zero where it reads removed channels."""
    rows = np.repeat(flags, linear.taps).reshape(linear.conv_group, -1, 1)
    return Weights((linear.matrix if matrix is None else matrix) * rows, linear.offset)


def silent(coupling: Coupling, mask: Mask, linear: Linear, weights: Weights) -> Weights:
    """Weights of a layer of one convolution group, zero for output channels that are removed."""
    outputs = mask.outputs(linear)
    return Weights(weights.matrix * outputs, weights.offset * outputs)


def with_mean(linear: Linear, flags: NDArray[np.bool_], mean: Float) -> Weights:
    """The same, and a bias that keeps every output's mean, given the mean of the rows that the fit sees."""
    return _keeping_mean(linear, masked(linear, flags), mean)


def _keeping_mean(linear: Linear, weights: Weights, mean: Float) -> Weights:
    lost = (linear.matrix - weights.matrix) * linear.unstacked(mean).reshape(linear.conv_group, -1, 1)
    return Weights(weights.matrix, linear.offset + lost.sum(1).ravel())


def taken_over(
    linear: Linear, flags: NDArray[np.bool_], moves: Iterable[tuple[Ints, Ints, Float]], mean: Float | None
) -> Weights:
    """The layer's own weights where the rows `to` [m, b] gained factor [m] times the rows `gone` [m, b], for all moves.

    Rows are those of the whole input, all conv groups; nothing moves between these. With the mean of the rows that the
    fit sees, the bias keeps every output's mean. A fixed layer takes nothing over but means.
    """
    groups, n, o = linear.shape
    own, new = linear.matrix.reshape(-1, o), linear.matrix.reshape(-1, o).copy()
    for gone, to, factor in () if linear.fixed else moves:
        within = (gone // n == to // n)[..., None]
        np.add.at(new, to, within * factor[:, None, None] * own[gone])
    weights = masked(linear, flags, new.reshape(groups, n, o))
    return weights if mean is None else _keeping_mean(linear, weights, mean)


# ---------------------------------------------------------------------------------------------- least squares


def refit(linear: Linear, flags: NDArray[np.bool_], fit: Moments, tune: Moments | None) -> Refit:
    """Least squares on `fit` with the damping that does best on `tune`; then on both together.

    Moments without targets stand for the layer's own output on the same inputs.
    """
    damping, error = choose_damping(linear.fit, linear.seen(flags), fit, tune)
    return completed(linear, flags, fit + tune if tune is not None else fit, damping, error)


def completed(linear: Linear, flags: NDArray[np.bool_], moments: Moments, damping: float, error: float) -> Refit:
    """The refit by some moments, with a damping that is chosen and the error that goes with it."""
    found = fitted(linear.fit, linear.seen(flags), moments, damping)
    return Refit(Weights(*linear.spread(found.matrix, found.offset)), damping, error)


def choose_damping(linear: Linear, flags: NDArray[np.bool_], fit: Moments, tune: Moments | None) -> tuple[float, float]:
    """The damping with the smallest error on `tune`, and that error relative to the output's variance there."""
    return Equations(linear, flags, fit).choose_damping(tune)


def thinned(linear: Linear) -> tuple[Linear, Ints]:
    """The layer with at most `OUTPUTS` of each group's outputs, evenly spread, and which these are (none: all)."""
    groups, _, o = linear.shape
    if o <= OUTPUTS:
        return linear, np.zeros(0, np.int64)
    columns = np.linspace(0, o - 1, OUTPUTS).round().astype(np.int64)
    chosen = (np.arange(groups)[:, None] * o + columns).ravel()
    return replace(linear, held=linear.matrix[:, :, columns], offset=linear.offset[chosen], tail=()), chosen


def fitted(linear: Linear, flags: NDArray[np.bool_], moments: Moments, damping: float) -> Weights:
    """Least-squares weights and offset for some moments."""
    return Equations(linear, flags, moments).solve(damping)


def error_as_it_is(linear: Linear, moments: Moments) -> float:
    """What `choose_damping` would tell of the layer's own weights."""
    layer, chosen = thinned(linear)
    return Errors(layer, moments.columns(chosen) if len(chosen) else moments).error(Weights(layer.matrix, layer.offset))


def error_on(linear: Linear, weights: Weights, moments: Moments) -> float:
    """Squared error of new weights on some moments, relative to the variance of the target there."""
    return Errors(linear, moments).error(weights)


class Equations:
    """The normal equations of a layer that keeps some of its inputs: solved for any damping and any targets."""

    def __init__(self, linear: Linear, flags: NDArray[np.bool_], moments: Moments) -> None:
        self.linear, self.flags, self.moments = linear.made, flags, moments
        variances, n = moments.variances, linear.shape[1]
        own = variances.reshape(linear.conv_group, n)
        self.correlations = [
            Correlation.among(
                moments.upper_about(moments.mean, g * n + rows), rows, own[g].max(initial=0.0), FAINT * own[g].mean()
            )
            for g, rows in enumerate(kept_rows(linear, flags))
        ]
        self._factors: dict[float, list[Factor]] = {}
        self._known: tuple[Linear, Moments, list[Float]] | None = None

    def solve(self, damping: float, moments: Moments | None = None) -> Weights:
        """The weights for a damping, towards the targets of other moments of the same rows if given."""
        return self._solve(damping, self.linear, moments or self.moments)

    def _solve(self, damping: float, linear: Linear, moments: Moments) -> Weights:
        goals = self._goals(linear, moments)
        targeted = len(moments.target_shift) > 0
        fixed = masked(linear, self.flags).matrix if linear.fixed else None
        matrices, offsets = [], []
        for g, factor in enumerate(self._factored(damping)):
            block, columns = _block(linear, g)
            weight = linear.matrix[g]
            matrix = factor.solve(goals[g], weight) if fixed is None else fixed[g]
            mean = moments.mean[block]
            goal = moments.target_mean[columns] if targeted else mean @ weight + linear.offset[columns]
            matrices.append(matrix)
            offsets.append(goal - mean @ matrix)
        dtype = linear.dtype  # float64, or that of a big model's weights
        return Weights(np.stack(matrices).astype(dtype, copy=False), np.concatenate(offsets))

    def _goals(self, linear: Linear, moments: Moments) -> list[Float]:
        """Covariances of what each convolution group reads with its targets, or with its own outputs, [N, o]."""
        if self._known is None or self._known[0] is not linear or self._known[1] is not moments:
            blocks = [_block(linear, g) for g in range(linear.conv_group)]
            if len(moments.target_shift):
                cross = moments.cross_about(moments.mean, moments.target_mean)
                found = [cross[block, columns] for block, columns in blocks]
            else:
                found = [moments.own_cross(linear.matrix[g], block) for g, (block, _) in enumerate(blocks)]
            self._known = linear, moments, found
        return self._known[2]

    def _factored(self, damping: float) -> list[Factor]:
        if damping not in self._factors:
            self._factors[damping] = [c.factor(damping) for c in self.correlations]
        return self._factors[damping]

    def choose_damping(self, tune: Moments | None) -> tuple[float, float]:
        """The damping with the smallest error on `tune`, and that error relative to the output's variance there.

        Of a layer with many outputs, `OUTPUTS` of each convolution group stand for all. The factors for the damping
        that is chosen stay.
        """
        linear, chosen = thinned(self.linear)
        fit, judged = self.moments, tune if tune is not None and tune.count else self.moments
        if len(chosen) and len(fit.target_shift):
            fit, judged = fit.columns(chosen), judged.columns(chosen)
        judge = Errors(linear, judged)
        if tune is None or not tune.count:
            return DEFAULT_DAMPING, judge.error(self._solve(DEFAULT_DAMPING, linear, fit))
        errors: dict[int, float] = {}

        def error(i: int) -> float:
            if i not in errors:
                errors[i] = judge.error(self._solve(DAMPINGS[i], linear, fit))
                best = DAMPINGS[min(errors, key=errors.__getitem__)]
                self._factors = {best: self._factors[best]}
            return errors[i]

        best = len(DAMPINGS) // 3
        while (
            step := next((s for s in (1, -1) if 0 <= best + s < len(DAMPINGS) and error(best + s) < error(best)), 0)
        ) != 0:
            best += step
        return DAMPINGS[best], error(best)


class Errors:
    """Tells the relative squared error of a layer's new weights on some moments."""

    def __init__(self, linear: Linear, moments: Moments) -> None:
        self.linear, self.moments = linear.made, moments
        self.symmetric = len(moments.target_shift) == 0
        self.power = self._own_power() if self.symmetric else float(moments.power_about(moments.target_mean).sum())

    def _own_power(self) -> float:
        groups = range(self.linear.conv_group)
        return sum(float(self.moments.variance(self.linear.matrix[g], _block(self.linear, g)[0]).sum()) for g in groups)

    def error(self, weights: Weights) -> float:
        """Squared error relative to the variance of the target."""
        error = sum(self._error(g, weights) for g in range(self.linear.conv_group))
        return error / self.power if self.power else 0.0

    def _error(self, g: int, weights: Weights) -> float:
        linear, moments, matrix = self.linear, self.moments, weights.matrix[g]
        block, columns = _block(linear, g)
        mean = moments.mean[block]
        if self.symmetric:
            difference = linear.matrix[g] - matrix
            bias = mean @ difference + linear.offset[columns] - weights.offset[columns]
            return float(moments.variance(difference, block).sum() + bias @ bias)
        goal = moments.target_mean
        bias = goal[columns] - mean @ matrix - weights.offset[columns]
        covariance = np.sum(matrix * moments.cross_about(moments.mean, goal)[block, columns])
        squared = moments.power_about(goal)[columns].sum() + moments.variance(matrix, block).sum() - 2 * covariance
        return float(max(squared, 0.0) + bias @ bias)


def _block(linear: Linear, g: int) -> tuple[slice, slice]:
    _, n, o = linear.shape
    return slice(g * n, (g + 1) * n), slice(g * o, (g + 1) * o)
