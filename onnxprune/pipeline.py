"""Pruning on one page.

    graph ─couple─▶ groups ─calibrate─▶ moments ─rank, probe─▶ curves ─allocate─▶ widths ─reconstruct─▶ plan ─rewrite─▶ model

`prune` is that line. Samples are divided once: most are fitted, some choose (dampings, error curves, probes), and some
only judge the result; with labelled data given, those judge and none are held back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

from onnxprune import __version__, evaluation, methods, oracle, selection
from onnxprune.allocation import ALLOCATORS, Bilinear, Curve
from onnxprune.calibration import PLAIN, Input, Preprocessing, Samples, load_labelled, synthetic
from onnxprune.calibration import load as load_samples
from onnxprune.calibration import sidecar
from onnxprune.cost import macs_of_widths, parameters_of_widths
from onnxprune.coupling import Coupling, Group, couple
from onnxprune.errors import BudgetError, DataError, UsageError
from onnxprune.evaluation import Labelled
from onnxprune.graph import Array, Graph
from onnxprune.graph import load as load_model
from onnxprune.graph import save as save_model
from onnxprune.plan import Plan, Weights
from onnxprune.reconstruct import front_to_back, refit, with_mean
from onnxprune.report import Comparison, Fidelity, GroupReport, Inspection, Report, Target
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments, collect

Ints = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
KINDS = ("macs", "params", "drop")
DEFAULT_STEP = (
    4  # onnxruntime's blocked convolutions need widths that are multiples of 4; others can be slower than before
)
BISECTIONS = 6
SYNTHETIC_SAMPLES = 256
SYNTHETIC_STRICTER = 10  # without real data nobody can tell what a loss means: the default floor is that much stricter


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
    runtime: Runtime = Runtime()
    measure_latency: bool = True
    plan: Plan | None = None  # carried out as it is: nothing is chosen, and the options that choose don't matter


@dataclass(frozen=True)
class Result:
    """The pruned model, the report, and the plan that made it."""

    model: ModelProto
    report: Report
    plan: Plan


@dataclass(frozen=True)
class Division:
    """Indices of the samples that are fitted, that choose, and that judge."""

    fit: Ints
    tune: Ints
    judge: Ints


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

    def feeds(self, indices: Ints) -> list[Mapping[str, Array]]:
        """The samples in batches."""
        return list(self.samples.batches(indices.tolist(), self.options.batch))

    @contextmanager
    def timed(self, stage: str) -> Iterator[Callable[[int, int], None]]:
        """Add up the seconds of a stage; gives its progress function."""
        start = time.perf_counter()
        yield lambda done, total: self.progress(stage, done, total)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def prune(
    model: ModelProto | str | Path,
    *,
    target: str | Sequence[str] = (),
    calibration: Any = None,
    eval: Any = None,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = lambda stage, done, total: None,
    **options: Any,
) -> Result:
    """Prune a model.

    model: a path or a ModelProto, which is never changed. target: "macs=0.5", "params=0.5" (fractions kept) or
    "drop=0.01" (largest loss of fidelity, the default), or several of them; the tightest wins. calibration: what
    `onnxprune.calibration.load` takes (a path, arrays, a CalibrationDataReader, an iterable of feeds); without it the
    model's `.calib.npz` beside it, else synthetic inputs. eval: labelled `.npz`, (samples, labels), or a function of a
    path. Further options: the fields of `Options`. Raises OnnxPruneError: ModelError, DataError, BudgetError (its
    `result` is the best that was found), InternalError.
    """
    chosen = Options(targets=parse_targets([target] if isinstance(target, str) else list(target)), **options)
    proto = load_model(model) if isinstance(model, str | Path) else model
    path = Path(model) if isinstance(model, str | Path) else None
    graph = Graph(proto, dict(input_shapes or {}))
    chosen.runtime.session(path or proto)  # a model that onnxruntime can't load is an error now, not later
    found = _samples(graph, path, calibration, preprocessing, samples, chosen.seed, input_shapes)
    labelled = _labelled(eval, graph, preprocessing) if eval is not None else None
    run = prepare(graph, found, chosen, labelled, progress)
    return _finish(run, *_search(run))


def prepare(
    graph: Graph,
    found: Samples,
    options: Options,
    labelled: Labelled | None = None,
    progress: Progress = lambda *_: None,
) -> Run:
    """Couple the graph and divide the samples."""
    graph = Graph(graph.model, {**_shapes_of(found), **graph.dims})
    targets = options.targets
    if not targets and options.plan is None:
        targets = (Target("drop", 0.01 if found.origin == "given" else 0.01 / SYNTHETIC_STRICTER),)
    drop = any(t.kind == "drop" for t in targets)
    division = divide(
        found.count, options.seed, judged_elsewhere=labelled is not None and labelled.samples is not None, drop=drop
    )
    run = Run(couple(graph), found, replace(options, targets=targets), labelled, division, progress)
    if found.origin == "synthetic":
        run.warnings.append("no calibration data: synthetic inputs were used, so the result is a guess; pass --calib.")
    return run


def divide(count: int, seed: int, *, judged_elsewhere: bool, drop: bool) -> Division:
    """Divide sample numbers at random: a share judges (more of them when a loss is the target), 15 % choose."""
    order = np.random.default_rng(seed).permutation(count)
    judge = 0 if judged_elsewhere else min(round(count * (0.2 if drop else 0.1)), 512)
    judge = max(judge, 1) if not judged_elsewhere else 0
    tune = min(round((count - judge) * 0.15), 512)
    return (
        Division(order[judge + tune :], order[judge : judge + tune], order[:judge])
        if count > judge + tune
        else Division(order, order[:0], order)
    )


# ---------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Ranked:
    """All that a budget is turned into widths by, and the moments for reconstruction."""

    rankings: list[selection.Ranking]
    curves: list[Curve]
    moments: dict[str, list[Moments]]


def rank(run: Run) -> Ranked:
    """Moments, orders and error curves of all groups that may be pruned; BudgetError if there is none."""
    groups = prunable(run)
    if not groups:
        raise BudgetError("nothing in this model can be pruned: " + _why(run))
    method = methods.find(run.options.method)
    linears = {linear.key: linear for g in groups for linear in selection.readers(run.coupling, g)}
    parts = [run.feeds(run.division.fit)] + ([run.feeds(run.division.tune)] if len(run.division.tune) else [])
    count = run.samples.count
    with run.timed("calibrate") as progress:
        done = 0

        def tick(n: int) -> None:
            nonlocal done
            done += n
            progress(min(done, count), count)

        moments = collect(
            run.coupling.graph, list(linears.values()), parts, count, run.options.runtime, run.options.seed, tick
        )
    with run.timed("select") as progress:
        step = DEFAULT_STEP if run.options.round_to is None else run.options.round_to
        rng = np.random.default_rng(run.options.seed)
        rankings = []
        for number, group in enumerate(groups):
            allowed = selection.widths(group, step, run.options.min_channels)
            rankings.append(selection.rank(run.coupling, group, moments, method, allowed, rng))
            progress(number + 1, 2 * len(groups))
        judging = run.division.tune[:256] if len(run.division.tune) else run.division.fit[:256]
        curves = selection.probe(
            run.coupling,
            rankings,
            moments,
            run.feeds(judging),
            list(oracle.comparable(run.coupling.graph)),
            run.options.runtime,
            run.options.max_memory,
            lambda number, total: progress(total + number, 2 * total),
        )
    few = [linear for linear in linears.values() if len(run.division.fit) < linear.channels]
    if few:
        run.warnings.append(
            f"{len(run.division.fit)} samples are fewer than the input channels of {len(few)} layers "
            f"(up to {max(linear.channels for linear in few)}): more samples would keep more accuracy."
        )
    return Ranked(rankings, curves, moments)


def prunable(run: Run) -> list[Group]:
    """Groups whose readers can be refitted, less residual streams and what --include and --exclude leave out."""
    return [
        g for g in run.coupling.groups if not _excluded(run, g) and not g.stream and selection.readers(run.coupling, g)
    ]


def _excluded(run: Run, group: Group) -> bool:
    touched = [run.coupling.layer(i) for i in (*group.writers, *group.reads)] + [group.name]
    makers = [run.coupling.layer(i) for i in group.writers] + [group.name]
    if any(fnmatch(name, pattern) for pattern in run.options.exclude for name in touched):
        return True
    return bool(run.options.include) and not any(fnmatch(n, p) for p in run.options.include for n in makers)


def allocate(run: Run, ranked: Ranked, kind: str, fraction: float) -> dict[str, Ints]:
    """Channels kept per group so that MACs or parameters are at most `fraction` of the original's; BudgetError if not."""
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
    mode = run.options.reconstruct
    mode = methods.find(run.options.method).reconstruct if mode == "auto" else mode
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
            count = len(self.run.division.judge) or (_judging(self.run).count)
            fidelity = evaluation.fidelity(self.before, after, count, self.run.samples.origin)
            accuracy = None if self.accuracy is None else _accuracy(self.run, model)
        return Candidate(plan, model, errors, fidelity, accuracy)

    def loss(self, candidate: Candidate) -> float:
        """What `drop` counts."""
        if self.accuracy is not None and candidate.accuracy is not None:
            return self.accuracy - candidate.accuracy
        return candidate.fidelity.loss

    def best(self) -> tuple[Candidate, BudgetError | None]:
        """The candidate that meets the targets; or the best there is, and why it falls short."""
        targets = self.run.options.targets
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
            failure = failure or BudgetError("the cost asked for can't be reached within the loss allowed")
        return self.bisect(min(drops), failure)

    def within(self, limits: Sequence[tuple[str, float]]) -> dict[str, Ints]:
        """Channels kept so that every cost is at most its fraction."""
        fractions = dict(limits)
        for kind, value in limits:
            fractions[kind] = min(value, fractions[kind])
        costs = {kind: cost_of(self.run, self.ranked, kind) for kind in fractions}
        full = np.array([r.group.channels for r in self.ranked.rankings])
        goals = dict(fractions)
        while True:
            for kind, goal in goals.items():
                keep = allocate(self.run, self.ranked, kind, goal)
                widths = np.array([len(keep[r.group.name]) for r in self.ranked.rankings])
                if all(costs[k].total(widths) <= f * costs[k].total(full) for k, f in fractions.items()):
                    return keep
            goals = {kind: 0.98 * goal for kind, goal in goals.items()}

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


