"""What was done and what it cost: the numbers behind the final table, `--json` and `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Size:
    """Parameters, MACs at batch 1, bytes of the file, and milliseconds per run (None: not measured)."""

    params: int
    macs: int
    bytes: int
    latency_ms: float | None = None


@dataclass(frozen=True)
class Fidelity:
    """How well the pruned model answers like the original, on samples that took no part in pruning.

    top1_agreement is None where the output doesn't look like class scores; relative_error is ‖y − y₀‖ / ‖y₀‖.
    """

    top1_agreement: float | None
    relative_error: float
    samples: int
    data: str  # "given" or "synthetic"

    @property
    def loss(self) -> float:
        """What `drop` counts: the share of answers that changed, or the relative error."""
        return self.relative_error if self.top1_agreement is None else 1.0 - self.top1_agreement


@dataclass(frozen=True)
class Target:
    """What was asked for: macs, params (fractions kept) or drop (largest loss), and whether it was reached."""

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
    surgery_check: dict[str, Any]
    groups: list[GroupReport]
    left_alone: list[dict[str, str]]
    seconds: dict[str, float]
    warnings: list[str] = field(default_factory=list)

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

    def json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)
