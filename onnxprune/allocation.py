"""How many channels every group keeps: error curves, a cost and a budget turned into widths.

The cost of a network is a bilinear function of the groups' widths: a layer's operations and weights number
inputs × outputs, and each of the two may depend on groups. Where cost is time, a width counts as the size that
measurements gave it: convolutions cost in steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import BudgetError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Widths = NDArray[np.integer]

BUCKETS = 2000  # resolution of the budget in the dynamic programme
ROUNDS = 8  # times that the cost is linearised around the last solution
PRO_STEPS = 16  # steps in which PRO would remove all channels of a group
REACH = 8  # levels that a group may fall in an exchange


class Quadratic(Protocol):
    """A quadratic function of the groups' sizes, which ascend with their widths w [G]."""

    def sizes(self, widths: Widths) -> Array:
        """The size that each width counts as: [G, ...] as the widths are, whose first axis is that of the groups."""

    def total(self, widths: Widths) -> float:
        """The cost of these widths [G]."""

    def slope(self, widths: Widths) -> Array:
        """Derivative of the cost by every size at these widths, [G]."""

    @property
    def curvature(self) -> Array:
        """Second derivatives, [G, G]."""


@dataclass(frozen=True)
class Bilinear:
    """cost(w) = Σ_t scale_t (ins_t · w + in_fixed_t) (outs_t · w + out_fixed_t), with widths w [G].

    scale, in_fixed, out_fixed [T] and ins, outs [T, G] are at least 0, so that wider never costs less. The
    unit is that of scale (multiply-adds, parameters).
    """

    scale: Array
    ins: Array
    in_fixed: Array
    outs: Array
    out_fixed: Array

    def sizes(self, widths: Widths) -> Array:
        """Widths count as what they are."""
        return widths.astype(np.float64)

    def total(self, widths: Widths) -> float:
        """The cost of these widths [G]."""
        into, out = self._ends(widths)
        return float(self.scale @ (into * out))

    def slope(self, widths: Widths) -> Array:
        """Derivative of the cost by every width, [G]."""
        into, out = self._ends(widths)
        return self.ins.T @ (self.scale * out) + self.outs.T @ (self.scale * into)

    @cached_property
    def curvature(self) -> Array:
        """Second derivatives, [G, G]: total(w + d) = total(w) + slope(w) · d + d · curvature · d / 2."""
        mixed = self.ins.T @ (self.scale[:, None] * self.outs)
        return mixed + mixed.T

    def _ends(self, widths: Widths) -> tuple[Array, Array]:
        """What each term counts of inputs and of outputs."""
        return self.ins @ widths + self.in_fixed, self.outs @ widths + self.out_fixed


@dataclass(frozen=True)
class Stepped:
    """cost(w) = whole + slopes · d + d · curvature · d / 2, with d = sizes of w less those of the full widths.

    known and counted: for each group widths, ascending up to the full one, and the sizes that these count as, which
    ascend, too, and end with the full width; between them sizes are interpolated. slopes [G], curvature [G, G].
    """

    whole: float
    slopes: Array
    curvature: Array
    known: Sequence[Widths]
    counted: Sequence[Array]

    def sizes(self, widths: Widths) -> Array:
        """What the widths count as, between known ones in proportion."""
        pairs = zip(widths, self.known, self.counted, strict=True)
        return np.array([np.interp(own, known, counted) for own, known, counted in pairs])

    def total(self, widths: Widths) -> float:
        """The cost of these widths [G]."""
        change = self._change(widths)
        return float(self.whole + change @ (self.slopes + self.curvature @ change / 2))

    def slope(self, widths: Widths) -> Array:
        """Derivative of the cost by every size, [G]."""
        slopes: Array = self.slopes + self.curvature @ self._change(widths)
        return slopes

    def _change(self, widths: Widths) -> Array:
        return np.subtract(self.sizes(widths), [counted[-1] for counted in self.counted])


@dataclass(frozen=True)
class Curve:
    """Predicted error of the network's output, errors [L], when one group keeps levels [L] channels.

    Levels ascend; the last is all channels, with error 0. Errors needn't be monotone or convex.
    """

    levels: Widths
    errors: Array


Allocator = Callable[[Sequence[Curve], Quadratic, float], Indices]


def uniform(curves: Sequence[Curve], cost: Quadratic, budget: float) -> Indices:
    """Widths [G] of the largest common ratio of channels kept that costs at most the budget (in cost's unit).

    Every group gets its highest level of at most that ratio, or its lowest. Raises BudgetError if that costs
    more than the budget with all groups at their lowest level.
    """
    task = _Task(curves, cost, budget)
    return task.widths(_uniform(task))


