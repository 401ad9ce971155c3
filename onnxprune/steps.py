"""The steps of a run, each a function of what the ones before it made.

`prepare` couples the graph and divides the samples, `rank` gives moments, orders of removal and error curves,
`allocate` widths for a budget, `reconstruct` new weights. `search` puts them together to meet a target.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property, reduce
from math import ceil
from operator import add

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import calibration, evaluation, factorize, latency, methods, oracle, selection, serialize
from onnxprune.activity import Activity, collect_activity
from onnxprune.allocation import ALLOCATORS, Curve, Quadratic, Stepped, out_of_reach
from onnxprune.calibration import Samples
from onnxprune.cost import COSTS
from onnxprune.coupling import GRANULARITIES, Coupling, Group
from onnxprune.data import Division, divide, inputs_of, shapes_of
from onnxprune.errors import BudgetError, UsageError
from onnxprune.evaluation import Labelled
from onnxprune.graph import Array, Block, Graph, key
from onnxprune.heads import ATTENTION, attend, restored
from onnxprune.merging import planned
from onnxprune.ops.linear import Linear
from onnxprune.plan import Plan, Weights
from onnxprune.reconstruct import (
    MODES,
    Choice,
    error_on,
    front_to_back,
    masked,
    refit,
    refit_ahead,
    silent,
    taken_over,
    with_mean,
)
from onnxprune.refinement import swapped
from onnxprune.report import Target
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments, collect
from onnxprune.takeover import NOBODY
from onnxprune.walk import layers_in_order

Ints = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
Retrain = str | Callable[[ModelProto], ModelProto]
DEFAULT_STEP = 4  # onnxruntime's blocked convolutions want multiples of 4; other widths can be slower than before
DEFAULT_DROP = 0.01
SYNTHETIC_DROP = 0.001  # without real data nobody can tell what a loss means
PROBE_SAMPLES = 256, 32  # at most, and at least
PROBE_MACS = 2e12  # multiplications for all probes that more than the least samples may take
BATCH = 64  # samples that are run at once
TIMED_BATCH = 1  # samples in a run that is timed
BLOCKS = ("auto", "keep")  # residual blocks: whole ones may go where time counts, or not
STREAMS = ("keep", "prune")  # residual streams: whole, or pruned like other groups, by all their readers together


@dataclass(frozen=True)
class Options:
    """How to prune. Every field is an option of the command line of the same name."""

    targets: tuple[Target, ...] = ()
    method: str = "reap"
    allocate: str = "dp"
    reconstruct: str = "auto"
    granularity: str = "auto"
    refine: bool = False
    blocks: str = "auto"
    streams: str = "keep"
    serialize: str = "never"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: tuple[tuple[str, float], ...] | Mapping[str, float] = ()  # names of layers, shares of channels that stay
    round_to: int | None = None
    min_channels: int = 1
    batch: int | None = None  # samples in a run; without it BATCH, but TIMED_BATCH where runs are timed
    seed: int = 0
    max_memory: float = 2e9
    runtime: Runtime = field(default_factory=Runtime)
    measure_latency: bool = True
    attention: str = "auto"
    iterations: int = 1
    retrain: Retrain | None = None  # a command with {in} and {out}, or a function of a ModelProto
    threshold: float | None = None  # of a method for blocks: what adds less than this goes
    plan: Plan | None = None  # carried out as it is: nothing is chosen, and the options that choose don't matter

    def __post_init__(self) -> None:
        methods.find(self.method)
        for name, value, known in (
            ("allocator", self.allocate, tuple(ALLOCATORS)),
            ("way to reconstruct", self.reconstruct, ("auto", *MODES)),
            ("granularity", self.granularity, GRANULARITIES),
            ("way to prune attention", self.attention, ATTENTION),
            ("way to treat residual blocks", self.blocks, BLOCKS),
            ("way to treat residual streams", self.streams, STREAMS),
            ("way to serialize residual blocks", self.serialize, serialize.MODES),
        ):
            if value not in known:
                raise UsageError(f"there is no {name} '{value}'; choose one of: {', '.join(known)}.")
        if self.attention == "rank" and self.mode == "unify":
            raise UsageError(
                "dims of heads have no stand-ins: with attention by rank reconstruct by ls, local or mean."
            )
        if self.serialize != "never" and self.method == "shallow":
            raise UsageError("shallow removes whole blocks, which serialize takes apart: give one of them.")
        if self.serialize != "never" and (self.iterations > 1 or self.retrain is not None):
            raise UsageError(
                "serialized blocks can't be pruned in steps: give serialize without iterations or retrain."
            )
        for name, share in self.limits.items():
            if not 0 < share <= 1:
                raise UsageError(f"layers can't keep {share:g} of their channels, as '{name}' should: give up to 1.")
        if self.iterations < 1:
            raise UsageError(f"{self.iterations} iterations can't be done: give at least 1.")
        costs = self.targets and all(t.kind != "drop" for t in self.targets)
        if self.iterations > 1 and (self.plan is not None or not costs):
            raise UsageError("several iterations lead to a cost: give a target such as macs=0.5, no drop and no plan.")
        if self.iterations > 1 and self.for_time:
            raise UsageError("several iterations lead to macs=, params= or size=, not to latency=.")
        if isinstance(self.retrain, str) and not ("{in}" in self.retrain and "{out}" in self.retrain):
            raise UsageError("the retraining command must say {in} and {out}, the files it reads and writes.")
        if self.by_blocks and self.mode not in ("ls", "none"):
            raise UsageError(f"method {self.method} removes whole blocks: reconstruct by ls, or none.")
        if self.by_blocks and (self.iterations > 1 or self.retrain is not None or self.refine):
            raise UsageError(
                f"method {self.method} removes whole blocks, in one step: no iterations, retrain or refine."
            )
        if self.threshold is not None and not self.by_blocks:
            raise UsageError(f"a threshold is for methods that remove whole blocks, and {self.method} isn't one.")

    @property
    def step(self) -> int:
        """What widths are multiples of."""
        return DEFAULT_STEP if self.round_to is None else self.round_to

    @property
    def limits(self) -> dict[str, float]:
        """The share of its channels that each layer called like this keeps at least."""
        return dict(self.keep)

    @property
    def mode(self) -> str:
        """How layers are reconstructed: as asked for, or as the method's paper does."""
        return methods.find(self.method).reconstruct if self.reconstruct == "auto" else self.reconstruct

    @property
    def at_once(self) -> int:
        """Samples that are run at once."""
        return self.batch or BATCH

    @property
    def for_time(self) -> bool:
        """Whether a target counts time."""
        return any(target.kind == "latency" for target in self.targets)

    @property
    def shortens(self) -> bool:
        """Whether whole blocks may go besides channels: for time alone, and if others can take their work over."""
        alone = self.for_time and all(target.kind != "drop" for target in self.targets)
        fits = self.mode == "ls" and self.serialize == "never" and not self.by_blocks
        return alone and fits and self.blocks == "auto" and self.plan is None

    @property
    def by_blocks(self) -> bool:
        """Whether whole blocks go, not channels."""
        return isinstance(methods.find(self.method), methods.BlockMethod)


