"""From targets to the plan that meets them.

The steps of a run, each a function of what the ones before it made: `rank` (moments, orders of removal, error curves),
`allocate` (widths for a budget), `reconstruct` (new weights). `Search` puts them together: once where a target names a
cost, by bisection over the MACs where it names a loss.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import evaluation, methods, oracle, selection
from onnxprune.allocation import ALLOCATORS, Bilinear, Curve
from onnxprune.calibration import Samples
from onnxprune.cost import macs_of_widths, parameters, parameters_of_widths, total_macs
from onnxprune.coupling import Coupling, Group, couple
from onnxprune.data import Division, divide, shapes_of
from onnxprune.errors import BudgetError, UsageError
from onnxprune.evaluation import Labelled
from onnxprune.graph import Array, Graph
from onnxprune.graph import save as save_model
from onnxprune.plan import Plan, Weights
from onnxprune.reconstruct import MODES, WIDEST, front_to_back, masked, refit, with_mean
from onnxprune.report import Fidelity, Target
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments, collect
from onnxprune.walk import layers_in_order

Ints = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
KINDS = ("macs", "params", "drop")
DEFAULT_STEP = 4  # onnxruntime's blocked convolutions want multiples of 4; other widths can be slower than before
DEFAULT_DROP = 0.01
SYNTHETIC_DROP = 0.001  # without real data nobody can tell what a loss means
BISECTIONS = 6
PROBE_SAMPLES = 256


@dataclass(frozen=True)
class Options:
    """How to prune. Every field is an option of the command line of the same name."""

    targets: tuple[Target, ...] = ()
    method: str = "reap"
    allocate: str = "dp"
    reconstruct: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    round_to: int | None = None
    min_channels: int = 1
    batch: int = 64
    seed: int = 0
    max_memory: float = 2e9
    runtime: Runtime = field(default_factory=Runtime)
    measure_latency: bool = True
    plan: Plan | None = None  # carried out as it is: nothing is chosen, and the options that choose don't matter

    def __post_init__(self) -> None:
        methods.find(self.method)
        for name, value, known in (
            ("allocator", self.allocate, tuple(ALLOCATORS)),
            ("way to reconstruct", self.reconstruct, ("auto", *MODES)),
        ):
            if value not in known:
                raise UsageError(f"there is no {name} '{value}'; choose one of: {', '.join(known)}.")


@dataclass
class Run:
    """One model with its data: what the steps of `prune` share."""

    coupling: Coupling
    samples: Samples
    options: Options
    labelled: Labelled | None
    division: Division
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seen: int = 0  # samples that calibration has run, for its progress

    def feeds(self, indices: Ints) -> Iterable[Mapping[str, Array]]:
        """The samples in batches, read when they are asked for."""
        return self.samples.batches(indices.tolist(), self.options.batch)

    @property
    def mode(self) -> str:
        """How layers are reconstructed: as asked for, or as the method's paper does."""
        mode = self.options.reconstruct
        return methods.find(self.options.method).reconstruct if mode == "auto" else mode

    @contextmanager
    def timed(self, stage: str) -> Iterator[Callable[[int, int], None]]:
        """Add up the seconds of a stage; gives its progress function."""
        start = time.perf_counter()
        yield lambda done, total: self.progress(stage, done, total)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def prepare(
    graph: Graph,
    found: Samples,
    options: Options,
    labelled: Labelled | None = None,
    progress: Progress = lambda *_: None,
    copies: int = 1,
) -> Run:
    """Couple the graph and divide the samples, of which `copies` neighbours belong together (mirror images)."""
    graph = Graph(graph.model, {**shapes_of(found), **graph.dims})
    targets = options.targets
    if not targets and options.plan is None:
        targets = (Target("drop", DEFAULT_DROP if found.origin == "given" else SYNTHETIC_DROP),)
    if labelled is not None and labelled.samples is not None:
        judge = 0.0  # the labelled samples judge
    else:
        judge = 0.2 if any(t.kind == "drop" for t in targets) else 0.1
    division = divide(found.count, options.seed, judge=judge, copies=copies)
    run = Run(couple(graph), found, replace(options, targets=targets), labelled, division, progress)
    if np.isin(division.judge, division.fit).any():
        run.warnings.append("too few samples to hold any back: the result is judged on samples that were fitted.")
    if found.origin == "synthetic":
        run.warnings.append("no calibration data: synthetic inputs were used, so the result is a guess; pass --calib.")
    return run