def _search(run: Run) -> tuple[Search, Candidate, BudgetError | None]:
    search = Search(run)
    if run.options.plan is not None:
        return search, search.carried_out(run.options.plan, {}), None
    return search, *search.best()


def _judging(run: Run) -> Samples:
    labelled = run.labelled
    return labelled.samples if labelled is not None and labelled.samples is not None else run.samples


def _answers(run: Run, model: ModelProto) -> list[Array]:
    samples = _judging(run)
    indices = run.division.judge.tolist() if samples is run.samples else list(range(samples.count))
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
    streams = [g for g in run.coupling.groups if g.stream]
    parts = [f"{len(streams)} residual streams stay whole"] if streams else []
    reasons = list(dict.fromkeys(run.coupling.left_alone.values()))
    if reasons:
        parts.append(f"{len(run.coupling.left_alone)} layers can't be pruned ({reasons[0]})")
    if run.options.include or run.options.exclude:
        parts.append("--include and --exclude leave layers out")
    return ("what stands in the way: " + ", ".join(parts)) if parts else "every group is at its smallest"


# ---------------------------------------------------------------------------------------------- the end


def _finish(run: Run, search: Search, found: Candidate, failure: BudgetError | None) -> Result:
    """Verify the surgery and report; raises BudgetError with the result when a target was missed."""
    with run.timed("verify"):
        first = next(iter(run.samples.batches(_few(run), 2)))
        verdict = oracle.check(run.coupling, found.plan, found.model, [first])
        oracle.demand(verdict)
    graph, after = run.coupling.graph, Graph(found.model, run.coupling.graph.dims)
    times: list[float | None] = [None, None]
    if run.options.measure_latency:
        with run.timed("latency"):
            one = next(iter(run.samples.batches(_few(run)[:1], 1)))
            times = [*evaluation.latencies([graph.model, found.model], one, run.options.runtime)]
    before_size, after_size = evaluation.size(graph, None, times[0]), evaluation.size(after, None, times[1])
    ratios = {
        "macs": after_size.macs / max(before_size.macs, 1),
        "params": after_size.params / max(before_size.params, 1),
    }
    targets = [
        replace(t, reached=search.loss(found) <= t.value if t.kind == "drop" else ratios[t.kind] <= t.value + 1e-9)
        for t in run.options.targets
    ]
    run.seconds["total"] = sum(run.seconds.values())
    mode = run.options.reconstruct
    mode = methods.find(run.options.method).reconstruct if mode == "auto" else mode
    planned = run.options.plan is not None
    report = Report(
        method="plan" if planned else run.options.method,
        allocate="plan" if planned else run.options.allocate,
        reconstruct="plan" if planned else mode,
        targets=targets,
        before=before_size,
        after=after_size,
        fidelity=found.fidelity,
        accuracy=None if found.accuracy is None else {"before": search.accuracy or 0.0, "after": found.accuracy},
        surgery_check={"max_abs_diff": verdict.max_abs_diff, "ok": verdict.ok},
        groups=group_reports(run.coupling, found.plan, found.errors),
        left_alone=left_alone(
            run.coupling, [g.name for g in run.coupling.groups if g.name not in found.plan.keep], run
        ),
        seconds={k: round(v, 3) for k, v in run.seconds.items()},
        warnings=list(run.warnings),
    )
    _stamp(found.model, report)
    result = Result(found.model, report, found.plan)
    if failure is not None:
        failure.result = result if found.plan.keep else None
        raise failure
    return result


