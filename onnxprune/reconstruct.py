"""New weights for the layers that read removed channels.

The modes differ in what a layer is fitted to, and on which inputs:

    none    the weights of the channels that are left, as they were
    mean    the same, and the bias makes up for the mean of what is gone
    unify   the weights of one channel that is left take over what the removed one did (see `takeover`)
    local   least squares towards the layer's own output, on the original's inputs
    ls      least squares front to back: on the inputs that the network pruned so far really produces, towards the
            output of the original. A layer whose result is added to a shortcut also absorbs what the shortcut has
            drifted: its target is (original sum − shortcut as it is now). A layer followed by ReLU or Clip is fitted
            to what comes out behind it (POEM, Kamma & Wada 2025). Layers of unpruned groups are refitted, too, once
            their input has drifted. Which channels go can be left open until the layer that reads them is refitted:
            then they are chosen by what it reads and should give by then.

All fits are centred (the bias is refitted) and damped towards the old weights, with the damping chosen per layer on
samples that weren't fitted. A layer that is one in several places, as a detector's head on all its maps, is fitted
once, to what it reads in all of them, and the file keeps one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.coupling import Coupling
from onnxprune.fitting import Equations, Refit, completed, error_as_it_is, kept_rows, refit, silent
from onnxprune.graph import Array, Graph
from onnxprune.ops.choice import filled
from onnxprune.ops.elementwise import bounds
from onnxprune.ops.linear import Linear
from onnxprune.plan import Weights
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments, collect, draw, parted, positions_wanted
from onnxprune.walk import Walk, layers_in_order

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]
Choice = Callable[[Linear, Sequence[Moments]], Mapping[str, Ints]]
POEM_STEPS = 3
ROWS_HELD = 5e8  # bytes of rows kept for the steps behind an activation; above it they are gathered again
MODES = ("none", "mean", "unify", "local", "ls")


def refit_ahead(
    coupling: Coupling,
    keep: Mapping[str, Ints],
    parts: Sequence[Iterable[Mapping[str, Array]]],
    samples: int,
    runtime: Runtime,
    seed: int = 0,
    turned: Container[int] = (),
) -> dict[str, Refit]:
    """New weights for layers that can't wait for their turn and read channels of which some go: layer key -> refit.

    These are what recurrent layers make of their own channels, and layers that are one in several places (but those
    amid `turned` attention heads). They are fitted on the original's values: what the pruned layer will remember, or
    read elsewhere, depends on these weights.
    """
    mask, sets = coupling.mask(keep), sets_ahead(coupling, keep, turned)
    every = {one.key: several[0].key for several in sets for one in several}
    layers = [one for several in sets for one in several]
    moments = collect(coupling.graph, layers, parts, samples, runtime, seed, tied=every) if sets else {}
    found: dict[str, Refit] = {}
    for several in sets:
        fit, *tune = moments[several[0].key]
        weights = refit(several[0], mask.inputs(several[0]), fit, tune[0] if tune else None)
        found |= {one.key: weights for one in several}
    return found


def sets_ahead(coupling: Coupling, keep: Mapping[str, Ints], turned: Container[int] = ()) -> list[tuple[Linear, ...]]:
    """The layers that `refit_ahead` fits; those that are one lie together."""
    mask = coupling.mask(keep)
    sets: list[tuple[Linear, ...]] = [(one,) for one in coupling.layers.values() if one.loops]
    sets += [several for key, several in coupling.tied.items() if key == several[0].key]
    sets = [several for several in sets if not any(one.index in turned for one in several)]
    return [several for several in sets if not mask.inputs(several[0]).all() and several[0].refittable]


def front_to_back(
    coupling: Coupling,
    keep: Mapping[str, Ints],
    parts: Sequence[Iterable[Mapping[str, Array]]],
    samples: int,
    runtime: Runtime,
    *,
    ahead: Mapping[str, Refit] | None = None,
    turned: Mapping[int, tuple[Linear, Linear]] | None = None,
    choices: Mapping[int, Choice] | None = None,
    only: Container[str] | None = None,
    stand_in: Callable[[Linear], Refit] | None = None,
    seed: int = 0,
    max_memory: float = 2e9,
    progress: Progress = lambda done, total: None,
) -> dict[str, Refit]:
    """New weights for every layer that reads removed channels or whose input has drifted: layer key -> refit.

    A layer that loses no inputs, but what it reads or what is added to it has drifted, gets the old weights as new ones
    unless others are better on samples that weren't fitted: so what is written depends on data in nothing but weights.
    But for one whose weight is read elsewhere, too: it stays as it is.
    `parts` are the samples to fit and the samples to choose dampings by; `ahead` is what `refit_ahead` gave.
    Targets are those of the original (the graph's `reference`), of which the coupling's graph may lack some blocks.
    The `choices` of a layer (node index) name the channels that stay from its turn on, besides those of `keep`.
    Layers amid `turned` attention heads are given twice: as they make turned outputs of the original's inputs, and as
    they make them of turned ones. With `only`, these layers (keys) are refitted, and no others. A `stand_in` tells the
    weights that take the place of fits; then nothing is run, and no samples are needed.
    """
    sizes: list[int] = []

    def feeds() -> Iterator[Mapping[str, Array]]:
        for part in parts:
            sizes.append(0)
            for feed in part:
                sizes[-1] += 1
                yield feed

    mask, refits, turned, choices = coupling.mask(keep), dict(ahead or {}), turned or {}, choices or {}
    layers = [linear for linear in layers_in_order(coupling) if only is None or linear.key in only]
    with Walk(coupling, feeds(), runtime, max_memory, mask, full=True) as walk:
        for name, known in refits.items():
            refits[name] = replace(known, weights=walk.renew(coupling.layers[name], known.weights))
        for number, linear in enumerate(layers):
            flags, (before, linear) = mask.inputs(linear), turned.get(linear.index, (linear, linear))
            choice = choices.get(linear.index)
            whole = flags.all() and choice is None and linear.index not in turned
            if linear.key in refits or (whole and _read_elsewhere(coupling.graph, linear.weight)):
                continue  # it is one with others, or would need a second table beside that of an embedding
            if not flags.all() or walk.renewed or walk.otherwise or linear.index in turned or choice:
                walk.advance(linear.index)
                other = linear.index in walk.otherwise
                if other:
                    walk.recall([linear.index, *linear.tail])
                    linear = replace(linear, shared=None)  # the original has no such channels
                needed = not flags.all() or other or choice is not None
                drifted = linear.input in walk.drifted or (_shortcut(walk, linear) and linear.shared is None)
                found, idle = None, linear.fixed and flags.all()
                due = linear.refittable and not idle and (needed or drifted)
                if due and stand_in is not None:
                    found = stand_in(linear)
                elif due:
                    present = flags if choice is None else np.ones_like(flags)  # what may be read
                    layer = _Layer(walk, before, linear, present, sizes[0], samples, seed)
                    if choice is not None:
                        keep = {**keep, **choice(linear, layer.moments)}
                        mask = coupling.mask(keep)
                        layer.flags = mask.inputs(linear)
                    found = layer.refit(needed)
                if linear.index in turned:
                    found = found or Refit(Weights(linear.matrix, linear.offset), 0.0, 0.0)
                    found = replace(found, weights=silent(coupling, mask, linear, found.weights))
                if found is not None:
                    refits[linear.key] = replace(found, weights=walk.renew(linear, found.weights))
            progress(number + 1, len(layers))
    return refits


def _read_elsewhere(graph: Graph, name: str) -> bool:
    """Whether something else reads a constant, too, or what it is made of."""
    while len(graph.consumers.get(name, ())) == 1 and name in graph.producer:
        name = next(iter(graph.nodes[graph.producer[name]].input), "")
    return len(graph.consumers.get(name, ())) > 1


class _Layer:
    """One layer at its turn: where it reads, what it should give, and its fit.

    At tap level the fit sees no rows of channels that are gone, if its convolution groups lack equally many: it is that
    of a `narrow` layer.
    """

    def __init__(
        self, walk: Walk, before: Linear, linear: Linear, flags: NDArray[np.bool_], split: int, samples: int, seed: int
    ) -> None:
        self.walk, self.before, self.linear, self.flags = walk, before, linear, flags
        self.split, self.samples, self.seed = split, samples, seed
        counts = {len(rows) for rows in kept_rows(linear, flags)}
        alike = len(counts) == 1 and counts != {0} and linear.shared is None
        self.present = flags if alike else np.ones_like(flags)
        every = np.ones(len(linear.offset), bool)
        self.narrow = linear if self.present.all() else linear.cut(self.present, every)
        self.other = linear.index in walk.otherwise
        self.shortcut = _shortcut(walk, linear)
        self.bounds = None if self.shortcut or linear.shared is not None else _activation(walk, linear)
        self._means: list[tuple[Array, Array]] = []
        self._rows: dict[int, tuple[Array, Array]] = {}
        self._held = 0.0

    @cached_property
    def moments(self) -> list[Moments]:
        """Of the samples to fit and, if there are any, of those to choose dampings by."""
        return parted(map(self.rows, range(len(self.walk.original))), self.split)

    def refit(self, needed: bool = True) -> Refit:
        """Least squares, then a few steps behind the activation where there is one; as it is if no fit is needed,
        nor better.
        """
        fit, tune = self.moments[0], self.moments[1] if len(self.moments) > 1 else None
        linear, flags = self.narrow, self.flags[self.present]
        equations = Equations(linear.fit, linear.seen(flags), fit)
        damping, error = equations.choose_damping(tune)
        if not needed and (as_it_is := error_as_it_is(linear.fit, tune or fit)) <= error:
            return Refit(Weights(self.linear.matrix, self.linear.offset), damping, as_it_is)
        parts = self.moments if self.bounds is None else self._behind_activation(equations, damping)
        everything = parts[0] + parts[1] if tune is not None else parts[0]
        found = completed(linear, flags, everything, damping, error)
        if self.narrow is not self.linear:
            return self._widened(found)
        return found if linear.shared is None else self._centred(found)

    def _widened(self, found: Refit) -> Refit:
        """With zeros where the layer reads channels that are gone."""
        matrix = np.zeros_like(self.linear.matrix)
        for own, rows, fitted_ in zip(matrix, kept_rows(self.linear, self.present), found.weights.matrix, strict=True):
            own[rows] = fitted_
        return replace(found, weights=Weights(matrix, found.weights.offset))

    def _centred(self, found: Refit) -> Refit:
        """At channel level a fit has one constant per channel; the bias can do better: it keeps the outputs' means."""
        before, now = (np.mean(rows, axis=0, keepdims=True) for rows in zip(*self._means, strict=True))
        weights = found.weights
        change = self.linear.apply(before) - self.linear.apply(now, weights.matrix, weights.offset)
        return replace(found, weights=Weights(weights.matrix, weights.offset + change[0]))

    def rows(self, batch: int) -> tuple[Array, Array]:
        """Rows that the narrow layer's fit reads in the pruned network, and its targets: float32 [S, N] and [S, o]."""
        if batch in self._rows:
            return self._rows[batch]
        walk, linear = self.walk, self.linear
        now = walk.value(batch, linear.input)
        shape = linear.output_shape(now.shape)
        places = draw(
            np.random.default_rng((self.seed, linear.index, batch)),
            linear.count(now.shape, shape),
            positions_wanted(linear, self.samples, walk.counts[batch], now.shape[0]),
        )
        index, inside = linear.reads(now.shape, shape, places)
        gathered = linear.gather(now, index)
        if self.narrow is not linear:
            gathered = gathered[:, self.present]
        new = self.narrow.rows(gathered, inside).astype(np.float32, copy=False)
        if self.other:
            x, y = new, linear.outputs(walk.original[batch][linear.output], places).astype(np.float32, copy=False)
        else:
            before, same = walk.original[batch][linear.input], self.narrow is linear
            whole = new if now is before and same else linear.sample(before, shape, places)
            old = whole.astype(np.float32, copy=False)
            x, y = linear.stacked(new), self.before.fit.apply(linear.stacked(old))
        if linear.shared is not None:
            self._means.append((old.mean(0, dtype=np.float64), new.mean(0, dtype=np.float64)))
        elif self.shortcut:
            drift = walk.original[batch][self.shortcut], walk.value(batch, self.shortcut)
            y += (linear.outputs(drift[0], places) - linear.outputs(drift[1], places)).astype(np.float32, copy=False)
        if self._held + x.nbytes + y.nbytes < ROWS_HELD:
            self._rows[batch] = x, y
            self._held += x.nbytes + y.nbytes
        return x, y

    def _behind_activation(self, equations: Equations, damping: float) -> list[Moments]:
        """POEM: where the target is cut off by the activation, any value beyond the cut will do.

        Alternates such targets with least squares on the fitted part. Gives the moments with the targets of the step
        that does best on the held-out part, if it does better there than plain least squares, else as they are.
        """
        weights = equations.solve(damping)
        smallest, best = self._error_behind(weights), None
        for _ in range(POEM_STEPS):
            before, fit = weights, self._retargeted(0, weights)
            weights = equations.solve(damping, fit)
            error = self._error_behind(weights)
            if error < smallest:
                smallest, best = error, (fit, before)
        if best is None:
            return self.moments
        fit, relaxing = best
        return [fit, *(self._retargeted(part, relaxing) for part in range(1, len(self.moments)))]

    def _retargeted(self, part: int, weights: Weights) -> Moments:
        """Moments of the samples to fit (0) or of the others (1), with the targets that some weights make."""
        batches = range(self.split) if part == 0 else range(self.split, len(self.walk.original))
        return self.moments[part].retargeted(self._relaxed(batch, weights) for batch in batches)

    def _relaxed(self, batch: int, weights: Weights) -> tuple[Array, Array]:
        """Rows and targets; where the activation cuts the target off, what the layer gives now, cut off likewise."""
        assert self.bounds is not None
        low, high = self.bounds
        x, y = self.rows(batch)
        predicted = self._predicted(x, weights)
        targets = np.where(y <= low, np.minimum(predicted, low), y)
        return x, targets if np.isinf(high) else np.where(y >= high, np.maximum(predicted, high), targets)

    def _predicted(self, x: Array, weights: Weights) -> Array:
        return self.linear.apply(x, weights.matrix, weights.offset)

    def _error_behind(self, weights: Weights) -> float:
        """Squared error behind the activation, on held-out batches if there are any."""
        assert self.bounds is not None
        low, high = self.bounds
        count = len(self.walk.original)
        total = 0.0
        for batch in range(self.split if self.split < count else 0, count):
            x, y = self.rows(batch)
            total += float(np.square(np.clip(y, low, high) - np.clip(self._predicted(x, weights), low, high)).sum())
        return total


def _shortcut(walk: Walk, linear: Linear) -> str:
    """The other operand of the sum that the layer's output goes into, if it is known by now and has drifted."""
    graph, output = walk.graph, filled(walk.graph, linear.output)
    consumers = graph.consumers.get(output, [])
    if len(consumers) != 1 or output in graph.outputs:
        return ""
    node = graph.nodes[consumers[0]]
    if node.op_type != "Add" or len(set(node.input)) != 2:
        return ""
    other = next(name for name in node.input if name != output)
    same = graph.shapes.get(other) == graph.shapes.get(output)
    return other if other in walk.drifted and same else ""


def _activation(walk: Walk, linear: Linear) -> tuple[float, float] | None:
    """Bounds of the Relu or Clip that alone reads the layer's output."""
    graph = walk.graph
    nodes = [graph.nodes[i] for i in graph.consumers.get(linear.output, [])]
    if linear.output in graph.outputs or not nodes:
        return None
    found = {bounds(graph, node) for node in nodes}
    return found.pop() if len(found) == 1 else None