@dataclass(frozen=True)
class Ranked:
    """All that a budget is turned into widths by, and the moments for reconstruction."""

    rankings: list[selection.Ranking]
    curves: list[Curve]
    moments: dict[str, list[Moments]]


def rank(run: Run) -> Ranked:
    """Moments, orders and error curves of all groups that may be pruned; BudgetError if there is none.

    Groups are taken in portions whose moments fit into memory; each takes a pass over the samples.
    """
    groups = prunable(run)
    if not groups:
        raise BudgetError("nothing in this model can be pruned: " + _why(run))
    step = DEFAULT_STEP if run.options.round_to is None else run.options.round_to
    method, rng = methods.find(run.options.method), np.random.default_rng(run.options.seed)
    rankings: list[selection.Ranking] = []
    moments: dict[str, list[Moments]] = {}
    portions = list(_portions(run, groups))
    for portion in portions:
        found = _moments(run, portion, len(portions))
        with run.timed("select") as progress:
            for group in portion:
                allowed = selection.widths(group, step, run.options.min_channels)
                rankings.append(selection.rank(run.coupling, group, found, method, allowed, rng))
                progress(len(rankings), 2 * len(groups))
        if run.mode != "ls":
            moments |= found  # the layers are refitted one by one from what is known now
    with run.timed("select") as progress:
        signals = list(oracle.comparable(run.coupling.graph))
        most = min(PROBE_SAMPLES, evaluation.affordable(run.coupling.graph, signals))
        judging = (run.division.tune if len(run.division.tune) else run.division.fit)[:most]
        curves = selection.probe(
            run.coupling,
            rankings,
            run.feeds(judging),
            signals,
            run.options.runtime,
            run.options.max_memory,
            lambda number, total: progress(total + number, 2 * total),
        )
    _warn_of_few(run, groups)
    return Ranked(rankings, curves, moments)