def pro(curves: Sequence[Curve], cost: Quadratic, budget: float) -> Indices:
    """Widths [G] by greedy steps: the group whose next step changes the final output least per cost it saves goes next.

    PRO: Kamma, Inoue & Wada, IEICE Trans. E105-D(1) 161–169, 2022. The full text was not at hand: that a layer's
    ratio follows from the error in the final layer is the paper's; steps of a sixteenth of the channels, and the
    increase of the error per cost saved as the criterion, are ours. The curves are in the unit of the final output
    and measured one group at a time, not anew after each step. Raises BudgetError like `uniform`.
    """
    task = _Task(curves, cost, budget)
    places = task.full.copy()
    while task.total(places) > budget:
        below = np.maximum(task.widths(places) - task.steps, task.levels[:, 0])
        following = np.maximum((task.levels <= below[:, None]).sum(1) - 1, 0)
        _, costs, errors = task.changes(places)
        saved, added = -costs[task.groups, following], errors[task.groups, following]
        rates = np.divide(added, saved, out=np.full(len(places), np.inf), where=saved > 0)
        group = rates.argmin()
        places[group] = following[group]
    return task.widths(places)


def dp(curves: Sequence[Curve], cost: Quadratic, budget: float) -> Indices:
    """Widths [G] of least summed error that cost at most the budget, by dynamic programming and local search.

    With the cost linearised around a solution, groups are independent and the programme is exact up to its
    buckets; it is repeated around its own solutions. Greedy descent then meets the exact cost, and exchanges
    use up what is left. Never worse than `uniform`; raises BudgetError like it.
    """
    task = _Task(curves, cost, budget)
    starts = _descend(task, task.full), _uniform(task)
    best = min((_improve(task, start) for start in starts), key=task.error)
    return task.widths(_descend(task, _exchange(task, best)))  # rounding may have overrun the budget


ALLOCATORS: dict[str, Allocator] = {"uniform": uniform, "pro": pro, "dp": dp}