@dataclass
class Run:
    """One model with its data: what the steps of `prune` share."""

    coupling: Coupling
    samples: Samples
    options: Options
    labelled: Labelled | None
    division: Division
    progress: Progress
    original: Graph  # what costs and answers are compared with
    left: Mapping[str, str] = field(default_factory=dict)  # Adds that weren't serialized, and why
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seen: int = 0  # samples that calibration has run, for its progress
    on_disk: int | None = None  # bytes of the original's file, where it has one
    beside: str | None = None  # the name of the file that its weights are in, where they are in one

    def feeds(self, indices: Ints) -> Iterable[Mapping[str, Array]]:
        """The samples in batches, read when they are asked for."""
        source = self.noise if methods.find(self.options.method).needs == "noise" else self.samples
        return source.batches(indices.tolist(), self.options.at_once)

    @cached_property
    def timed_feed(self) -> Mapping[str, Array]:
        """What the models are timed on: as many samples as a batch has."""
        size = self.options.batch or TIMED_BATCH
        return next(iter(self.samples.batches(np.resize(self.division.fit, size).tolist(), size)))

    @property
    def method(self) -> methods.Method:
        """The criterion for channels that was asked for."""
        found = methods.find(self.options.method)
        assert isinstance(found, methods.Method)
        return found

    @property
    def blind(self) -> bool:
        """Whether nothing is calibrated: there is no data, and neither criterion nor repair needs any."""
        if self.options.by_blocks:
            return False
        own = self.method.takeover is not methods.emulated
        repaired = (self.mode == "none" or (self.mode == "unify" and own)) and not self.coupling.by_rank
        alone = self.method.needs == "weights" and repaired and not self.options.refine
        return self.samples.origin == "synthetic" and alone

    @cached_property
    def noise(self) -> Samples:
        """As many made-up samples as there are."""
        graph, seed = self.coupling.graph, self.options.seed
        sizes = shapes_of(self.samples)
        return calibration.synthetic(inputs_of(graph), count=self.samples.count, seed=seed, shapes=sizes)

    @property
    def mode(self) -> str:
        """How layers are reconstructed."""
        return self.options.mode

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
    on_disk: int | None = None,
) -> Run:
    """Couple the graph and divide the samples, of which `copies` neighbours belong together (mirror images).

    on_disk: bytes of the file that the graph is from.
    """
    graph = graph.resized({**shapes_of(found), **graph.dims})
    targets = options.targets
    if not targets and options.plan is None and options.threshold is None:
        targets = (Target("drop", DEFAULT_DROP if found.origin == "given" else SYNTHETIC_DROP),)
    if labelled is not None and labelled.samples is not None:
        judge = 0.0  # the labelled samples judge
    else:
        judge = 0.2 if any(t.kind == "drop" for t in targets) else 0.1
    division = divide(found.count, options.seed, judge=judge, copies=copies)
    if options.plan is not None:
        options = replace(options, serialize=options.plan.serialize)
    serial = serialize.serialize(graph, options.serialize)
    options = replace(options, targets=targets)
    coupling = coupled(serial.graph, options)
    run = Run(coupling, found, options, labelled, division, progress, graph, serial.left, on_disk=on_disk)
    run.warnings += [f"no layer is called like {option} '{name}'." for option, name in _unmatched(coupling, options)]
    if np.isin(division.judge, division.fit).any():
        run.warnings.append("too few samples to hold any back: the result is judged on samples that were fitted.")
    if found.origin == "synthetic" and run.blind:
        run.warnings.append(
            "no calibration data, and none was needed; but what was lost is judged on synthetic inputs."
        )
    elif found.origin == "synthetic":
        run.warnings.append("no calibration data: synthetic inputs were used, so the result is a guess; pass --calib.")
    return run


