"""Which channels go first in each group, and what that costs at every width.

One symmetric pass over the original gives the moments of every layer that reads a prunable group. Per group, a method
orders the channels by all samples; least squares along that order gives the error at each width, judged on samples
that weren't fitted. That local error says little about the network's answer, so it is scaled by one probe: the group
alone is cut to about half, its readers are refitted, and the change of the final output is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from numpy.typing import NDArray

from onnxprune.activity import Activity
from onnxprune.allocation import Curve
from onnxprune.correlation import Nested, Removal, square
from onnxprune.coupling import Coupling, Group
from onnxprune.elimination import Problem, eliminate, ranked_rows
from onnxprune.evaluation import collected
from onnxprune.fitting import DEFAULT_DAMPING, choose_damping, fitted, thinned
from onnxprune.graph import Array
from onnxprune.methods import Evidence, Method
from onnxprune.ops import elementwise
from onnxprune.ops.linear import Linear
from onnxprune.plan import Weights
from onnxprune.rewrite import with_weights
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments
from onnxprune.walk import Walk

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
NEGLIGIBLE = 1e-6  # relative squared error that isn't told from rounding
LEVELS = 33  # widths per group at which the error is computed; between them its root is interpolated
TELLING = 3  # readers of a group that tell its damping
FEW_ROWS = 16  # rows of a group per level up to which they are few
LEAST_LEVELS = 9  # the same where readers are wide or many, because each takes time


@dataclass(frozen=True)
class Ranking:
    """One group's channels in order of removal, and its relative squared error at its readers at each of `levels`.

    `trial` holds the group's readers refitted to the level in the middle, for the probe.
    """

    group: Group
    order: Ints
    levels: Ints
    errors: Float
    trial: Mapping[int, Sequence[Linear]]

    @property
    def middle(self) -> int:
        """The place of the level closest to half of the channels, of those that cost anything.

        Where more than half of the channels are dead or copies, the error at half is rounding, and no scale.
        """
        telling = np.flatnonzero(self.errors > NEGLIGIBLE)
        places = telling if len(telling) else np.arange(max(len(self.levels) - 1, 1))
        return int(places[np.argmin(np.abs(self.levels[places] - self.group.channels / 2))])

    def kept(self, width: int) -> Ints:
        """The channels that stay at a width, ascending."""
        return np.setdiff1d(np.arange(self.group.channels), self.removed(width))

    def removed(self, width: int) -> Ints:
        """The channels that go at a width, in order."""
        return self.order[: self.group.channels - width]


def readers(coupling: Coupling, group: Group) -> list[Linear]:
    """The layers that read a group, loops included, if all are linear layers that can be refitted; else none.

    Products that compare dims of heads don't count, nor sums and means over channels.
    """
    reads = [i for i in group.reads if not ((group.dims and i in coupling.by_rank) or i in coupling.notes.totals)]
    found = [*(coupling.linear(i) for i in reads), *(coupling.loop(i) for i in group.loops)]
    fit = [linear for linear in found if linear is not None and linear.refittable]
    return fit if len(fit) == len(found) else []


def read_from(linear: Linear, group: Group) -> Ints:
    """The layer's input channels [n, r] that each channel of the group feeds."""
    return (group.loops if linear.loops else group.reads)[linear.index]


def rows_of(linear: Linear, group: Group) -> Ints:
    """Rows [n, r * taps] of the layer's whole input (all conv groups) that each channel of the group owns."""
    taps = np.arange(linear.taps)
    index = read_from(linear, group)
    return (index[:, :, None] * linear.taps + taps).reshape(len(index), -1)


def rows_seen(linear: Linear, group: Group) -> Ints:
    """The same of what the layer's fit reads."""
    rows = rows_of(linear, group)
    if linear.shared is None:
        return rows
    place = np.empty(linear.channels * linear.taps, np.int64)
    place[linear.shared] = np.arange(len(linear.shared))[:, None]
    return np.stack([np.unique(place[own]) for own in rows])


def flags_without(linear: Linear, group: Group, removed: Ints) -> NDArray[np.bool_]:
    """Kept flags of the layer's input channels when some channels of the group are gone."""
    flags = np.ones(linear.channels, bool)
    flags[read_from(linear, group)[removed].ravel()] = False
    return flags


def dense(linear: Linear) -> Float:
    """The layer's matrix [channels * taps, o], block-diagonal over convolution groups."""
    groups, n, o = linear.shape
    whole = np.zeros((groups * n, groups * o))
    for g, block in enumerate(linear.matrix):
        whole[g * n : (g + 1) * n, g * o : (g + 1) * o] = block
    return whole


