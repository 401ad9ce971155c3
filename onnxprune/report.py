"""What was done and what it cost: the numbers behind the final table, `--json` and `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import numpy as np

from onnxprune.cost import macs, macs_of_widths, parameters_of_widths
from onnxprune.coupling import Coupling, Group
from onnxprune.declared import FLOATS
from onnxprune.graph import Block, Graph, key
from onnxprune.plan import Plan


@dataclass(frozen=True)
class Size:
    """Parameters, MACs at batch 1, bytes of the file, and milliseconds per run (None: not measured)."""

    params: int
    macs: int
    bytes: int
    latency_ms: float | None = None


@dataclass(frozen=True)
class Latency:
    """Time of the second model as a share of the first one's: median of paired runs, and its 95 % interval.

    threads: 0 where onnxruntime chose; one thread of the CPU is counted in processor time.
    """

    ratio: float
    low: float
    high: float
    batch: int
    threads: int
    provider: str


@dataclass(frozen=True)
class Fidelity:
    """How well the pruned model answers like the original, on samples that took no part in pruning.

    top1_agreement is None where the output doesn't look like class scores; relative_error is ‖y − y₀‖ / ‖y₀‖. The loss
    on all such samples lies between low and high, as far as these samples tell (see `intervals`; None: they don't). Of
    made-up samples, unexplained is the share of the answers' variance that has changed.
    """

    top1_agreement: float | None
    relative_error: float
    samples: int
    data: str  # "given" or "synthetic"
    low: float | None = None
    high: float | None = None
    unexplained: float | None = None

    @property
    def loss(self) -> float:
        """What `drop` counts: the share of answers that changed, or the relative error."""
        return self.relative_error if self.top1_agreement is None else round(1.0 - self.top1_agreement, 12)


@dataclass(frozen=True)
class Loss:
    """What `drop` counts: of accuracy, agreement, outputs (their relative error) or their variance, on some samples.

    Between low and high lies the true one (see `intervals`; None: not known). So many samples are needed, if the loss
    stays what it is, until they show that it is at most what was allowed (None: nothing was, or none would show it).
    """

    of: str
    value: float
    low: float | None
    high: float | None
    samples: int
    needed: int | None = None


@dataclass(frozen=True)
class Target:
    """What was asked for, and whether it was reached: one of cost.COSTS or latency (fractions kept), or drop (loss)."""

    kind: str
    value: float
    reached: bool = False


@dataclass(frozen=True)
class GroupReport:
    """One group: its channels before and after, the layers that make and read them, and the error at its readers."""

    name: str
    channels: int
    kept: int
    layers: list[str]
    readers: list[str]
    stream: bool
    error: float | None
    macs: int = 0
    params: int = 0
    dims: bool = False


@dataclass(frozen=True)
class BlockReport:
    """A part that can be removed whole: its layers, what they cost, and what it adds to the answer (None: unknown)."""

    name: str
    layers: list[str]
    removed: bool
    gain: float | None
    macs: int
    params: int


@dataclass(frozen=True)
class Report:
    """Everything a user may want to know of a run."""

    method: str
    allocate: str
    reconstruct: str
    targets: list[Target]
    before: Size
    after: Size
    fidelity: Fidelity
    accuracy: dict[str, float] | None
    loss: Loss
    surgery_check: dict[str, Any]
    groups: list[GroupReport]
    left_alone: list[dict[str, str]]
    seconds: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    blocks: list[BlockReport] = field(default_factory=list)
    latency: Latency | None = None

    def kept(self, kind: str) -> float | None:
        """The share that is left of a cost (see `Target`), if it is known."""
        if kind == "latency":
            return self.latency.ratio if self.latency else None
        before, after = (getattr(size, {"size": "bytes"}.get(kind, kind)) for size in (self.before, self.after))
        return float(after / before) if before else None

    def json(self) -> dict[str, Any]:
        """The report as plain data, as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Inspection:
    """What a model consists of: its size, its groups, and what can't be pruned and why."""

    size: Size
    groups: list[GroupReport]
    left_alone: list[dict[str, str]]
    inputs: Mapping[str, list[Any]]
    outputs: Mapping[str, list[Any]]

    def json(self) -> dict[str, Any]:
        """The inspection as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two models side by side."""

    before: Size
    after: Size
    fidelity: Fidelity
    accuracy: dict[str, float] | None
    loss: Loss
    latency: Latency | None = None

    def json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)


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
            GroupReport(
                group.name, group.channels, kept, layers, readers, group.stream, error, macs, params, group.dims
            )
        )
    return reports


def block_report(graph: Graph, block: Block, *, removed: bool, gain: float | None = None) -> BlockReport:
    """A block of a graph, named like its last node."""
    nodes = [graph.nodes[i] for i in block.nodes]
    layers = {i: graph.nodes[i].name or key(graph.nodes[i]) for i in block.nodes if macs(graph, i)}
    tensors = {name for node in nodes for name in node.input if name in graph.initializers}
    owned = [name for name in tensors if set(block.nodes).issuperset(graph.consumers[name])]
    params = sum(prod(graph.shapes[name]) for name in owned if graph.types[name] in FLOATS)
    cost = sum(macs(graph, i) for i in layers)
    name = graph.nodes[graph.producer[block.output]].name or block.output
    return BlockReport(name, list(layers.values()), removed, gain, cost, params)


def left_alone(coupling: Coupling, why_whole: Callable[[Group], str]) -> list[dict[str, str]]:
    """Every layer whose outputs all stay, with the reason; `why_whole` gives it for groups that could be cut."""
    reasons = {coupling.layer(i): reason for i, reason in coupling.left_alone.items()}
    for group in coupling.groups:
        reason = why_whole(group)
        if reason:
            reasons.update({coupling.layer(i): reason for i in group.writers})
    return [{"layer": layer, "reason": reason} for layer, reason in reasons.items()]
