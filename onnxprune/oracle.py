"""The proof of surgery: the pruned model computes what its full-size twin computes.

Both run with onnxruntime's graph optimizations off. They are compared at the model's floating-point outputs, and in
front of operators whose results jump (ArgMax, a comparison, TopK); what these give, both take over from the original,
so that rounding doesn't part them, and none finds nothing. In the place of a final Sigmoid or Softmax, whose saturated
outputs tell little, the floats in front of it are compared. The difference is relative to the root mean square of the
twin's value.

Where it is too large, the twin itself is asked how much it amplifies rounding: a network that turns a relative change
of a millionth in its inputs and weights into one of a thousandth can't be reproduced better than that, however exact
the surgery. (Weights, because large ones that cancel each other out amplify rounding, but no change of the inputs.)
A mistake of surgery is far more than a few roundings at the place where it is made, so it is noticed all the same.
Values of which the twin makes something else altogether (widths of boxes that are exponentials) tell nothing, and don't
count where others do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, TensorProto

from onnxprune.coupling import Coupling
from onnxprune.decisions import CHOICES, JUMPS, decisions, exposed
from onnxprune.errors import InternalError
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.plan import Plan, Weights
from onnxprune.rewrite import silenced
from onnxprune.runtime import Runtime
from onnxprune.spill import Spill

TOLERANCE: dict[int, float] = {
    TensorProto.FLOAT16: 1e-2,
    TensorProto.BFLOAT16: 1e-2,
    TensorProto.FLOAT: 1e-4,
    TensorProto.DOUBLE: 1e-4,
}
SATURATES = {"Sigmoid", "Softmax", "LogSoftmax", "Tanh", "HardSigmoid", "Exp"}
MOVED, ROUNDINGS = 1e-6, 10.0  # relative change of inputs and weights; its effects that a difference may be
LARGEST = 0.1  # a difference that no rounding excuses


@dataclass(frozen=True)
class Verdict:
    """Largest difference relative to the RMS of the twin's value, whether it is small enough, and where it is."""

    max_abs_diff: float
    ok: bool
    where: str
    rounding: float = 0.0  # what the twin makes of a millionth, where that had to be asked


def check(coupling: Coupling, plan: Plan, pruned: Model | ModelProto, feeds: Iterable[Mapping[str, Array]]) -> Verdict:
    """Compare a pruned model with the twin of the original on some inputs."""
    outputs, (points, choices) = coupling.graph.outputs, compared(coupling.graph)
    points = {n if n in outputs else coupling.graph.past(n): t for n, t in points.items()}
    if not points:
        return Verdict(0.0, True, "")
    mask, feeds = coupling.mask(plan.keep), list(feeds)
    full = silenced(coupling, plan)

    def kept(runs: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        return [{name: mask.kept(name, x) for name, x in run.items()} for run in runs]

    whole = silenced(coupling, replace(plan, keep={}, weights={})) if choices else full
    taken = _values(whole, choices, feeds) if choices else [{} for _ in feeds]
    expected = kept(_values(full, points, feeds, choices, taken))
    verdicts = _verdicts(expected, _values(pruned, points, feeds, choices, kept(taken)), points)
    if any(not v.ok for v in verdicts):
        shaken = silenced(coupling, replace(plan, weights=_moved_weights(coupling, plan)))
        moved = _values(shaken, points, list(map(_moved, feeds)), choices, list(map(_moved, taken)))
        amplified = _verdicts(expected, kept(moved), points)
        verdicts = [v if v.ok else _excused(v, a.max_abs_diff) for v, a in zip(verdicts, amplified, strict=True)]
        verdicts = [v for v in verdicts if v.rounding < LARGEST] or verdicts
    return max(verdicts, key=lambda v: (not v.ok, v.max_abs_diff))


def _verdicts(
    expected: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]], points: Mapping[str, int]
) -> list[Verdict]:
    """One per feed and point, in this order."""
    return [
        _compare(before[name], after[name], name, TOLERANCE[elem_type])
        for before, after in zip(expected, found, strict=True)
        for name, elem_type in points.items()
    ]


def _excused(verdict: Verdict, rounding: float) -> Verdict:
    """A difference that is no more than what the twin makes of a few roundings at the same place, if that is finite."""
    fine = verdict.max_abs_diff < LARGEST and verdict.max_abs_diff <= ROUNDINGS * rounding < np.inf
    return replace(verdict, ok=fine, rounding=rounding)


