"""From targets to the plan that meets them.

A target that names a cost is met by one allocation; one that names a loss by bisection over the MACs, each candidate
carried out and judged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import __version__, clock, evaluation, heads
from onnxprune.calibration import Samples
from onnxprune.cost import COSTS
from onnxprune.coupling import Coupling
from onnxprune.errors import BudgetError, UsageError
from onnxprune.files import Model
from onnxprune.files import save as save_model
from onnxprune.graph import Array, Graph
from onnxprune.plan import Plan, Weights
from onnxprune.report import BlockReport, Fidelity, Target, block_report
from onnxprune.serialize import carried_out
from onnxprune.steps import (
    Options,
    Ranked,
    Run,
    allocate,
    cost_of,
    count_of,
    coupled,
    rank,
    reconstruct,
    refine,
    what_stands_in_the_way,
)
from onnxprune.walk import layers_in_order

Ints = NDArray[np.int64]
KINDS = (*COSTS, "latency", "drop")
BISECTIONS = 6
TRIES = 8  # allocations until what is written costs what was asked for
CLOSE = 0.002  # to what was asked for
TIMED_TRIES = 4  # the same where a cost is timed, which takes a while and isn't exact
TIMED_CLOSE = 0.02


@dataclass(frozen=True)
class Candidate:
    """A plan, what it refers to, the model it makes, the errors of the refitted layers, and how well it answers."""

    coupling: Coupling
    plan: Plan
    model: Model
    errors: dict[str, float]
    fidelity: Fidelity
    accuracy: float | None


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Targets from texts like "macs=0.5"; UsageError says what is wrong with one."""
    found = []
    for text in texts:
        kind, _, value = text.partition("=")
        if kind not in KINDS:
            raise UsageError(f"target '{text}' isn't known; give one of {', '.join(k + '=NUMBER' for k in KINDS)}.")
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"target '{text}' needs a number, as in {kind}=0.5.") from None
        if not (0 < number <= 1 if kind != "drop" else 0 <= number < 1):
            raise UsageError(f"target '{text}' is out of range: {kind} is a fraction between 0 and 1.")
        found.append(Target(kind, number))
    return tuple(found)