def separated(linear: Linear, gram: Float) -> Float:
    """A Gram matrix without what couples different convolution groups, or channels that only take their places.

    No output sees that.
    """
    groups, n, _ = linear.shape
    if linear.fixed:
        return np.diag(np.diag(gram))
    if groups == 1:
        return gram
    same = np.kron(np.eye(groups, dtype=bool), np.ones((n, n), bool))
    return np.where(same, gram, 0.0)


def producer_weights(coupling: Coupling, group: Group) -> Float:
    """All that makes each channel, [n, p]: the writers' weights and biases, one after the other.

    Of a layer they are those with its tail folded in; of what isn't a linear layer (a recurrent one) those as they are.
    """
    parts = [np.zeros((group.channels, 0))]
    for member in group.members:
        made_by = [i for i in group.writers if member.tensor in coupling.graph.nodes[i].input]
        linears = [linear for i in made_by if (linear := coupling.linear(i)) is not None and linear.output]
        if member.role == "writer" and linears and len(linears) == len(made_by):
            parts += [_made(coupling, group, linear) for linear in linears]
        elif member.role == "writer":
            tensor = member.slices(coupling.graph.array(member.tensor)).astype(np.float64)
            parts.append(tensor[member.index].reshape(group.channels, -1))
    return np.concatenate(parts, axis=1)


def _made(coupling: Coupling, group: Group, linear: Linear) -> Float:
    """Weights and bias of each channel in one layer, [n, r * (N + 1)]."""
    groups, n, o = linear.shape
    columns = np.column_stack([linear.matrix.transpose(0, 2, 1).reshape(groups * o, n), linear.offset])
    labels = coupling.components.of(coupling.notes.writers[linear.index])
    places = [np.flatnonzero(labels == component) for component in group.components]
    return columns[np.stack(places)].reshape(group.channels, -1)


def passes_scale(coupling: Coupling, group: Group) -> bool:
    """Whether a positive factor on a channel's weights and bias comes out at its readers as the same factor."""
    graph, readers_ = coupling.graph, set(group.reads)
    linears = [linear for i in group.writers if (linear := coupling.linear(i)) is not None and linear.output]
    waiting = [linear.output for linear in linears]
    seen = set(waiting)
    while waiting:
        for index in graph.consumers.get(waiting.pop(), []):
            node = graph.nodes[index]
            if index in readers_ or node.op_type in ("Shape", "Size"):
                continue
            if not elementwise.passes_scale(graph, node):
                return False
            waiting += [name for name in node.output if name and name not in seen]
            seen.update(node.output)
    return 0 < len(linears) == len(group.writers)


def widths(group: Group, step: int, smallest: int) -> Ints:
    """Widths that a group may have: multiples of `step` (and of its number of cells), at least `smallest`, and all.

    A step is one of rows of weights, of which a channel may own several, like an attention head. Dims of heads go in
    whole steps: each head is a matrix product of its own.
    """
    cells = int(group.cells.max()) + 1
    step //= 1 if group.dims else gcd(step, group.rows)
    step = step * cells // gcd(step, cells)
    found = np.arange(step, group.channels, step)
    return np.append(found[found >= smallest], group.channels)


def whole(moments: Sequence[Moments]) -> Moments:
    """All parts together."""
    return moments[0] if len(moments) == 1 else moments[0] + moments[-1]


def gathered(
    coupling: Coupling,
    group: Group,
    moments: Mapping[str, Sequence[Moments]] | None,
    rng: np.random.Generator,
    activity: Activity | None = None,
) -> tuple[Evidence, list[float]]:
    """What a method gets to see of a group, and the damping of each reader; no problems where there are no moments."""
    problems, means = [], []
    for linear in readers(coupling, group) if moments is not None else []:
        assert moments is not None
        everything = whole(moments[linear.key])
        problems.append(problem_of(linear, group, [everything]))
        means.append(everything.mean)
    dampings = dampings_of(readers(coupling, group), group, problems, moments) if moments is not None else []
    made_by = [coupling.linear(i) for i in group.writers]
    evidence = Evidence(
        problems,
        means,
        producer_weights(coupling, group),
        group.cells,
        float(np.median(dampings or [DEFAULT_DAMPING])),
        rng,
        any(maker is not None and maker.window is not None for maker in made_by),
        passes_scale(coupling, group),
        activity.zeros if activity is not None else None,
        activity.faint if activity is not None else None,
    )
    return evidence, dampings