def _unmatched(coupling: Coupling, options: Options) -> Iterator[tuple[str, str]]:
    """Options that name layers, with names that no layer has."""
    known = {coupling.layer(i) for i in range(len(coupling.graph.nodes))} | {group.name for group in coupling.groups}
    for option, given in (("--include", options.include), ("--exclude", options.exclude), ("--keep", options.limits)):
        yield from ((option, name) for name in given if not any(fnmatch(one, name) for one in known))


def coupled(graph: Graph, options: Options) -> Coupling:
    """Coupled as the plan says; else by the option, of which auto turns heads where layers are refitted anyway."""
    if options.plan is not None:
        return restored(planned(graph, options.plan), options.plan.by_rank, options.granularity)
    fits = options.mode in ("local", "ls") and not options.by_blocks
    attention = "heads" if options.attention == "auto" and not fits else options.attention
    return attend(graph, attention, options.granularity)


@dataclass(frozen=True)
class Ranked:
    """All that a budget is turned into widths by, the moments for reconstruction, and how attention heads are turned.

    No moments are held where the layers are refitted front to back; there are none at all in a blind run.
    """

    rankings: list[selection.Ranking]
    curves: list[Curve]
    moments: dict[str, list[Moments]]
    turns: dict[str, factorize.Turn] = field(default_factory=dict)
    time: Stepped | None = None  # milliseconds, measured where a target counts them
    whole: float = 0.0  # those of the original

    def turned(self, coupling: Coupling, keep: Mapping[str, Ints]) -> dict[int, factorize.Turned]:
        """The layers amid attention heads that lose dims."""
        cut = [name for name in keep if name in self.turns and len(keep[name]) < coupling.by_name[name].channels]
        return factorize.layers(coupling, [self.turns[name] for name in cut])


