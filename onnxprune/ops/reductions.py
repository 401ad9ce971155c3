"""Operators that mix elements along some axes and leave the others apart: pooling, reductions, softmax."""

from __future__ import annotations

import numpy as np

from onnxprune.ids import Ids
from onnxprune.ops.registry import Visit, rule


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def pool(v: Visit) -> None:
    """Mixes the spatial axes, channel by channel. MaxPool's indices (output 1) count places over all channels."""
    v.set_channels(v.channels(0, 1))


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
@rule("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
def reduce(v: Visit) -> None:
    """Mixes `axes`."""
    ids = v.ids(0)
    axes = v.value(1) if v.has(1) else v.attr("axes")
    if axes is None and v.has(1):
        v.freeze_all("mixes axes that are known only at run time")
        return
    reduced = {int(a) % ids.ndim for a in axes} if axes is not None and len(axes) else set(range(ids.ndim))
    if v.attr("noop_with_empty_axes", 0) and (axes is None or not len(axes)):
        reduced = set()
    mixed = mix(v, reduced)
    v.set(mixed.reshape([n for a, n in enumerate(mixed.shape) if a not in reduced or v.attr("keepdims", 1)]))


def mix(v: Visit, axes: set[int]) -> Ids:
    """The ids of what is mixed along some axes, which get length 1."""
    ids = v.ids(0)
    count = np.prod([v.shape(0)[a] for a in axes if ids.shape[a] > 1])
    return v.gather(ids, axes, f"mixes all {count} channels")


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(v: Visit) -> None:
    """Normalizes over one axis (before opset 13: over all from `axis` on)."""
    rank = len(v.shape(0))
    axis = v.attr("axis", -1 if v.graph.opset >= 13 else 1) % rank
    v.set(mix(v, {axis} if v.graph.opset >= 13 else set(range(axis, rank))))


@rule("ArgMax", "ArgMin")
def argmax(v: Visit) -> None:
    """Says which channel is largest: none may go."""
    v.freeze_all("compares them all")
    v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