def rank(
    coupling: Coupling,
    group: Group,
    moments: Mapping[str, Sequence[Moments]] | None,
    method: Method,
    allowed: Ints,
    rng: np.random.Generator,
    activity: Activity | None = None,
    *,
    predict: bool = True,
) -> Ranking:
    """Order the channels of a group by all moments, and give its error at the allowed widths on their last part.

    Without moments (only a method that needs weights alone can do without), or not to `predict`, the error is that on
    white inputs, of which no channel can make up for another, and there is no trial. Of a group that is read by what
    can't be refitted, it is what is lost of the weights that make the channels.
    """
    linears = readers(coupling, group)
    evidence, dampings = gathered(coupling, group, moments, rng, activity)
    order = method.order(evidence)
    if not linears:
        errors = lost(np.square(evidence.weights).sum(1), order)
        return Ranking(group, order, allowed, errors[allowed], {})
    if moments is None or not predict:
        return Ranking(group, order, allowed, errors_of_white(linears, group, order)[allowed], {})
    return judged(group, linears, evidence.problems, dampings, moments, order, allowed)


def chosen(linear: Linear, group: Group, moments: Sequence[Moments], width: int) -> Ints:
    """The channels that a layer keeps of a group, by REAP: those that serve best for its targets, if it has any."""
    problem = problem_of(linear, group, moments)
    (damping,) = dampings_of([linear], group, [problem], {linear.key: moments})
    removed = eliminate([problem.compressed], damping=damping, keep=width, cells=group.cells).order
    return np.setdiff1d(np.arange(group.channels), removed)


def problem_of(linear: Linear, group: Group, moments: Sequence[Moments]) -> Problem:
    """What a reader loses with a group's channels, by all its moments.

    Moments with targets are those of a layer of one convolution group.
    """
    everything, layer = whole(moments), linear.fit
    gram, weight = separated(layer, everything.gram_about(everything.mean)), dense(layer)
    targeted = len(everything.target_shift) > 0
    cross = everything.cross_about(everything.mean, everything.target_mean) if targeted else None
    if cross is None:
        some = dense(thinned(layer)[0])
        power = float(np.sum(some * (gram @ some))) * weight.shape[1] / some.shape[1]
    else:
        power = float(everything.power_about(everything.target_mean).sum())
    return Problem(gram, weight, rows_seen(linear, group), 1.0 / power if power else 1.0, cross)


def dampings_of(
    linears: Sequence[Linear], group: Group, problems: Sequence[Problem], moments: Mapping[str, Sequence[Moments]]
) -> list[float]:
    """The damping for each reader of a group; where there are more than `TELLING`, so many tell that of all."""
    chosen = np.unique(np.linspace(0, len(linears) - 1, min(TELLING, len(linears))).round().astype(int))
    found = []
    for linear, problem in ((linears[i], problems[i]) for i in chosen):
        fit, tune = moments[linear.key][0], moments[linear.key][-1]
        found.append(_damping(linear, group, problem.gram, fit, tune if tune is not fit else None))
    return found if len(found) == len(linears) else [float(np.median(found))] * len(linears)


def judged(
    group: Group,
    linears: Sequence[Linear],
    problems: Sequence[Problem],
    dampings: Sequence[float],
    moments: Mapping[str, Sequence[Moments]],
    order: Ints,
    allowed: Ints,
    beside: Float | float = 0.0,
) -> Ranking:
    """The errors of an order of removal at the allowed widths, and the trial; `beside` is what no reader can repair."""
    rows = sum(len(problem.gram) for problem in problems)
    levels, damping = _thinned(allowed, rows), float(np.median(dampings or [DEFAULT_DAMPING]))
    errors, removals = np.zeros(len(levels)), dict[str, _FewRows]()
    for linear, problem in zip(linears, problems, strict=True):
        if _FewRows.suits(linear, problem, levels):
            removals[linear.key] = one = _FewRows(linear, problem, order, moments[linear.key], damping)
            errors += one.errors(levels)
        else:
            errors += _errors(linear, problem, order, levels, moments[linear.key], damping)
    full = np.square(np.interp(allowed, levels, np.sqrt(errors))) + beside
    full[-1] = 0.0
    ranking = Ranking(group, order, allowed, full, {})
    removed = ranking.removed(int(allowed[ranking.middle]))
    trial: dict[int, list[Linear]] = {}
    for linear, each in zip(linears, dampings, strict=True):
        if linear.key in removals and each == damping:
            weights = removals[linear.key].cut(group.channels - len(removed))
        else:
            weights = _cut(linear, group, removed, moments[linear.key][0], each)
        layer = with_weights(linear, weights)
        trial.setdefault(linear.index, []).append(layer)
    return replace(ranking, trial=trial)


