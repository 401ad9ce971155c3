"""Several targets from one calibration and one ranking: a model for each, and which of them is the knee.

The knee is the model farthest below the straight line from the original to the one that keeps least, in the plane of
what is kept and what is lost, each scaled to 1: up to there pruning costs less than on average, beyond it more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto
from threadpoolctl import threadpool_limits

from onnxprune.errors import BudgetError, UsageError
from onnxprune.picture import Dot, pareto
from onnxprune.pipeline import Result, begun, finished
from onnxprune.report import Report, Target
from onnxprune.search import parse_targets

COUNTED = {"macs": "MACs kept", "params": "parameters kept", "size": "file size kept", "latency": "time kept"}


@dataclass(frozen=True)
class Point:
    """What one target led to: a result, and why it falls short if it does; without any result nothing was found."""

    target: Target
    result: Result | None = None
    failure: BudgetError | None = None


def sweep(model: ModelProto | str | Path, targets: str | Sequence[str], **options: Any) -> Iterator[Point]:
    """Prune a model for each target, one point after the other; the first one takes the time of the calibration.

    targets: "macs=0.8,0.6,0.4", or several such texts. Options are those of `onnxprune.prune`, but for what leads to a
    single model (plan, iterations, retrain). Raises OnnxPruneError like `prune`, but a target that can't be reached is
    a point, too: with the best that was found, if anything was.
    """
    wanted = expanded([targets] if isinstance(targets, str) else targets)
    if single := sorted({"target", "plan", "iterations", "retrain"} & set(options)):
        raise UsageError(f"a sweep makes several models in one step each: leave out {single[0]}.")
    with threadpool_limits(1, user_api="blas"):
        search, given = begun(model, wanted, **options)
        search.ready()
    for target in wanted:
        one = search.other(targets=(target,))
        one = one.under(replace(one.run, seconds=dict(search.run.seconds), warnings=list(search.run.warnings)))
        with threadpool_limits(1, user_api="blas"):
            try:
                point = Point(target, finished(one, given))
            except BudgetError as error:
                point = Point(target, error.result, error)
        yield point


def expanded(texts: Sequence[str]) -> tuple[Target, ...]:
    """Targets from texts like "macs=0.8,0.6,latency=0.7", each once; UsageError says what is wrong with one."""
    each = list[str]()
    for text in texts:
        kind = ""  # of the numbers that come without one
        for part in text.split(","):
            kind = part.partition("=")[0] if "=" in part else kind
            each.append(f"{kind}={part}" if kind and "=" not in part else part)
    found = parse_targets(each)
    if not found:
        raise UsageError("a sweep needs targets: give --targets macs=0.8,0.6,0.4, say.")
    return tuple(dict.fromkeys(found))


def counted(targets: Sequence[Target]) -> str:
    """The cost that a sweep is about: that of its targets where they name one and the same, else MACs."""
    kinds = {target.kind for target in targets}
    return kinds.pop() if len(kinds) == 1 and kinds <= set(COUNTED) else "macs"


def knee(points: Sequence[Point]) -> int | None:
    """The place of the knee among the points; None if no model lies below the line."""
    kind = counted([point.target for point in points])
    known = {
        i: (1 - kept, point.result.report.loss.value)
        for i, point in enumerate(points)
        if point.result is not None and (kept := point.result.report.kept(kind)) is not None
    }
    saved, lost = max(known.values(), default=(0.0, 0.0))
    if saved <= 0 or lost <= 0:
        return None
    below = {i: x / saved - y / lost for i, (x, y) in known.items()}
    best = max(below, key=lambda i: below[i])
    return best if below[best] > 1e-9 else None


def picture(title: str, points: Sequence[Point]) -> str:
    """The models as an SVG, what is lost against what is kept of what the targets count, with the original."""
    kind, chosen = counted([point.target for point in points]), knee(points)
    dots, of = [Dot(1.0, 0.0, None, None, "original")], "accuracy"
    for i, point in enumerate(points):
        if point.result is not None:
            report = point.result.report
            dots.append(_dot(report, kind, point.target, i == chosen))
            of = report.loss.of
    names = {"accuracy": "accuracy lost", "agreement": "answers changed", "outputs": "relative error"}
    lost = names.get(of, "share of the answers' variance that changed")
    return pareto(title, COUNTED[kind], lost, dots)


def _dot(report: Report, kind: str, target: Target, marked: bool) -> Dot:
    label = f"{target.kind}={target.value:g}" + (" (knee)" if marked else "")
    return Dot(report.kept(kind) or 0.0, report.loss.value, report.loss.low, report.loss.high, label, marked)
