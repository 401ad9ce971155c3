"""The proof of surgery: the pruned model computes what its full-size twin computes.

Both run with onnxruntime's graph optimizations off. They are compared at the model's floating-point outputs; where an
output isn't continuous in the values before it (ArgMax, a comparison, TopK), the floats in front of it are compared
instead, and likewise in front of a final Sigmoid or Softmax, whose saturated outputs tell little. The difference is
relative to the root mean square of the twin's value.

Where it is too large, the twin itself is asked how much it amplifies rounding: a network that turns a relative change
of a millionth in its inputs into one of a thousandth can't be reproduced better than that, however exact the surgery.
A mistake of surgery is far more than a few roundings at the place where it is made, so it is noticed all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxprune.bodies import subgraphs
from onnxprune.coupling import Coupling
from onnxprune.errors import InternalError
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.nodes import RANDOM, needed
from onnxprune.plan import Plan
from onnxprune.rewrite import silenced
from onnxprune.runtime import Runtime

TOLERANCE: dict[int, float] = {
    TensorProto.FLOAT16: 1e-2,
    TensorProto.BFLOAT16: 1e-2,
    TensorProto.FLOAT: 1e-4,
    TensorProto.DOUBLE: 1e-4,
}
JUMPS = {
    *("ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"),
    *("Floor", "Ceil", "Round", "Sign", "NonZero", "Unique", "Hardmax", "OneHot", "RoiAlign"),
}
SATURATES = {"Sigmoid", "Softmax", "LogSoftmax", "Tanh", "HardSigmoid", "Exp"}
MOVED, ROUNDINGS = 1e-6, 10.0  # relative change of the inputs; its effects that a difference may be
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
    outputs = coupling.graph.outputs
    points = {n if n in outputs else coupling.graph.past(n): t for n, t in comparable(coupling.graph).items()}
    if not points:
        return Verdict(0.0, True, "")
    mask, feeds = coupling.mask(plan.keep), list(feeds)
    full = silenced(coupling, plan)

    def kept(feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        return [{name: mask.kept(name, x) for name, x in run.items()} for run in _values(full, points, feeds)]

    expected = kept(feeds)
    verdicts = _verdicts(expected, _values(pruned, points, feeds), points)
    if any(not v.ok and v.max_abs_diff < LARGEST for v in verdicts):
        amplified = _verdicts(expected, kept([_moved(feed) for feed in feeds]), points)
        verdicts = [v if v.ok else _excused(v, a.max_abs_diff) for v, a in zip(verdicts, amplified, strict=True)]
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
    """The inputs, floating-point numbers moved by a millionth of their size up or down."""
    rng = np.random.default_rng(0)
    return {
        name: x * (1 + MOVED * rng.choice([-1, 1], x.shape)).astype(x.dtype) if x.dtype.kind == "f" else x
        for name, x in feed.items()
    }


def _values(
    model: Model | ModelProto, points: Mapping[str, int], feeds: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """The values at the points; the model is dropped when they are known."""
    session = Runtime("cpu").session(_expose(model, points), optimize=False)
    return [session.run(feed, list(points)) for feed in feeds]


def demand(verdict: Verdict) -> None:
    """Raise InternalError if the surgery wasn't exact."""
    if not verdict.ok:
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
    """Values to compare: floating-point outputs, or the nearest floats in front of operators that jump."""
    behind = _behind_jumps(graph)
    points: dict[str, int] = {}
    stack, seen = list(graph.outputs), set[str]()
    while stack:
        name = stack.pop()
        if name in seen or name in graph.static:
            continue
        seen.add(name)
        if name not in graph.producer:
            continue
        saturated = graph.nodes[graph.producer[name]].op_type in SATURATES
        if not saturated and graph.types.get(name) in TOLERANCE and name not in behind:
            points[name] = graph.types[name]
        else:
            stack.extend(graph.reads(graph.nodes[graph.producer[name]]))
    return points


def _behind_jumps(graph: Graph) -> set[str]:
    """Values behind an operator that jumps where two models that round otherwise may part.

    What follows from sizes and from integer inputs alone (an image's scale, a mask of tokens) is exact in both.
    """
    inexact = {i.name for i in graph.inputs if i.type.tensor_type.elem_type in TOLERANCE}
    behind: set[str] = set()
    for node in graph.nodes:
        reads, outputs = graph.reads(node), [name for name in node.output if name]
        rounds = any(name in inexact for name in reads)
        places = reads[1:] if node.op_type == "RoiAlign" else reads  # it is smooth in the map that it pools over
        jumps = _ops(node) & JUMPS and any(name in inexact for name in places)
        if _ops(node) & RANDOM or jumps or any(name in behind for name in reads):
            behind.update(outputs)
        if node.op_type not in ("Shape", "Size") and (rounds or any(_weighs(graph, name) for name in reads)):
            inexact.update(outputs)
    return behind


def _ops(node: NodeProto) -> set[str]:
    """The operators of a node and of its bodies."""
    return {node.op_type}.union(*(_ops(inner) for body in subgraphs(node) for inner in body.node))


def _weighs(graph: Graph, name: str) -> bool:
    """Whether a value is a constant of several floating-point numbers."""
    return name in graph.static and graph.types.get(name) in TOLERANCE and prod(graph.shapes.get(name, (2,))) > 1


def _expose(model: Model | ModelProto, points: Mapping[str, int]) -> Model:
    """The model with these values as its outputs, and no node that they don't need (it may fail on what is found)."""
    model = model if isinstance(model, Model) else Model(model)
    new = ModelProto()
    new.CopyFrom(model.proto)
    del new.graph.node[:]
    new.graph.node.extend(needed(model.proto.graph.node, points))
    del new.graph.output[:]
    new.graph.output.extend(helper.make_tensor_value_info(n, t, None) for n, t in points.items())
    return Model(new, model.arrays)