def errors_of_white(linears: Sequence[Linear], group: Group, order: Ints) -> Float:
    """Relative squared error at the readers at every width from 0, for inputs of independent unit channels."""
    errors = np.zeros(group.channels + 1)
    for linear in linears:
        weight = dense(linear)
        power = np.square(weight[rows_of(linear, group)]).sum((1, 2))
        errors += lost(power, order, float(np.square(weight).sum()))
    return errors


def lost(power: Float, order: Ints, total: float | None = None) -> Float:
    """What channels of this power [n] that go in an order have lost at every width from 0, as a share of the total."""
    stayed = np.setdiff1d(np.arange(len(power)), order)
    gone = np.cumsum(power[np.concatenate([order, stayed])])[::-1]
    return np.append(gone, 0.0) / ((gone[0] if total is None else total) or 1.0)


def _cut(linear: Linear, group: Group, removed: Ints, moments: Moments, damping: float) -> Weights:
    """The layer refitted on the original's inputs without some channels of one group."""
    found = fitted(linear.fit, linear.seen(flags_without(linear, group, removed)), moments, damping)
    return Weights(*linear.spread(found.matrix, found.offset))


def _damping(linear: Linear, group: Group, gram: Float, fit: Moments, tune: Moments | None) -> float:
    """The damping that does best on `tune` when the weaker half of the channels is gone."""
    if tune is None:
        return DEFAULT_DAMPING
    rows = rows_seen(linear, group)
    strength = (np.diag(gram) * np.square(dense(linear.fit)).sum(1))[rows].sum(1)
    removed = np.argsort(strength, kind="stable")[: group.channels // 2]
    return choose_damping(linear.fit, linear.seen(flags_without(linear, group, removed)), fit, tune)[0]


def _thinned(allowed: Ints, rows: int) -> Ints:
    """Some of the widths: the fewer, the more rows the readers have together above 1024."""
    return spread(allowed, max(LEVELS * 1024 // max(rows, 1024), LEAST_LEVELS))


def spread(widths: Ints, most: int) -> Ints:
    """At most so many of the widths, evenly spread, the lowest and the highest of them included."""
    if len(widths) <= most:
        return widths
    return widths.take(np.unique(np.linspace(0, len(widths) - 1, most).round().astype(int)))


def _errors(
    linear: Linear, problem: Problem, order: Ints, levels: Ints, moments: Sequence[Moments], damping: float
) -> Float:
    """Relative squared error at each level: fitted on the first part, judged on the last, as the compressed problem is.

    Rows are arranged in the order of importance, so that each level is the leading part of every matrix.
    """
    small, chosen = problem.compressed, thinned(linear.fit)[1]
    weight = small.weight[:, chosen] if len(chosen) else small.weight
    rows = ranked_rows(small.rows, order, len(weight))
    fit, tune = (_seen(linear, problem, part, moments[0].mean) for part in (moments[0], moments[-1]))
    nested = Nested(fit, fit @ weight, weight, rows, damping)
    weight, tune, fixed = weight[rows], square(tune, rows), len(weight) - small.rows.size
    goal = tune @ weight
    power = float(np.sum(weight * goal))

    def error(k: int) -> float:
        change = nested.leading(k)
        return power - 2 * float(np.sum(change * goal[:k])) + float(np.sum(change * (tune[:k, :k] @ change)))

    return np.array([max(error(fixed + int(width) * small.rows.shape[1]), 0.0) for width in levels]) / (power or 1.0)


def _seen(linear: Linear, problem: Problem, moments: Moments, mean: Float) -> Float:
    """E[(x−m)(x−m)ᵀ] of what the compressed problem sees of some moments."""
    by, rows = problem.compression, moments.rows_about(mean) if linear.conv_group == 1 and not linear.fixed else None
    if rows is not None:
        seen = rows.T if by is None else by.combined(rows.T)
        return np.asarray(seen @ seen.T, np.float64) / max(moments.count, 1)
    gram = separated(linear.fit, moments.gram_about(mean))
    return gram if by is None else by.square(gram)


class _FewRows:
    """The same where a group owns few of a layer's rows: one factorisation serves all levels and the trial."""

    @staticmethod
    def suits(linear: Linear, problem: Problem, levels: Ints) -> bool:
        """Whether this takes less time than a solution at every level."""
        return linear.conv_group == 1 and not linear.fixed and problem.rows.size <= FEW_ROWS * len(levels)

    def __init__(
        self, linear: Linear, problem: Problem, order: Ints, moments: Sequence[Moments], damping: float
    ) -> None:
        self.linear, self.fit, self.block = linear, moments[0], problem.rows.shape[1]
        gram = self.fit.gram_about(self.fit.mean)
        self.rows = ranked_rows(problem.rows, order, len(gram))[len(gram) - problem.rows.size :]
        self.removal = Removal(gram, self.rows, damping)
        weight = thinned(linear.fit)[0].matrix[0]
        self.own = weight[self.rows]
        rows = moments[-1].rows_about(self.fit.mean)
        if rows is not None:
            made = rows @ self.removal.influence.astype(np.float32)
            self.products = (made.T @ made).astype(np.float64)
            self.power = float(np.square(rows @ weight.astype(np.float32)).sum(dtype=np.float64))
        else:
            judge = gram if moments[-1] is self.fit else moments[-1].gram_about(self.fit.mean)
            self.products = self.removal.influence.T @ (judge @ self.removal.influence)
            self.power = float(np.sum(weight * (judge @ weight)))

    def errors(self, levels: Ints) -> Float:
        """Relative squared error at each level."""
        found = []
        for width in levels:
            gone = slice(int(width) * self.block, None)
            shares = self.removal.shares(gone, self.own[gone])
            found.append(float(np.sum(shares * (self.products[gone, gone] @ shares))) / (self.power or 1.0))
        return np.maximum(found, 0.0)

    def cut(self, width: int) -> Weights:
        """The layer refitted without the channels that go at a width."""
        linear, gone = self.linear.fit, slice(width * self.block, None)
        matrix = linear.matrix[0]
        change = self.removal.influence[:, gone] @ self.removal.shares(gone, matrix[self.rows[gone]])
        new = (matrix - change).astype(matrix.dtype, copy=False)  # float64, or that of a big model's weights
        new[self.rows[gone]] = 0.0
        return Weights(*self.linear.spread(new[None], linear.offset + self.fit.mean @ (matrix - new)))


# ---------------------------------------------------------------------------------------------- probes


def probe(
    coupling: Coupling,
    rankings: Sequence[Ranking],
    feeds: Iterable[Mapping[str, Array]],
    signals: Sequence[str],
    runtime: Runtime,
    max_memory: float = 2e9,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Curve]:
    """Error curves of all groups in the unit of the final output: its relative squared change."""
    curves: dict[str, Curve] = {}
    with Walk(coupling, feeds, runtime, max_memory) as walk:
        firsts = {r.group.name: min((walk.place[i], i) for i in _touched(r)) for r in rankings}
        walk.keep(signals)
        answers = collected(walk.suffix({}, signals), walk.original)
        for done, ranking in enumerate(sorted(rankings, key=lambda r: firsts[r.group.name])):
            walk.advance(firsts[ranking.group.name][1])
            local, factor = float(ranking.errors[ranking.middle]), 1.0
            if local > NEGLIGIBLE:
                mask = coupling.mask({ranking.group.name: ranking.kept(int(ranking.levels[ranking.middle]))})
                session = walk.suffix(ranking.trial, signals, mask)
                if session.outputs:  # else what it changes can't be compared
                    factor = change(collected(session, walk.original), answers) / local
            curves[ranking.group.name] = Curve(ranking.levels, ranking.errors * factor)
            progress(done + 1, len(rankings))
    return [curves[r.group.name] for r in rankings]


def _touched(ranking: Ranking) -> list[int]:
    """The nodes that read a group, and those that make it where they change: recurrent ones, and amid attention."""
    return [*ranking.group.reads, *ranking.group.loops, *ranking.trial]


def change(now: Mapping[str, Array], before: Mapping[str, Array]) -> float:
    """Relative squared change of the final values, summed over those that were computed anew."""
    powers = {name: float(np.square(before[name]).sum()) for name in now}
    changes = {name: float(np.square(before[name] - value).sum()) for name, value in now.items()}
    return sum(changes[name] / power for name, power in powers.items() if power)