def _few(run: Run) -> list[int]:
    return run.division.fit[:2].tolist()


def _stamp(model: ModelProto, report: Report) -> None:
    """Say in the model's metadata what was done to it."""
    facts = {
        "version": __version__,
        "method": report.method,
        "targets": ",".join(f"{t.kind}={t.value:g}" for t in report.targets),
    }
    for name, value in facts.items():
        known = next((p for p in model.metadata_props if p.key == f"onnxprune.{name}"), None)
        (known or model.metadata_props.add(key=f"onnxprune.{name}")).value = value


def group_reports(coupling: Coupling, plan: Plan, errors: Mapping[str, float]) -> list[GroupReport]:
    """All groups with their channels before and after; MACs and parameters are what goes with the whole group."""
    groups = list(coupling.groups)
    if not groups:
        return []
    full = np.array([g.channels for g in groups])
    costs = [macs_of_widths(coupling, groups), parameters_of_widths(coupling, groups)]
    reports = []
    for number, group in enumerate(groups):
        without = np.where(np.arange(len(groups)) == number, 0, full)
        macs, params = (round(cost.total(full) - cost.total(without)) for cost in costs)
        own = [
            errors[key] for i in group.reads if (lin := coupling.linear(i)) is not None and (key := lin.key) in errors
        ]
        kept = len(plan.keep[group.name]) if group.name in plan.keep else group.channels
        layers, readers = ([coupling.layer(i) for i in indices] for indices in (group.writers, group.reads))
        error = max(own) if own and kept < group.channels else None
        reports.append(
            GroupReport(group.name, group.channels, kept, layers, readers, group.stream, error, macs, params)
        )
    return reports


