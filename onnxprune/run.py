"""What was asked for, and one model with its data: what the steps of a run share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import calibration, evaluation, methods, serialize
from onnxprune.allocation import ALLOCATORS
from onnxprune.calibration import Samples
from onnxprune.cost import COSTS
from onnxprune.coupling import GRANULARITIES, Coupling
from onnxprune.data import Division, bearable, divide, inputs_of, shapes_of
from onnxprune.errors import UsageError
from onnxprune.evaluation import BATCH, Labelled
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.heads import ATTENTION, attend, restored
from onnxprune.latency import FINE
from onnxprune.merging import planned
from onnxprune.plan import Plan
from onnxprune.reconstruct import MODES
from onnxprune.report import Target
from onnxprune.runtime import Runtime

Ints = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
Retrain = str | Callable[[ModelProto], ModelProto]
DEFAULT_DROP = 0.01
SYNTHETIC_DROP = 0.001  # without real data nobody can tell what a loss means
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
    batch: int | None = None  # samples in a run; without it what `at_once` says, but TIMED_BATCH for times
    seed: int = 0
    max_memory: float = 2e9
    runtime: Runtime = field(default_factory=Runtime)
    measure_latency: bool = True
    beside: str | None = None  # the file for weights beside what is written, where `size` counts one; else as it was
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
        return FINE if self.round_to is None else self.round_to

    @property
    def limits(self) -> dict[str, float]:
        """The share of its channels that each layer called like this keeps at least."""
        return dict(self.keep)

    @property
    def mode(self) -> str:
        """How layers are reconstructed: as asked for, or as the method's paper does."""
        return methods.find(self.method).reconstruct if self.reconstruct == "auto" else self.reconstruct

    @property
    def looks_at_weights_alone(self) -> bool:
        """Whether neither the criterion nor a repair asks what the layers that read a group do with it."""
        return self.mode == "none" and methods.find(self.method).needs == "weights"

    @property
    def for_time(self) -> bool:
        """Whether a target counts time."""
        return any(target.kind == "latency" for target in self.targets)

    @property
    def predicts(self) -> bool:
        """Whether predicted errors decide widths: not where all groups keep the same share, for a cost."""
        return self.allocate != "uniform" or not all(target.kind in COSTS for target in self.targets)

    @property
    def shortens(self) -> bool:
        """Whether whole blocks may go besides channels: for time, and if others can take their work over."""
        fits = self.mode == "ls" and self.serialize == "never" and not self.by_blocks
        return self.for_time and fits and self.blocks == "auto" and self.plan is None

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

    @cached_property
    def at_once(self) -> int:
        """Samples that are run at once."""
        return self.options.batch or evaluation.at_once(self.original, self.options.max_memory)

    def feeds(self, indices: Ints, most: int = BATCH) -> Iterable[Mapping[str, Array]]:
        """The samples in batches, read when they are asked for; of at most so many, if nobody said of how many."""
        source = self.noise if methods.find(self.options.method).needs == "noise" else self.samples
        return source.batches(indices.tolist(), self.options.batch or min(self.at_once, most))

    @property
    def parts(self) -> list[Iterable[Mapping[str, Array]]]:
        """The samples to fit, and those to choose by if there are any."""
        return self.parts_in()

    def parts_in(self, most: int = BATCH) -> list[Iterable[Mapping[str, Array]]]:
        """The same in batches of at most so many."""
        return [self.feeds(part, most) for part in (self.division.fit, self.division.tune) if len(part)]

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
        turned = any(group.heads for group in self.coupling.groups)
        repaired = (self.mode == "none" or (self.mode == "unify" and own)) and not turned
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
    given = found.count
    if graph.uncounted:
        session = options.runtime.session(Model(graph.model, graph.arrays))
        found = bearable(found, session, lambda done, total: progress("calibrate", done, total))
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
    if found.count < given:
        run.warnings.append(
            f"the model itself fails on {given - found.count} of the {given} samples: they are left out."
        )
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
    """Coupled as the plan says; else by the option, of which auto turns heads where layers are refitted anyway.

    With stand-ins, or where blocks go, it takes whole heads.
    """
    if options.plan is not None:
        return restored(planned(graph, options.plan), options.plan.by_rank, options.granularity)
    auto = options.attention == "auto"
    attention = "heads" if auto and (options.mode == "unify" or options.by_blocks) else options.attention
    return attend(graph, attention, options.granularity, turn=not auto or options.mode in ("local", "ls"))