def _moved(feed: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs, or what was taken over: floating-point numbers moved by a millionth of their size up or down."""
    rng = np.random.default_rng(0)
    return {name: _shaken(x, rng) if x.dtype.kind == "f" else x for name, x in feed.items()}


def _moved_weights(coupling: Coupling, plan: Plan) -> dict[str, Weights]:
    """The weights of all layers moved likewise, those of a big model in a file."""
    rng, kept = np.random.default_rng(1), Spill() if coupling.graph.big else None
    moved = {}
    for name, layer in coupling.layers.items():  # one by one: those of a big model are made when asked for
        new = plan.weights.get(name) or Weights(layer.matrix, layer.offset)
        matrix = _shaken(new.matrix, rng)
        moved[name] = replace(new, matrix=kept.keep(matrix) if kept else matrix)
    return moved


def _shaken(x: Array, rng: np.random.Generator) -> Array:
    return np.asarray(x * (1 + MOVED * rng.choice(np.array([-1, 1], np.int8), x.shape)).astype(x.dtype))


def _values(
    model: Model | ModelProto,
    points: Mapping[str, int],
    feeds: Sequence[Mapping[str, Array]],
    given: Mapping[str, int] | None = None,
    taken: Sequence[Mapping[str, Array]] | None = None,
) -> list[dict[str, Array]]:
    """The values at the points, with those that are `given` as they were `taken`; the model is dropped then."""
    session = Runtime("cpu").session(exposed(model, points, given or {}), optimize=False)
    own = taken or [{} for _ in feeds]
    return [session.run({**feed, **values}, list(points)) for feed, values in zip(feeds, own, strict=True)]


def demand(verdict: Verdict) -> None:
    """Raise InternalError if the surgery wasn't exact."""
    if verdict.ok:
        return
    if verdict.max_abs_diff <= ROUNDINGS * verdict.rounding < np.inf:
        raise InternalError(
            f"the pruned network makes {verdict.rounding:.0e} of a millionth, so nobody can tell whether it is what it "
            "should be, and nothing is written; give more or other calibration data, or prune less."
        )
    raise InternalError(
        f"the pruned model differs from its full-size twin at '{verdict.where}' by {verdict.max_abs_diff:.1e} "
        "of its size, so nothing is written; please report this model, it is a bug."
    )


def _compare(expected: Array, found: Array, name: str, tolerance: float) -> Verdict:
    if expected.shape != found.shape:
        return Verdict(float("inf"), False, name)
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(np.isfinite(b), finite) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Verdict(float("inf"), False, name)
    a, b = a[finite], b[finite]
    scale = float(np.sqrt(np.mean(a**2))) if a.size else 0.0
    difference = float(np.max(np.abs(a - b), initial=0.0)) / (scale or 1.0)
    return Verdict(difference, difference <= tolerance, name)


def comparable(graph: Graph) -> dict[str, int]:
    """Values to compare: floating-point outputs, and the nearest floats in front of operators that jump."""
    return compared(graph)[0]


def compared(graph: Graph, jumps: Collection[str] = JUMPS) -> tuple[dict[str, int], dict[str, int]]:
    """Values to compare, in front of operators that jump, and what the other network takes over; names and types."""
    nodes, taken, behind = decisions(graph, jumps)
    apart = behind | taken.keys()
    points: dict[str, int] = {}
    stack, seen = [*graph.outputs, *(name for i in nodes for name in graph.reads(graph.nodes[i]))], set[str]()
    while stack:
        name = stack.pop()
        if name in seen or name in graph.static:
            continue
        seen.add(name)
        if name not in graph.producer:
            continue
        saturated = graph.nodes[graph.producer[name]].op_type in SATURATES
        if not saturated and graph.types.get(name) in TOLERANCE and name not in apart:
            points[name] = graph.types[name]
        else:
            stack.extend(graph.reads(graph.nodes[graph.producer[name]]))
    return points, taken


def signals(graph: Graph) -> list[str]:
    """Values that tell how much the answer of a network changes that goes on with the rows that another chose."""
    return list(compared(graph, CHOICES)[0])