class Search:
    """Finds the plan that meets the targets: by cost where they name one, by bisection where they name a loss."""

    def __init__(self, run: Run) -> None:
        self.run = run
        original = Model(run.original.model, run.original.arrays)
        self.before, self.accuracy = _answers(run, original), _accuracy(run, original)

    def other(self, **options: Any) -> Search:
        """A search on the same model and data with some other options."""
        found = copy(self)
        found.__dict__.pop("ranked", None)
        found.run = replace(self.run, options=replace(self.run.options, **options))
        return found

    def on(self, model: Model) -> Search:
        """The same search on another model of the same inputs."""
        graph = Graph.of(model, self.run.coupling.graph.dims)
        coupling = coupled(graph, self.run.options)
        return Search(replace(self.run, coupling=coupling, original=graph, on_disk=None))

    @cached_property
    def ranked(self) -> Ranked:
        """What widths are chosen by."""
        return rank(self.run)

    def candidate(self, keep: Mapping[str, Ints]) -> Candidate:
        """Carry out a choice of channels, improved by swaps where that is asked for."""
        if self.run.options.refine and keep:
            keep = refine(self.run, self.ranked, keep)
        weights, errors = reconstruct(self.run, self.ranked, keep)
        return self.carried_out(self.plan(keep, weights), errors)

    def plan(self, keep: Mapping[str, Ints], weights: Mapping[str, Weights]) -> Plan:
        """The plan of these channels and weights for the graph that is coupled."""
        coupling, graph = self.run.coupling, self.run.coupling.graph
        form = heads.names(coupling), tuple(graph.removed), self.run.options.serialize, graph.merged
        return Plan(dict(keep), weights, *form)

    def carried_out(self, plan: Plan, errors: dict[str, float]) -> Candidate:
        """The model that a plan makes, and how it answers."""
        with self.run.timed("rewrite"):
            model = carried_out(self.run.coupling, plan)
        return Candidate(self.run.coupling, plan, model, errors, *self.judged(model))

    def judged(self, model: Model) -> tuple[Fidelity, float | None]:
        """How well a model answers like the one that is pruned, and its accuracy where there are labels."""
        with self.run.timed("judge"):
            after = _answers(self.run, model)
            count = len(_judged(self.run)[1])
            fidelity = evaluation.fidelity(self.before, after, count, self.run.samples.origin)
            return fidelity, None if self.accuracy is None else _accuracy(self.run, model)

    def loss(self, candidate: Candidate) -> float:
        """What `drop` counts."""
        if self.accuracy is not None and candidate.accuracy is not None:
            return round(self.accuracy - candidate.accuracy, 12)  # 0.92 - 0.91 is 0.01
        return candidate.fidelity.loss

    def best(self) -> tuple[Candidate, BudgetError | None]:
        """The candidate that meets the targets; or the best there is, and why it falls short."""
        targets = self.run.options.targets
        if self.run.options.plan is not None:
            return self.carried_out(self.run.options.plan, {}), None
        limits = [(t.kind, t.value) for t in targets if t.kind != "drop"]
        drops = [t.value for t in targets if t.kind == "drop"]
        failure, keep = None, None
        if limits:
            try:
                keep = self.within(limits)
            except BudgetError as error:
                failure = BudgetError(f"{error}; {what_stands_in_the_way(self.run)}", error.reachable)
                keep = {r.group.name: r.kept(int(r.levels[0])) for r in self.ranked.rankings}
        if not drops:
            assert keep is not None
            return self.candidate(keep), failure
        if keep is not None:
            found = self.candidate(keep)
            if self.loss(found) <= min(drops):
                return found, failure
            failure = failure or BudgetError(
                f"the cost asked for loses {self.loss(found):.3g}, more than the {min(drops):g} allowed; "
                "what was written loses no more than that",
                self.share(limits[0][0], keep),
            )
        return self.bisect(min(drops), failure)

    def within(self, limits: Sequence[tuple[str, float]]) -> dict[str, Ints]:
        """Channels kept so that every cost is at most its fraction of the original's, as close as widths allow.

        Several costs are met one after the other, each within the widths that the ones before it left; of the orders
        in which that can be done, the one that is predicted to lose least.
        """
        goals = {kind: min(value for k, value in limits if k == kind) for kind in dict.fromkeys(k for k, _ in limits)}
        found = []
        for order in permutations(goals):
            widths = [r.group.channels for r in self.ranked.rankings]
            for kind in order:
                if self.share(kind, self.kept(widths)) > goals[kind] + 1e-12:
                    widths = self.exactly(kind, goals[kind], widths)
            found.append(widths)
        return self.kept(min(found, key=self._predicted))

    def exactly(self, kind: str, goal: float, most: Sequence[int]) -> list[int]:
        """Widths up to `most` that cost at most `goal` in the model that would be written.

        What it costs beyond the prediction (biases that are added; time that isn't the sum of parts) is taken off the
        budget of the next try.
        """
        cost, best, least = cost_of(self.run, self.ranked, kind), None, 0.0
        full = max(count_of(self.run, kind, self.ranked), 1e-9)
        budget = goal
        tries, close = (TIMED_TRIES, TIMED_CLOSE) if kind == "latency" else (TRIES, CLOSE)
        for _ in range(tries):
            try:
                widths = allocate(self.run, self.ranked, kind, budget, most)
            except BudgetError:
                if best is None:
                    raise
                break
            left = self.share(kind, self.kept(widths))
            if least < left <= goal + 1e-12:
                best, least = widths, left
            added = left - cost.total(np.array(widths)) / full
            if (best is not None and least > goal - close) or abs(goal - added - budget) < 1e-9:
                break
            budget = min(goal - added, 1.0)
        if best is None:
            raise BudgetError(f"{kind}={goal:g} can't be reached", budget)
        return best

    def kept(self, widths: Sequence[int]) -> dict[str, Ints]:
        """The channels that stay at these widths."""
        return {r.group.name: r.kept(w) for r, w in zip(self.ranked.rankings, widths, strict=True)}

    def _predicted(self, widths: Sequence[int]) -> float:
        """The sum of the groups' errors at these widths."""
        return sum(float(np.interp(w, c.levels, c.errors)) for w, c in zip(widths, self.ranked.curves, strict=True))

    def share(self, kind: str, keep: Mapping[str, Ints]) -> float:
        """What is left of a cost, counted (or timed) on the model that would be written."""
        mask, coupling = self.run.coupling.mask(keep), self.run.coupling
        weights, drifted, turned = dict[str, Weights](), False, self.ranked.turned(coupling, keep)
        bridges = [coupling.graph.producer[name] for name in coupling.graph.removed]
        loops = [linear for linear in coupling.layers.values() if linear.loops]
        for linear in [*layers_in_order(coupling), *loops] if self.run.mode != "none" else []:
            flags = mask.inputs(linear)
            drifted = drifted or not flags.all() or linear.index in turned or any(b < linear.index for b in bridges)
            if not flags.all() or (drifted and self.run.mode == "ls" and not linear.loops):
                nothing = np.broadcast_to(np.zeros(()), linear.matrix.shape)  # takes no memory
                weights[linear.key] = Weights(nothing, np.ones_like(linear.offset))  # with a bias
        for one in turned.values():
            weights.setdefault(one.after.key, Weights(one.after.matrix, one.after.offset))
        model = carried_out(coupling, self.plan(keep, weights))
        stamp(model.proto, self.run.options)
        if kind == "latency":
            return self.timed(model).ratio
        return COSTS[kind].count(Graph.of(model, coupling.graph.dims)) / max(count_of(self.run, kind), 1)

    def timed(self, model: Model, original: Model | None = None) -> clock.Ratio:
        """The time that a model takes, relative to the original, in a process of its own."""
        run = self.run
        with run.timed("latency"):
            original = original or Model(run.original.model, run.original.arrays)
            times = clock.apart([original, model], run.timed_feed, run.options.runtime)
        return clock.paired(times[:, 0], times[:, 1])

    def blocks(self, coupling: Coupling) -> list[BlockReport]:
        """What is to be said of the blocks that this search knows of."""
        return [block_report(coupling, block, removed=True) for block in coupling.graph.removed.values()]

    def bisect(self, allowed: float, failure: BudgetError | None) -> tuple[Candidate, BudgetError | None]:
        """The fewest MACs whose loss is at most `allowed`."""
        cost = cost_of(self.run, self.ranked, "macs")
        low, high = (
            cost.total(np.array([r.levels[i] for r in self.ranked.rankings])) / count_of(self.run, "macs")
            for i in (0, -1)
        )
        best: Candidate | None = None
        least = np.inf
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            found = self.candidate(self.kept(allocate(self.run, self.ranked, "macs", middle)))
            least = min(least, self.loss(found))
            if self.loss(found) <= allowed:
                best, high = found, middle
            else:
                low = middle
        if best is not None:
            return best, failure
        message = f"no pruning was found with a loss of at most {allowed:g} (the smallest was {least:.3g})"
        return self.candidate({}), failure or BudgetError(
            f"{message}; allow more with --target drop=, or give more data"
        )