class _Task:
    """Levels, their sizes and errors [G, L] of all groups, at least one; a solution is its places [G] in them.

    A level that costs as much as a higher one isn't one. Curves of fewer levels repeat their lowest one in front.
    """

    def __init__(self, curves: Sequence[Curve], cost: Quadratic, budget: float) -> None:
        curves = _without_plateaus(curves, cost)
        length = max(len(curve.levels) for curve in curves)
        self.levels = np.array([_padded(curve.levels, length) for curve in curves], np.intp)
        self.errors = np.array([_padded(curve.errors, length) for curve in curves], np.float64)
        self.sizes = cost.sizes(self.levels)
        self.groups = np.arange(len(curves))
        self.full = np.full(len(curves), length - 1)
        self.steps = np.maximum(self.levels[:, -1] // PRO_STEPS, 1)
        self.cost, self.budget = cost, budget
        smallest, original = self.total(self.full * 0), self.total(self.full)
        if smallest > budget:
            raise out_of_reach(budget / original, smallest / original)

    def widths(self, places: Indices) -> Indices:
        return self.levels[self.groups, places]

    def error(self, places: Indices) -> float:
        return float(self.errors[self.groups, places].sum())

    def total(self, places: Indices) -> float:
        return self.cost.total(self.widths(places))

    def changes(self, places: Indices) -> tuple[Array, Array, Array]:
        """Changes [G, L] of size, cost and error if one group moved to each of its levels."""
        widths = self.widths(places)
        steps = self.sizes - self.sizes[self.groups, places][:, None]
        bend = np.diagonal(self.cost.curvature)[:, None] / 2
        costs = (self.cost.slope(widths)[:, None] + bend * steps) * steps
        return steps, costs, self.errors - self.errors[self.groups, places][:, None]


def out_of_reach(target: float, reachable: float) -> BudgetError:
    """What to raise where the smallest widths cost `reachable` of the original, more than the `target`."""
    return BudgetError(
        f"the target is {target:.1%} of the original, but {np.ceil(1000 * reachable) / 10:.1f}% stay"
        " with every group at its smallest: ask for that or more",
        reachable,
    )


def _without_plateaus(curves: Sequence[Curve], cost: Quadratic) -> list[Curve]:
    """The curves' levels that cost less than all that are higher."""
    length = max(len(curve.levels) for curve in curves)
    sizes = cost.sizes(np.array([_padded(curve.levels, length) for curve in curves]))
    found = []
    for curve, padded in zip(curves, sizes, strict=True):
        own = padded[length - len(curve.levels) :]
        worth = np.append(own[:-1] < own[1:], True)
        found.append(Curve(curve.levels[worth], curve.errors[worth]))
    return found


def _padded(values: NDArray[np.generic], length: int) -> NDArray[np.generic]:
    return np.pad(values, (length - len(values), 0), "edge")


def _uniform(task: _Task) -> Indices:
    """Places of the largest common ratio that meets the budget, by bisection of all ratios that occur."""
    ratios = task.levels / task.levels[:, -1:]
    candidates = np.unique(ratios)

    def places(candidate: int) -> Indices:
        highest: Indices = np.maximum((ratios <= candidates[candidate]).sum(1) - 1, 0)
        return highest

    low, high = 0, len(candidates)  # low meets the budget, high doesn't or doesn't exist
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if task.total(places(middle)) <= task.budget else (low, middle)
    return places(low)


def _descend(task: _Task, places: Indices) -> Indices:
    """Lower one group at a time, to the level that adds least error per cost, until the budget is met."""
    places = places.copy()
    while (excess := task.total(places) - task.budget) > 0:
        _, costs, errors = task.changes(places)
        useful = np.minimum(-costs, excess)
        rates = np.divide(errors, useful, out=np.full_like(errors, np.inf), where=useful > 0)
        group, place = np.unravel_index(rates.argmin(), rates.shape)
        places[group] = place
    return places


def _fill(task: _Task, places: Indices) -> Indices:
    """Move one group at a time to whichever level lowers the error most within the budget, while one does."""
    places = places.copy()
    while True:
        _, costs, errors = task.changes(places)
        errors[costs > task.budget - task.total(places)] = 0.0
        group, place = np.unravel_index(errors.argmin(), errors.shape)
        if not errors[group, place] < 0:
            return places
        places[group] = place


def _improve(task: _Task, places: Indices) -> Indices:
    """Repeat the dynamic programme around its own solution while that lowers the error."""
    places = _fill(task, places)
    for _ in range(ROUNDS):
        candidate = _fill(task, _descend(task, _programme(task, places)))
        if not task.error(candidate) < task.error(places):
            break
        places = candidate
    return places


def _programme(task: _Task, places: Indices) -> Indices:
    """Places of least summed error within about the budget, costs adding up over groups as at `places`."""
    _, costs, _ = task.changes(places)
    capacity = task.budget - task.total(places) - costs[:, 0].sum()
    shares = (costs - costs[:, :1]) / max(capacity, 1e-9)
    prices = np.rint(np.minimum(shares * BUCKETS, BUCKETS + 1)).astype(np.intp)
    spent = np.arange(BUCKETS + 1)
    overdrawn = np.full(BUCKETS + 1, np.inf)
    least, choices = np.zeros(BUCKETS + 1), []
    for group in task.groups:
        before = np.concatenate([least, overdrawn])  # a negative index overdraws
        sums = before[spent - prices[group][:, None]] + task.errors[group][:, None]
        choices.append(sums.argmin(0))
        least = sums.min(0)
    result, left = np.empty_like(places), BUCKETS
    for group in task.groups[::-1]:
        result[group] = choices[group][left]
        left -= prices[group, result[group]]
    return result


def _exchange(task: _Task, places: Indices) -> Indices:
    """Lower one group by up to REACH levels and move another, while that lowers the error in the budget."""
    improved = True
    while improved:
        improved = False
        for group in range(len(places)):
            candidate = _best_exchange(task, places, group)
            if task.error(candidate) < task.error(places):
                places, improved = _fill(task, candidate), True
    return places


def _best_exchange(task: _Task, places: Indices, group: int) -> Indices:
    """The places after the best such pair of moves of this group and another; the same if none helps."""
    steps, costs, errors = task.changes(places)
    start, stop = max(places[group] - REACH, 0), places[group] + 1
    fall, fall_cost, fall_error = (change[group, start:stop, None, None] for change in (steps, costs, errors))
    both_costs = fall_cost + costs + fall * steps * task.cost.curvature[group][:, None]
    both_errors = fall_error + errors
    both_errors[both_costs > task.budget - task.total(places)] = np.inf
    both_errors[:, group] = np.inf
    down, other, place = np.unravel_index(both_errors.argmin(), both_errors.shape)
    result = places.copy()
    if both_errors[down, other, place] < 0:
        result[group], result[other] = start + down, place
    return result
