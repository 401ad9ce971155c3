"""From targets to the plan that meets them.

A target that names a cost is met by one allocation; one that names a loss by a few candidates of different MACs (or
of different times, where another target counts time), each carried out and judged on samples that took no part in
making it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from glob import escape
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import __version__, clock, files, heads
from onnxprune.allocation import out_of_reach
from onnxprune.blocks import find
from onnxprune.cost import COSTS
from onnxprune.coupling import Coupling
from onnxprune.errors import BudgetError, DataError, UsageError
from onnxprune.files import Model
from onnxprune.graph import Graph
from onnxprune.judging import Judge
from onnxprune.merging import passed
from onnxprune.plan import Plan, Weights
from onnxprune.repair import outlined, reconstruct, refine
from onnxprune.report import BlockReport, Fidelity, Loss, Target, block_report
from onnxprune.run import Options, Run, coupled
from onnxprune.scope import least_width, what_stands_in_the_way
from onnxprune.serialize import carried_out
from onnxprune.steps import Ranked, allocate, cost_of, count_of, rank

Ints = NDArray[np.int64]
KINDS = (*COSTS, "latency", "drop")
STEPS = 96  # budgets from the largest to the smallest, among which the one for a loss is found
CANDIDATES = 6  # models made to find it
ENOUGH = 0.8  # of the loss allowed
FURTHER = 1.25  # by how much the change of the answers grows at least while less than that is lost
TRIES = 8  # allocations until what is written costs what was asked for
CLOSE = 0.002  # to what was asked for
SHORT = 0.01  # of what was asked for, as a part of it
TIMED_TRIES = 6  # the same where a cost is timed, which takes a while and isn't exact
TIMED_CLOSE = 0.01


@dataclass(frozen=True)
class Candidate:
    """A plan, what it refers to, the model it makes, the errors of the refitted layers, and how well it answers."""

    coupling: Coupling
    plan: Plan
    model: Model
    errors: dict[str, float]
    fidelity: Fidelity
    accuracy: float | None
    loss: Loss
    reach: float  # so many times its change of the answers loses what is allowed


@dataclass(frozen=True)
class Trial:
    """What would be chosen within a budget, the error that is predicted for it, and how it is carried out."""

    chosen: object
    error: float
    make: Callable[[], Candidate] = field(compare=False)

    @property
    def change(self) -> float:
        """The change of the answers, which grows like the root of the error."""
        return float(np.sqrt(self.error))


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Targets from texts like "macs=0.5"; UsageError says what is wrong with one."""
    found = []
    for text in texts:
        kind, _, value = str(text).partition("=")
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
    """Finds the plan that meets the targets: by cost where they name one, by a few trials where they name a loss."""

    def __init__(self, run: Run) -> None:
        self.run, self.judge = run, Judge.of(run)
        if self.judge.allowed is not None and self.judge.scores is None and not self.judge.before:
            raise DataError(
                "no output of the model holds numbers or labels, so nobody can tell what pruning loses: give a target "
                "like macs=0.5, or a function as --eval."
            )

    def other(self, **options: Any) -> Search:
        """A search on the same model and data with some other options; the ranking stays where it is the same."""
        found = self.under(replace(self.run, options=replace(self.run.options, **options)))
        alike = set(options) <= {"targets", "blocks"} and found.run.options.predicts <= self.run.options.predicts
        for stale in ("reachable",) if alike else ("reachable", "ranked", "task"):
            found.__dict__.pop(stale, None)
        return found

    def under(self, run: Run) -> Search:
        """The same search for another run on the same model and data."""
        found = copy(self)
        found.run, found.judge = run, replace(self.judge, run=run)
        return found

    def ready(self) -> None:
        """Do what is the same for all targets."""
        assert self.ranked

    def on(self, model: Model) -> Search:
        """The same search on another model of the same inputs."""
        before, options = self.run.coupling, self.run.options
        graph = Graph.of(model, before.graph.dims)
        coupling = coupled(graph, options)
        limits = {g.name: least_width(before, g, options) for g in before.groups}  # shares are of what there was
        now = {g.name: g.channels for g in coupling.groups}
        keep = {escape(name): least / now[name] for name, least in limits.items() if name in now}
        options = replace(options, keep=keep if options.keep else (), beside=None)
        return Search(replace(self.run, coupling=coupling, original=graph, on_disk=None, options=options))

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
        return Candidate(self.run.coupling, plan, model, errors, *self.judge.judgement(model))

    def best(self) -> tuple[Candidate, BudgetError | None]:
        """The candidate that meets the targets; or the best there is, and why it falls short."""
        if self.run.options.plan is not None:
            return self.carried_out(self.run.options.plan, {}), None
        limits = [(t.kind, t.value) for t in self.run.options.targets if t.kind != "drop"]
        failure, wanted = None, None
        if limits:
            found, failure = self.limited(limits)
            if self.judge.allowed is None or found.loss.value <= self.judge.allowed:
                return found, failure
            left = {kind: self.left(kind, found.model) for kind in {limits[0][0], self.along}}
            wanted = self.trial(left[self.along]).change * found.reach
            failure = failure or BudgetError(
                f"the cost asked for loses {found.loss.value:.3g}, more than the {self.judge.allowed:g} allowed; "
                "what was written loses no more than that",
                left[limits[0][0]],
            )
        assert self.judge.allowed is not None
        best, least = self.farthest(self.judge.allowed, wanted)
        if best is not None:
            return best, failure
        return self.candidate({}), failure or BudgetError(
            f"no pruning was found with a loss of at most {self.judge.allowed:g} (the smallest was {least:.3g}); "
            "allow more with --target drop=, or give more data"
        )

    def limited(self, limits: Sequence[tuple[str, float]]) -> tuple[Candidate, BudgetError | None]:
        """The candidate that costs no more than these fractions of the original; or the smallest, and why."""
        failure = None
        try:
            keep = self.within(limits)
        except BudgetError as error:
            failure = BudgetError(f"{error}; {what_stands_in_the_way(self.run)}", error.reachable)
            keep = self.kept(self.smallest)
        found = self.candidate(keep)
        counted = "latency" not in dict(limits)
        if failure and counted and all(self.left(kind, found.model) <= value for kind, value in limits):
            failure = None  # of layers that no output needs less is written than was counted on
        return found, failure

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
                if kind == "latency":
                    widths = self.in_time(goals[kind], widths)
                elif self.share(kind, self.kept(widths)) > goals[kind] + 1e-12:
                    widths = self.exactly(kind, goals[kind], widths)
            found.append(widths)
        return self.kept(min(found, key=self._predicted))

    def exactly(self, kind: str, goal: float, most: Sequence[int]) -> list[int]:
        """Widths up to `most` that cost at most `goal` in the model that would be written.

        The biases that are added there, less what is folded, are taken off the budget of the next try. Where what is
        left then is more than SHORT of the goal, groups are widened as far as it allows. Raises BudgetError if the
        smallest widths cost more.
        """
        cost, best, least = cost_of(self.run, self.ranked, kind), None, 0.0
        full = max(count_of(self.run, kind), 1)
        budget = goal
        for _ in range(TRIES):
            widths = [min(pair) for pair in zip(self.allocated(kind, budget, most), most, strict=True)]
            left = self.share(kind, self.kept(widths))
            if least < left <= goal + 1e-12:
                best, least = widths, left
            added = left - cost.total(np.array(widths)) / full  # biases, less what is folded
            if (best is not None and least > goal - CLOSE) or abs(goal - added - budget) < 1e-9:
                break
            budget = min(goal - added, 1.0)
        if best is None:
            best = [min(pair) for pair in zip(self.smallest, most, strict=True)]
            least = self.share(kind, self.kept(best))
            if least > goal + 1e-12:
                raise out_of_reach(goal, least)
        return self.widened(kind, goal, best, most)

    def widened(self, kind: str, goal: float, widths: Sequence[int], most: Sequence[int]) -> list[int]:
        """Widths from `widths` to `most` of which none can be larger, but for what is at most SHORT of the goal.

        What lowers the predicted error most goes first. A group for which there was no room isn't tried again, as the
        others only get wider.
        """
        widths, full = list(widths), set[int]()
        while self.share(kind, self.kept(widths), biased=False) < (1 - SHORT) * goal:
            found = []
            for i, (ranking, curve) in enumerate(zip(self.ranked.rankings, self.ranked.curves, strict=True)):
                above = ranking.levels[(ranking.levels > widths[i]) & (ranking.levels <= most[i])]
                if len(above) and i not in full:
                    lower, upper = np.interp([widths[i], above[0]], curve.levels, curve.errors)
                    found.append((upper - lower, i, int(above[0])))
            for _, i, width in sorted(found):
                wider = [*widths[:i], width, *widths[i + 1 :]]
                if self.share(kind, self.kept(wider)) <= goal + 1e-12:
                    widths = wider
                    break
                full.add(i)
            else:
                break
        return widths

    def in_time(self, goal: float, most: Sequence[int]) -> list[int]:
        """Widths up to `most` with which the model takes at most `goal` of the time, when it is timed.

        What is saved is taken to be so many times what was predicted as it was in the last try. Budgets stay between
        those that were too large and too small, and fall twice as far as the last time after each try that still took
        too long. Raises BudgetError if the smallest widths take longer.
        """
        time = cost_of(self.run, self.ranked, "latency")
        best, least, budget, low, high = None, 0.0, goal, 0.0, 1.0
        tried, urge = 0, 1
        while True:
            widths = self.allocated("latency", budget, most)
            left = self.share("latency", self.kept(widths))
            if least < left <= goal:
                best, least = widths, left
            if best is None and widths == self.smallest:
                raise out_of_reach(goal, left)
            close = least > goal - TIMED_CLOSE or widths == list(most)
            tried += 1
            if best is not None and (close or tried >= TIMED_TRIES):
                return best
            low, high = (low, budget) if left > goal else (budget, high)
            predicted = time.total(np.array(widths)) / self.ranked.whole
            needed = 1 - (1 - predicted) * (1 - goal) / (1 - left) if left < 1 else low
            corrected = predicted + urge * (needed - predicted)
            budget = corrected if low < corrected < high else (low + high) / 2
            urge = 2 * urge if left > goal else 1

    def allocated(self, kind: str, budget: float, most: Sequence[int] | None = None) -> list[int]:
        """Widths up to `most` that are predicted to cost at most this fraction of the original; else the smallest."""
        try:
            return allocate(self.run, self.ranked, kind, budget, most)
        except BudgetError:
            return self.smallest

    @property
    def smallest(self) -> list[int]:
        """The smallest widths."""
        return [int(r.levels[0]) for r in self.ranked.rankings]

    def kept(self, widths: Sequence[int]) -> dict[str, Ints]:
        """The channels that stay at these widths."""
        return {r.group.name: r.kept(w) for r, w in zip(self.ranked.rankings, widths, strict=True)}

    def _predicted(self, widths: Sequence[int]) -> float:
        """The sum of the groups' errors at these widths."""
        return sum(float(np.interp(w, c.levels, c.errors)) for w, c in zip(widths, self.ranked.curves, strict=True))

    def share(self, kind: str, keep: Mapping[str, Ints], *, biased: bool = True) -> float:
        """What is left of a cost, counted (or timed) on the model that would be written, or a few biases more.

        If not `biased`, none are added: what is written costs no less than that.
        """
        weights = outlined(self.run, self.ranked, keep, biased=biased)
        return self.left(kind, carried_out(self.run.coupling, self.plan(keep, weights)))

    def left(self, kind: str, model: Model) -> float:
        """What is left of a cost in a model, as it is written: with what is said in it of the run."""
        if kind == "latency":
            return self.timed(model).ratio
        stamp(model.proto, self.run.options)
        if kind == "size" and self.run.options.beside is not None:
            return files.moved_size(model, self.run.options.beside) / max(count_of(self.run, kind), 1)
        return COSTS[kind].count(Graph.of(model, self.run.coupling.graph.dims)) / max(count_of(self.run, kind), 1)

    def timed(self, model: Model, original: Model | None = None) -> clock.Ratio:
        """The time that a model takes, relative to the original, in a process of its own."""
        run = self.run
        with run.timed("latency"):
            original = original or Model(run.original.model, run.original.arrays)
            times = clock.apart([original, model], run.timed_feed, run.options.runtime)
        return clock.paired(times[:, 0], times[:, 1])

    def blocks(self, coupling: Coupling) -> list[BlockReport]:
        """What is to be said of the blocks: nothing if none is gone, else of all."""
        graph, gone = self.run.original, passed(coupling.graph)
        known = find(graph) if gone else []
        inside = {i for block in known if block.output in gone for i in block.nodes}
        return [block_report(graph, b, removed=inside.issuperset(b.nodes)) for b in known]

    @property
    def along(self) -> str:
        """The cost that a loss is weighed against."""
        return "latency" if self.run.options.for_time else "macs"

    @cached_property
    def reachable(self) -> tuple[float, float]:
        """The largest and the smallest share of that cost that can be chosen."""
        cost, whole = cost_of(self.run, self.ranked, self.along), count_of(self.run, self.along, self.ranked)
        full = [r.group.channels for r in self.ranked.rankings]
        most, least = (cost.total(np.array(widths)) / whole for widths in (full, self.smallest))
        return most, least

    def trial(self, share: float) -> Trial:
        """What would be chosen for a share of that cost, or for the smallest that there is."""
        widths = self.allocated(self.along, share)
        return Trial(widths, self._predicted(widths), lambda: self.candidate(self.kept(widths)))

    def farthest(self, allowed: float, wanted: float | None = None) -> tuple[Candidate | None, float]:
        """The cheapest candidate that loses at most `allowed`, if there is one; and the least loss that was seen.

        `wanted`: the change of the answers that loses so much, if something tells that; else noise does. After that it
        is told by scaling the change that the last candidate made, so few candidates are needed.
        """
        most, fewest = self.reachable
        budgets = most - (most - fewest) * np.square(np.linspace(0, 1, STEPS + 1))  # finer where little is lost

        @cache
        def trial(step: int) -> Trial:
            return self.trial(float(budgets[step]))

        def change(step: int) -> float:
            return trial(step).change

        good, bad, best, least, enough = 0, STEPS + 1, None, np.inf, False
        wanted = self.judge.reach(self.judge.noise(), 1.0) if wanted is None else wanted
        for _ in range(CANDIDATES):
            while good + 1 < bad and trial(good + 1) == trial(good):
                good += 1
            while good + 1 < bad <= STEPS and trial(bad - 1) == trial(bad):
                bad -= 1
            step = bisect_right(range(STEPS + 1), wanted, good + 1, bad, key=change) - 1
            if bad - good == 1 or (step == good and enough):
                break
            if step == good or (bad <= STEPS and wanted >= change(bad)):  # as what is known already denies
                step = (good + bad) // 2
            found = trial(step).make()
            least = min(least, found.loss.value)
            enough = ENOUGH * allowed <= found.loss.value <= allowed
            if found.loss.value <= allowed:
                best, good = found, step
            else:
                bad = step
            wanted = change(step) * (found.reach if enough or bad == step else max(found.reach, FURTHER))
        return best, least


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