def stamp(model: ModelProto, options: Options) -> None:
    """Say in the model's metadata what was done to it."""
    facts = {
        "version": __version__,
        "method": "plan" if options.plan is not None else options.method,
        "targets": ",".join(f"{t.kind}={t.value:g}" for t in options.targets),
    }
    for name, value in facts.items():
        known = next((p for p in model.metadata_props if p.key == f"onnxprune.{name}"), None)
        (known or model.metadata_props.add(key=f"onnxprune.{name}")).value = value


def _judged(run: Run) -> tuple[Samples, list[int]]:
    """The samples that judge: labelled ones if there are any, as many as memory has room for answers."""
    room = evaluation.affordable(run.coupling.graph, run.coupling.graph.outputs)
    labelled = run.labelled
    if labelled is not None and labelled.samples is not None:
        return labelled.samples, list(range(min(labelled.samples.count, room)))
    return run.samples, run.division.judge[:room].tolist()


def _answers(run: Run, model: Model) -> list[Array]:
    samples, indices = _judged(run)
    return evaluation.answers(model, samples, indices, run.options.runtime, run.options.at_once)


def _accuracy(run: Run, model: Model) -> float | None:
    if run.labelled is None:
        return None
    if run.labelled.function is None:
        return evaluation.accuracy(model, None, run.labelled, run.options.runtime, run.options.at_once)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return evaluation.accuracy(model, path, run.labelled, run.options.runtime, run.options.at_once)