def rank(run: Run) -> Ranked:
    """Moments, orders and error curves of all groups that may be pruned; BudgetError if there is none.

    Groups are taken in portions whose moments fit into memory; each takes a pass over the samples.
    """
    groups = prunable(run)
    if not groups:
        raise BudgetError("nothing in this model can be pruned: " + what_stands_in_the_way(run))
    levels = _levels(run, groups)
    place = {group.name: i for i, group in enumerate(groups)}
    rankings: list[selection.Ranking] = []
    moments: dict[str, list[Moments]] = {}
    turns: dict[str, factorize.Turn] = {}
    portions = list(_portions(run, groups))
    for portion in portions:
        found = None if run.blind else _moments(run, portion, len(portions))
        activity = _activity(run, portion) if run.method.needs == "activity" else {}

        def ranking(
            group: Group,
            found: dict[str, list[Moments]] | None = found,
            activity: dict[str, Activity] = activity,
        ) -> selection.Ranking:
            allowed = levels[place[group.name]]
            if group.heads and found is not None:
                one, turns[group.name] = factorize.rank(run.coupling, group, found, allowed)
                return one
            rng = np.random.default_rng((run.options.seed, place[group.name]))
            return selection.rank(run.coupling, group, found, run.method, allowed, rng, activity.get(group.name))

        with run.timed("select") as progress, ThreadPoolExecutor(_workers(run, portion)) as pool:
            for one in pool.map(ranking, portion):
                rankings.append(one)
                progress(len(rankings), 2 * len(groups))
        if run.mode not in ("ls", "none") and found is not None:
            moments |= found  # the layers are refitted one by one from what is known now
    if run.blind:
        return timed(run, Ranked(rankings, [Curve(r.levels, r.errors) for r in rankings], moments, turns))
    with run.timed("select") as progress:
        signals = list(oracle.comparable(run.coupling.graph))
        most = min(_probe_samples(run, groups), evaluation.affordable(run.coupling.graph, signals))
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
    return timed(run, Ranked([replace(r, trial={}) for r in rankings], curves, moments, turns))


def _levels(run: Run, groups: Sequence[Group]) -> list[Ints]:
    """Widths that each group may have. Where time counts, the steps in which it goes, and below the first a few."""
    options = run.options
    fewest = [least_width(run.coupling, group, options) for group in groups]
    found = [selection.widths(group, options.step, least) for group, least in zip(groups, fewest, strict=True)]
    if options.round_to is not None or not options.for_time:
        return found
    with run.timed("latency"):
        coarse = latency.step(options.runtime)
    steps = [selection.widths(group, coarse, least) for group, least in zip(groups, fewest, strict=True)]
    return [fine[(fine < own[0]) | np.isin(fine, own)] for fine, own in zip(found, steps, strict=True)]


def timed(run: Run, ranked: Ranked, whole: float | None = None) -> Ranked:
    """The same with time as a function of the groups' widths, if a target counts it; `whole`: that of the original."""
    if not run.options.for_time:
        return ranked
    with run.timed("latency") as progress:
        macs = COSTS["macs"].of_widths(run.coupling, [r.group for r in ranked.rankings])
        settings = run.timed_feed, run.options.runtime, progress
        time = latency.time_of_widths(run.coupling, ranked.rankings, macs, *settings)
    return replace(ranked, time=time, whole=whole or time.whole)