def left_alone(coupling: Coupling, whole: Sequence[str] = (), run: Run | None = None) -> list[dict[str, str]]:
    """Every layer whose outputs all stay, with the reason."""
    reasons = {coupling.layer(i): reason for i, reason in coupling.left_alone.items()}
    for group in coupling.groups:
        if group.name not in whole:
            continue
        reason = ""
        if group.stream:
            reason = f"its channels are a residual stream that {len(group.writers)} layers write to: it stays whole"
        elif run is not None and _excluded(run, group):
            reason = "left out by --include or --exclude"
        elif not selection.readers(coupling, group):
            reason = "a layer that reads its channels can't be refitted"
        if reason:
            reasons.update({coupling.layer(i): reason for i in group.writers})
    return [{"layer": layer, "reason": reason} for layer, reason in reasons.items()]


def inspect(model: ModelProto | str | Path, *, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Inspection:
    """What a model consists of, what can be pruned in it, and why the rest can't. Raises ModelError."""
    graph = Graph(load_model(model) if isinstance(model, str | Path) else model, dict(input_shapes or {}))
    coupling = couple(graph)
    file_bytes = Path(model).stat().st_size if isinstance(model, str | Path) else None
    ends = [{v.name: _declared(v) for v in values} for values in (graph.inputs, graph.model.graph.output)]
    streams = [g.name for g in coupling.groups]
    return Inspection(
        evaluation.size(graph, file_bytes), group_reports(coupling, Plan(), {}), left_alone(coupling, streams), *ends
    )


def _declared(value: ValueInfoProto) -> list[Any]:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def apply(model: ModelProto | str | Path, plan: Plan) -> ModelProto:
    """Carry out a saved plan on the model it was made for. Raises DataError if it doesn't fit."""
    graph = Graph(load_model(model) if isinstance(model, str | Path) else model)
    return rewrite(couple(graph), plan)


def compare(
    before: ModelProto | str | Path,
    after: ModelProto | str | Path,
    data: Any = None,
    *,
    eval: Any = None,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runtime: Runtime | None = None,
    batch: int = 64,
) -> Comparison:
    """Two models with the same inputs side by side: size, time, and how alike they answer to `data`."""
    runtime = runtime or Runtime()
    protos = [load_model(m) if isinstance(m, str | Path) else m for m in (before, after)]
    graphs = [Graph(proto, dict(input_shapes or {})) for proto in protos]
    path = Path(before) if isinstance(before, str | Path) else None
    labelled = _labelled(eval, graphs[0], preprocessing) if eval is not None else None
    if data is None and labelled is not None and labelled.samples is not None:
        found = labelled.samples
    else:
        found = _samples(graphs[0], path, data, preprocessing, samples, 0, input_shapes)
    answers = [evaluation.answers(p, found, range(found.count), runtime, batch) for p in protos]
    if [a.shape for a in answers[0]] != [a.shape for a in answers[1]]:
        raise DataError("the two models don't have the same outputs, so they can't be compared.")
    one = next(iter(found.batches([0], 1)))
    times = evaluation.latencies(protos, one, runtime)
    sizes = []
    for graph, model, milliseconds in zip(graphs, (before, after), times, strict=True):
        file_bytes = Path(model).stat().st_size if isinstance(model, str | Path) else None
        sizes.append(evaluation.size(graph, file_bytes, milliseconds))
    accuracy = None
    if labelled is not None:
        right = [
            evaluation.accuracy(p, m, labelled, runtime, batch) for p, m in zip(protos, (before, after), strict=True)
        ]  # type: ignore[arg-type]
        accuracy = {"before": right[0], "after": right[1]}
    return Comparison(sizes[0], sizes[1], evaluation.fidelity(*answers, found.count, found.origin), accuracy)


# ---------------------------------------------------------------------------------------------- data


def inputs_of(graph: Graph) -> list[Input]:
    """The model's inputs as `calibration` wants them."""
    found = []
    for value in graph.inputs:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
        found.append(
            Input(
                value.name,
                np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
                shape if tensor.HasField("shape") else None,
            )
        )
    return found


def _samples(
    graph: Graph,
    path: Path | None,
    source: Any,
    preprocessing: Preprocessing,
    samples: int | None,
    seed: int,
    shapes: Mapping[str, Sequence[int]] | None,
) -> Samples:
    inputs = inputs_of(graph)
    sizes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    source = source if source is not None else sidecar(path) if path is not None else None
    if source is None:
        return synthetic(inputs, count=samples or SYNTHETIC_SAMPLES, seed=seed, shapes=sizes)
    return load_samples(source, inputs, preprocessing=preprocessing, samples=samples, seed=seed, shapes=sizes)


def _labelled(source: Any, graph: Graph, preprocessing: Preprocessing) -> Labelled:
    if callable(source):
        return Labelled(function=source)
    if isinstance(source, tuple):
        x, y = source
        return Labelled(load_samples(x, inputs_of(graph), preprocessing=preprocessing), np.asarray(y))
    if isinstance(source, str) and ":" in source and source.rpartition(":")[0].endswith(".py"):
        return Labelled(function=evaluation.load_function(source))
    return Labelled(*load_labelled(source, inputs_of(graph), preprocessing=preprocessing))


def _shapes_of(samples: Samples) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that one sample feeds."""
    feed = next(iter(samples.batches([0], 1)))
    return {name: value.shape for name, value in feed.items()}