def _portions(run: Run, groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups in order, as many at a time as the memory granted holds moments of."""
    portion, held = list[Group](), 0
    for group in groups:
        rows = [linear.channels * linear.taps for linear in selection.readers(run.coupling, group)]
        size = sum(3 * 8 * n * n for n in rows)  # two parts, and room to work in
        if portion and held + size > run.options.max_memory:
            yield portion
            portion, held = [], 0
        portion.append(group)
        held += size
    yield portion


def _moments(run: Run, groups: Sequence[Group], portions: int) -> dict[str, list[Moments]]:
    """Moments of all layers that read these groups, on the samples to fit and on those to choose by."""
    linears = {linear.key: linear for g in groups for linear in selection.readers(run.coupling, g)}
    parts = [run.feeds(part) for part in (run.division.fit, run.division.tune) if len(part)]
    count = len(run.division.fit) + len(run.division.tune)
    with run.timed("calibrate") as progress:

        def tick(n: int) -> None:
            run.seen += n
            progress(min(run.seen, portions * count), portions * count)

        return collect(
            run.coupling.graph, list(linears.values()), parts, count, run.options.runtime, run.options.seed, tick
        )


def _warn_of_few(run: Run, groups: Sequence[Group]) -> None:
    """Rows of one map are nearly copies: what counts is the number of samples, and it should reach a layer's width."""
    widths = [linear.channels for g in groups for linear in selection.readers(run.coupling, g)]
    fitted = len(run.division.fit)
    few = [n for n in widths if fitted < n]
    if few:
        run.warnings.append(
            f"{fitted} samples to fit are fewer than the input channels of {len(few)} layers (up to {max(few)}): "
            "more samples would keep more accuracy."
        )


def prunable(run: Run) -> list[Group]:
    """The groups that the allocator may narrow."""
    return [g for g in run.coupling.groups if not why_left_out(run.coupling, g, run.options)]


def why_left_out(coupling: Coupling, group: Group, options: Options | None = None) -> str:
    """Why a group that could be cut stays whole; empty if it doesn't."""
    touched = [coupling.layer(i) for i in (*group.writers, *group.reads)] + [group.name]
    makers = [coupling.layer(i) for i in group.writers] + [group.name]
    if group.stream:
        return f"its channels are a residual stream that {len(group.writers)} layers write to: it stays whole"
    if options and any(fnmatch(name, pattern) for pattern in options.exclude for name in touched):
        return "left out by --exclude"
    if options and options.include and not any(fnmatch(name, p) for p in options.include for name in makers):
        return "left out by --include"
    return "" if selection.readers(coupling, group) else _unfit(coupling, group)


def _unfit(coupling: Coupling, group: Group) -> str:
    """Which reader of a group can't be refitted, and why."""
    for index in group.reads:
        linear = coupling.linear(index)
        if linear is None:
            return f"{coupling.layer(index)} reads its channels in a way that can't be refitted"
        if linear.channels * linear.taps > WIDEST:
            return f"{coupling.layer(index)} reads {linear.channels * linear.taps} values, too many to refit"
    return ""


def allocate(run: Run, ranked: Ranked, kind: str, fraction: float) -> dict[str, Ints]:
    """Channels kept per group so that a cost is at most `fraction` of the original's; BudgetError if it can't be."""
    cost = cost_of(run, ranked, kind)
    full = cost.total(np.array([g.group.channels for g in ranked.rankings]))
    found = ALLOCATORS[run.options.allocate](ranked.curves, cost, fraction * full)
    return {r.group.name: r.kept(int(w)) for r, w in zip(ranked.rankings, found, strict=True)}


def cost_of(run: Run, ranked: Ranked, kind: str) -> Bilinear:
    """What a target counts, as a function of the widths."""
    groups = [r.group for r in ranked.rankings]
    return (macs_of_widths if kind == "macs" else parameters_of_widths)(run.coupling, groups)


def reconstruct(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> tuple[dict[str, Weights], dict[str, float]]:
    """New weights of the layers that need them, and their errors on samples that weren't fitted."""
    mode = run.mode
    with run.timed("reconstruct") as progress:
        if mode == "ls":
            parts = [run.feeds(run.division.fit), run.feeds(run.division.tune)]
            refits = front_to_back(
                run.coupling, keep, parts, run.samples.count, run.options.runtime,
                seed=run.options.seed, max_memory=run.options.max_memory, progress=progress,
            )  # fmt: skip
            return {k: r.weights for k, r in refits.items()}, {k: r.error for k, r in refits.items()}
        return _one_by_one(run, ranked, keep, mode)


def _one_by_one(
    run: Run, ranked: Ranked, keep: Mapping[str, Ints], mode: str
) -> tuple[dict[str, Weights], dict[str, float]]:
    mask = run.coupling.mask(keep)
    weights: dict[str, Weights] = {}
    errors: dict[str, float] = {}
    for index, ids in run.coupling.notes.readers.items():
        flags, linear = mask.of(ids), run.coupling.linear(index)
        if flags.all() or linear is None or linear.key not in ranked.moments or mode == "none":
            continue
        fit, tune = ranked.moments[linear.key][0], ranked.moments[linear.key][-1]
        if mode == "mean":
            weights[linear.key] = with_mean(linear, flags, fit.mean)
        else:
            found = refit(linear, flags, fit, tune if tune is not fit else None)
            weights[linear.key], errors[linear.key] = found.weights, found.error
    return weights, errors


# ---------------------------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Candidate:
    """A plan, the model it makes, the errors of the refitted layers, and how well it answers."""

    plan: Plan
    model: ModelProto
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
        self.before = _answers(run, run.coupling.graph.model)
        self.accuracy = _accuracy(run, run.coupling.graph.model)

    @cached_property
    def ranked(self) -> Ranked:
        """What widths are chosen by."""
        return rank(self.run)

    def candidate(self, keep: Mapping[str, Ints]) -> Candidate:
        """Carry out a choice of channels."""
        weights, errors = reconstruct(self.run, self.ranked, keep)
        return self.carried_out(Plan(dict(keep), weights), errors)

    def carried_out(self, plan: Plan, errors: dict[str, float]) -> Candidate:
        """The model that a plan makes, and how it answers."""
        with self.run.timed("rewrite"):
            model = rewrite(self.run.coupling, plan)
        with self.run.timed("judge"):
            after = _answers(self.run, model)
            count = len(_judged(self.run)[1])
            fidelity = evaluation.fidelity(self.before, after, count, self.run.samples.origin)
            accuracy = None if self.accuracy is None else _accuracy(self.run, model)
        return Candidate(plan, model, errors, fidelity, accuracy)

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
                failure = BudgetError(f"{error}; {_why(self.run)}", error.reachable)
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
        """Channels kept so that every cost is at most its fraction of the original's, as close as widths allow."""
        goals = dict.fromkeys((kind for kind, _ in limits), 1.0)
        goals = {kind: min(value for k, value in limits if k == kind) for kind in goals}
        keeps = [self.exactly(kind, goal) for kind, goal in goals.items()]
        fits = [k for k in keeps if all(self.share(kind, k) <= goal + 1e-12 for kind, goal in goals.items())]
        if fits:
            return fits[0]
        tighter = min(self.share(kind, keep) for keep in keeps for kind in goals)
        return self.exactly("macs", min(goals.values()) * tighter)

    def exactly(self, kind: str, goal: float) -> dict[str, Ints]:
        """Channels kept so that a cost is at most `goal`, counting the biases that are added and the nodes folded."""
        budget, best = goal, None
        for _ in range(4):
            try:
                keep = allocate(self.run, self.ranked, kind, budget)
            except BudgetError:
                if best is None:
                    raise
                break
            excess = self.share(kind, keep) - goal
            if excess <= 1e-12 and (best is None or self.share(kind, best) < self.share(kind, keep)):
                best = keep
            if kind == "macs" or -0.002 < excess <= 1e-12:
                break
            budget = min(budget - excess, 1.0)
        if best is None:
            raise BudgetError(f"{kind}={goal:g} can't be reached", budget)
        return best

    def share(self, kind: str, keep: Mapping[str, Ints]) -> float:
        """What is left of a cost, counted on the model that would be written."""
        mask, coupling = self.run.coupling.mask(keep), self.run.coupling
        weights, drifted = dict[str, Weights](), False
        for linear in layers_in_order(coupling) if self.run.mode != "none" else []:
            flags = mask.of(coupling.notes.readers[linear.index])
            drifted = drifted or not flags.all()
            if not flags.all() or (drifted and self.run.mode == "ls"):
                weights[linear.key] = masked(linear, flags)
        model = Graph(rewrite(coupling, Plan(dict(keep), weights)), coupling.graph.dims)
        count = total_macs if kind == "macs" else parameters
        return count(model) / max(count(coupling.graph), 1)

    def bisect(self, allowed: float, failure: BudgetError | None) -> tuple[Candidate, BudgetError | None]:
        """The fewest MACs whose loss is at most `allowed`."""
        cost = cost_of(self.run, self.ranked, "macs")
        floor, ceiling = (
            cost.total(np.array([levels[i] for levels in (r.levels for r in self.ranked.rankings)])) for i in (0, -1)
        )
        low, high = floor / ceiling, 1.0
        best: Candidate | None = None
        least = np.inf
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            found = self.candidate(allocate(self.run, self.ranked, "macs", middle))
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


def _judged(run: Run) -> tuple[Samples, list[int]]:
    """The samples that judge: labelled ones if there are any, as many as memory has room for answers."""
    room = evaluation.affordable(run.coupling.graph, run.coupling.graph.outputs)
    labelled = run.labelled
    if labelled is not None and labelled.samples is not None:
        return labelled.samples, list(range(min(labelled.samples.count, room)))
    return run.samples, run.division.judge[:room].tolist()


def _answers(run: Run, model: ModelProto) -> list[Array]:
    samples, indices = _judged(run)
    return evaluation.answers(model, samples, indices, run.options.runtime, run.options.batch)


def _accuracy(run: Run, model: ModelProto) -> float | None:
    if run.labelled is None:
        return None
    if run.labelled.function is None:
        return evaluation.accuracy(model, None, run.labelled, run.options.runtime, run.options.batch)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return evaluation.accuracy(model, path, run.labelled, run.options.runtime, run.options.batch)


def _why(run: Run) -> str:
    """What stands in the way of more pruning, in one sentence."""
    coupling, options = run.coupling, run.options
    reasons = [reason for i, reason in coupling.left_alone.items() if not _makes_output(coupling, i)]
    reasons += [reason for g in coupling.groups if (reason := why_left_out(coupling, g, options))]
    if not reasons:
        step = DEFAULT_STEP if options.round_to is None else options.round_to
        return f"what stands in the way: widths are multiples of {step} and at least {options.min_channels}"
    named = "; ".join(list(dict.fromkeys(reasons))[:3])
    count = f"{len(reasons)} layers or groups stay" if len(reasons) > 1 else "one layer or group stays"
    return f"what stands in the way: {count} ({named}); `onnxprune inspect` lists all"


def _makes_output(coupling: Coupling, index: int) -> bool:
    return "is an output of the model" in coupling.left_alone[index]