def _portions(run: Run, groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups in order, as many at a time as the memory granted holds moments of."""
    portion, held = list[Group](), dict[str, int]()
    for group in groups:
        own = {linear.key: 3 * 8 * linear.size**2 for linear in factorize.measured(run.coupling, group)}
        if portion and sum((held | own).values()) > run.options.max_memory:  # two parts, and room to work in
            yield portion
            portion, held = [], {}
        portion.append(group)
        held |= own
    yield portion


def _probe_samples(run: Run, groups: Sequence[Group]) -> int:
    """Samples to probe with, on which half of the network runs once for every group, more or less."""
    most, least = PROBE_SAMPLES
    each = COSTS["macs"].count(run.coupling.graph) * len(groups) / 2
    return max(least, min(most, int(PROBE_MACS // max(each, 1))))


def _workers(run: Run, groups: Sequence[Group]) -> int:
    """Groups ranked at the same time: as many as there are processors, or as memory is granted for."""
    widest = max(linear.size for g in groups for linear in factorize.measured(run.coupling, g))
    return max(
        1, min(run.options.runtime.threads or os.cpu_count() or 1, int(run.options.max_memory / (8 * 8 * widest**2)))
    )


def _moments(run: Run, groups: Sequence[Group], portions: int) -> dict[str, list[Moments]]:
    """Moments of all layers that read these groups, on the samples to fit and on those to choose by."""
    linears = {linear.key: linear for g in groups for linear in factorize.measured(run.coupling, g)}
    count = len(run.division.fit) + len(run.division.tune)
    with run.timed("calibrate") as progress:

        def tick(n: int) -> None:
            run.seen += n
            progress(min(run.seen, portions * count), portions * count)

        return collect(
            run.coupling.graph, list(linears.values()), _both(run), count, run.options.runtime, run.options.seed, tick
        )


def _activity(run: Run, groups: Sequence[Group]) -> dict[str, Activity]:
    """How often the channels of these groups are off, on all samples that aren't held back to judge."""
    with run.timed("calibrate"):
        samples = run.feeds(np.concatenate([run.division.fit, run.division.tune]))
        return collect_activity(run.coupling, [g for g in groups if not g.heads], samples, run.options.runtime)


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


def least_width(coupling: Coupling, group: Group, options: Options) -> int:
    """How many of a group's channels stay at least, for the sake of the layers that make them."""
    makers = _makers(coupling, group)
    shares = [share for pattern, share in options.limits.items() if any(fnmatch(name, pattern) for name in makers)]
    return max(options.min_channels, ceil(max(shares, default=0.0) * group.channels - 1e-9))


def _makers(coupling: Coupling, group: Group) -> list[str]:
    return [coupling.layer(i) for i in group.writers] + [group.name]


def why_left_out(coupling: Coupling, group: Group, options: Options | None = None) -> str:
    """Why a group that could be cut stays whole; empty if it doesn't."""
    makers = _makers(coupling, group)
    touched = [*makers, *(coupling.layer(i) for i in group.reads)]
    if group.stream and (options is None or options.streams == "keep"):
        many = f"{len(group.writers)} layers write to"
        return f"its channels are a residual stream that {many}: it stays whole without --streams prune"
    if options and any(fnmatch(name, pattern) for pattern in options.exclude for name in touched):
        return "left out by --exclude"
    if options and options.include and not any(fnmatch(name, p) for p in options.include for name in makers):
        return "left out by --include"
    if options and len(selection.widths(group, options.step, least_width(coupling, group, options))) == 1:
        return f"its {group.channels} channels are as few as it may have: {_spelt(options)}"
    return "" if factorize.measured(coupling, group) else _unfit(coupling, group)


def may_go(run: Run, block: Block) -> bool:
    """Whether --include, --exclude and --keep let a block go."""
    graph, options = run.coupling.graph, run.options
    names = [graph.nodes[i].name or key(graph.nodes[i]) for i in block.nodes]
    left = any(fnmatch(name, pattern) for pattern in (*options.exclude, *options.limits) for name in names)
    return not left and (not options.include or any(fnmatch(n, p) for p in options.include for n in names))


def _unfit(coupling: Coupling, group: Group) -> str:
    """Which reader of a group can't be refitted, and why."""
    for index, linear in [
        *((i, coupling.linear(i)) for i in group.reads),
        *((i, coupling.loop(i)) for i in group.loops),
    ]:
        if coupling.graph.nodes[index].input[0] in coupling.graph.uncounted:
            return f"{coupling.layer(index)} reads as many rows as data decide, so it can't be refitted"
        if linear is None:
            return f"{coupling.layer(index)} reads its channels in a way that can't be refitted"
        if not linear.refittable:
            return f"{coupling.layer(index)} reads {linear.size} values, too many to refit"
    return ""


def allocate(run: Run, ranked: Ranked, kind: str, fraction: float, most: Sequence[int] | None = None) -> list[int]:
    """Widths of the groups, of at most `most`, that cost at most `fraction` of the original; BudgetError if none do."""
    cost = cost_of(run, ranked, kind)
    full = [r.group.channels for r in ranked.rankings]
    curves = [_narrowed(c, m) for c, m in zip(ranked.curves, most or full, strict=True)]
    whole = count_of(run, kind, ranked)
    try:
        found = ALLOCATORS[run.options.allocate](curves, cost, fraction * whole)
    except BudgetError as error:  # it knows no original but the serial form
        grown = cost.total(np.array(full)) / max(whole, 1e-9)
        raise out_of_reach(fraction, (error.reachable or 0.0) * grown) from None
    return [int(width) for width in found]


def _narrowed(curve: Curve, most: int) -> Curve:
    """The part of a curve up to a width."""
    return Curve(curve.levels[curve.levels <= most], curve.errors[curve.levels <= most])


def refine(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> dict[str, Ints]:
    """The same numbers of channels after swaps that lower the least-squares error at the groups' readers."""
    cut = [r.group for r in ranked.rankings if len(keep[r.group.name]) < r.group.channels]
    groups = [group for group in cut if not group.heads]  # whose dims are ordered as they were turned
    if not groups:
        return dict(keep)
    held = all(linear.key in ranked.moments for g in groups for linear in selection.readers(run.coupling, g))
    portions = [groups] if held else list(_portions(run, groups))
    better = dict(keep)
    for portion in portions:
        moments = ranked.moments if held else _moments(run, portion, len(portions))
        with run.timed("refine") as progress:
            for number, group in enumerate(portion):
                evidence, _ = selection.gathered(run.coupling, group, moments, np.random.default_rng())
                better[group.name] = swapped(
                    evidence.problems, keep[group.name], damping=evidence.damping, cells=evidence.cells
                )
                progress(number + 1, len(portion))
    return better


def cost_of(run: Run, ranked: Ranked, kind: str) -> Quadratic:
    """What a target counts, as a function of the widths."""
    if kind == "latency":
        assert ranked.time is not None
        return ranked.time
    groups = [r.group for r in ranked.rankings]
    return COSTS[kind].of_widths(run.coupling, groups)


def count_of(run: Run, kind: str, ranked: Ranked | None = None) -> float:
    """What a target counts in the original."""
    if kind == "latency":
        assert ranked is not None
        return ranked.whole
    return run.on_disk if kind == "size" and run.on_disk else COSTS[kind].count(run.original)


def reconstruct(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> tuple[dict[str, Weights], dict[str, float]]:
    """New weights of the layers that need them, and their errors on samples that weren't fitted."""
    if run.mode == "ls":
        return _front_to_back(run, ranked, keep)
    with run.timed("reconstruct"):
        return _one_by_one(run, ranked, keep, run.mode, ranked.turned(run.coupling, keep))


def narrow(
    run: Run, ranked: Ranked, keep: Mapping[str, Ints], widths: Mapping[str, int]
) -> tuple[dict[str, Ints], dict[str, Weights], dict[str, float]]:
    """Channels that stay, those of `keep` and others at these widths of groups; new weights, and their errors.

    All in one pass, front to back: the channels of a group are chosen when the first layer that mixes them has its
    turn, by what that reads and should give by then.
    """
    coupling, chosen = run.coupling, dict(keep)
    waiting: dict[int, list[Group]] = {}
    for group in (coupling.by_name[name] for name in widths):
        mixing = [one for one in layers_in_order(coupling) if one.index in group.reads and one.conv_group == 1]
        if widths[group.name] < group.channels:
            waiting.setdefault(mixing[0].index, []).append(group)

    def choice(linear: Linear, moments: Sequence[Moments]) -> Mapping[str, Ints]:
        for group in waiting[linear.index]:
            chosen[group.name] = selection.chosen(linear, group, moments, widths[group.name])
        return chosen

    return chosen, *_front_to_back(run, ranked, keep, dict.fromkeys(waiting, choice))


def _front_to_back(
    run: Run, ranked: Ranked, keep: Mapping[str, Ints], choices: Mapping[int, Choice] | None = None
) -> tuple[dict[str, Weights], dict[str, float]]:
    turned, sizes = ranked.turned(run.coupling, keep), (run.samples.count, run.options.runtime)
    with run.timed("reconstruct") as progress:
        ahead = refit_ahead(run.coupling, keep, _both(run), *sizes, run.options.seed, turned)
        refits = front_to_back(
            run.coupling, keep, _both(run), *sizes, ahead=ahead, choices=choices,
            turned={i: (one.before, one.after) for i, one in turned.items()},
            seed=run.options.seed, max_memory=run.options.max_memory, progress=progress,
        )  # fmt: skip
    return {k: r.weights for k, r in refits.items()}, {k: r.error for k, r in refits.items()}


def _both(run: Run) -> list[Iterable[Mapping[str, Array]]]:
    """The samples to fit, and those to choose by if there are any."""
    return [run.feeds(part) for part in (run.division.fit, run.division.tune) if len(part)]


def _one_by_one(
    run: Run, ranked: Ranked, keep: Mapping[str, Ints], mode: str, turned: Mapping[int, factorize.Turned]
) -> tuple[dict[str, Weights], dict[str, float]]:
    mask = run.coupling.mask(keep)
    weights: dict[str, Weights] = {}
    errors: dict[str, float] = {}
    for one in turned.values():
        weights[one.after.key] = silent(run.coupling, mask, one.after, masked(one.after, mask.inputs(one.after)))
    if mode == "none":
        return weights, errors
    if mode == "unify":
        return _unified(run, ranked, keep)
    for linear in run.coupling.layers.values():
        flags = mask.inputs(linear)
        if flags.all() or linear.key not in ranked.moments:
            continue
        parts = _moments_of_all(run.coupling, linear, ranked.moments)
        if linear.index in turned:
            linear, parts = turned[linear.index].after, [turned[linear.index].moments(m) for m in parts]
        fit, tune = parts[0], parts[-1]
        if mode == "mean":
            weights[linear.key] = with_mean(linear, flags, fit.mean)
        else:
            found = refit(linear, flags, fit, tune if tune is not fit else None)
            weights[linear.key], errors[linear.key] = found.weights, found.error
        if linear.index in turned:
            weights[linear.key] = silent(run.coupling, mask, linear, weights[linear.key])
    return weights, errors


def _moments_of_all(coupling: Coupling, linear: Linear, moments: Mapping[str, list[Moments]]) -> list[Moments]:
    """What a layer reads, in all places where it is read if there are several."""
    tied = [moments[one.key] for one in coupling.tied.get(linear.key, (linear,))]
    return [reduce(add, parts) for parts in zip(*tied, strict=True)]


def _unified(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> tuple[dict[str, Weights], dict[str, float]]:
    """Survivors take over, group by group, in all layers that read them."""
    mask, rng = run.coupling.mask(keep), np.random.default_rng(run.options.seed)
    moves: dict[str, list[tuple[Ints, Ints, NDArray[np.float64]]]] = {}
    linears: dict[str, Linear] = {}
    affine = False
    for ranking in ranked.rankings:
        group = ranking.group
        evidence, _ = selection.gathered(run.coupling, group, None if run.blind else ranked.moments, rng)
        taken = run.method.takeover(evidence, keep.get(group.name, np.arange(group.channels)))
        gone = np.flatnonzero(taken.partner != NOBODY)
        affine = affine or taken.affine
        found = selection.readers(run.coupling, group)
        factors = np.broadcast_to(taken.factors, (len(found), group.channels))
        for linear, factor in zip(found, factors, strict=True):
            rows = selection.rows_of(linear, group)
            moves.setdefault(linear.key, []).append((rows[gone], rows[taken.partner[gone]], factor[gone]))
            linears[linear.key] = linear
    weights, errors = {}, {}
    for name, linear in linears.items():
        flags = mask.inputs(linear)
        if not flags.all():
            known = _moments_of_all(run.coupling, linear, ranked.moments) if name in ranked.moments else None
            mean = known[0].mean if known and affine else None
            one, *_ = run.coupling.tied.get(name, (linear,))  # whose factors are those of all that are one with it
            weights[name] = taken_over(linear, flags, moves[one.key], mean)
            if known and linear.shared is None:
                errors[name] = error_on(linear, weights[name], known[-1])
    return weights, errors


def what_stands_in_the_way(run: Run) -> str:
    """Why a run can't prune more, in one sentence."""
    coupling, options = run.coupling, run.options
    reasons = [reason for i, reason in coupling.left_alone.items() if not _makes_output(coupling, i)]
    reasons += [reason for g in coupling.groups if (reason := why_left_out(coupling, g, options))]
    told = [_spelt(options)] if not reasons or options.limits or options.min_channels > 1 else []
    if reasons:
        named = "; ".join(list(dict.fromkeys(reasons))[:3])
        count = f"{len(reasons)} layers or groups stay" if len(reasons) > 1 else "one layer or group stays"
        told.append(f"{count} ({named}); `onnxprune inspect` lists all")
    return f"what stands in the way: {'; '.join(told)}"


def _spelt(options: Options) -> str:
    """What options allow of widths."""
    limits = "".join(f", {100 * share:g} % of '{name}'" for name, share in options.limits.items())
    return f"widths are multiples of {options.step} and at least {options.min_channels}{limits}"


def _makes_output(coupling: Coupling, index: int) -> bool:
    return "is an output of the model" in coupling.left_alone[index]
