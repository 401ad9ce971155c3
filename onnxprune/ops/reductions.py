"""Operators that mix elements along some axes and leave the others apart: pooling, reductions, softmax."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import helper

from onnxprune.assembly import copied
from onnxprune.contrib import DOMAIN
from onnxprune.graph import Graph, key
from onnxprune.ids import Ids
from onnxprune.ops.elementwise import calculated
from onnxprune.ops.registry import Cut, View, Visit, rule


@rule("MaxPool", "AveragePool", "LpPool")
def pool(v: Visit) -> None:
    """Mixes the spatial axes, channel by channel. MaxPool's indices (output 1) count places over all channels."""
    v.set_channels(v.channels(0, 1))


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(v: Visit) -> None:
    """As `pool`, over all places."""
    mix(v, set(range(2, len(v.shape(0)))))
    pool(v)


def shrink_mean(cut: Cut) -> None:
    """Of channels that go, the mean takes zeros in: it is that of the others, times the share that they are."""
    x, axes = cut.node.input[0], reduced(cut.view)
    kept, shape = cut.kept(x), cut.shape(x)
    share = prod(kept[axis] / shape[axis] for axis in axes or ())
    if share < 1:
        mean = copied(cut.node)
        mean.output[0] = cut.fresh(f"{cut.node.output[0]}_of_those_left")
        cut.before.append(mean)
        dtype = helper.tensor_dtype_to_np_dtype(cut.graph.types[x])
        factor = cut.constant(np.asarray(share, dtype), f"{x}_share")
        name = cut.fresh(f"{mean.output[0]}_scaled")
        cut.node.CopyFrom(helper.make_node("Mul", [mean.output[0], factor], [cut.node.output[0]], name))


@rule("ReduceMean", shrink=shrink_mean)
@rule("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
@rule("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
def reduce(v: Visit) -> None:
    """Mixes `axes`; of sizes it makes a number that is calculated from them.

    Sums and means read channels like layers, where they aren't parts of a normalization or a softmax.
    """
    if (number := calculated(v)) is not None:
        v.set(number.max().reshape((1,) * len(v.out_shape())))
        return
    ids, axes = v.ids(0), reduced(v)
    if axes is None:
        v.freeze_all("mixes axes that are known only at run time")
        return
    along = [axis for axis, n in enumerate(ids.shape) if n > 1]
    adds_up = v.node.op_type in ("ReduceMean", "ReduceSum") and not normalizes(v)
    if adds_up and len(along) == 1 and axes.issuperset(along):
        v.contracted(0, along[0])
        v.notes.totals.add(v.index)
        mixed = np.zeros((1,) * ids.ndim, np.int64)
    else:
        mixed = mix(v, axes)
    v.set(mixed.reshape([n for a, n in enumerate(mixed.shape) if a not in axes or v.attr("keepdims", 1)]))


def reduced(v: View) -> set[int] | None:
    """The axes over which a node reduces its input; None if they are known only at run time."""
    axes, rank = v.value(1) if v.has(1) else v.attr("axes"), len(v.shape(0))
    if axes is None and v.has(1):
        return None
    if axes is None or not len(axes):
        return set() if v.attr("noop_with_empty_axes", 0) else set(range(rank))
    return {int(a) % rank for a in axes}


def normalizes(v: View) -> bool:
    """Whether this is of squares or exponentials, or is subtracted from what it is of: parts of a normalization."""
    x, readers = v.name(0), v.graph.consumers.get(key(v.node), [])
    centres = any(v.graph.nodes[i].op_type == "Sub" and x in v.graph.nodes[i].input for i in readers)
    return centres or normalized_by(v.graph, x)


def normalized_by(graph: Graph, name: str) -> bool:
    """Whether a value is a square or an exponential of another."""
    node = graph.nodes[graph.producer[name]] if name in graph.producer else None
    if node is None or node.op_type == "Cast":
        return node is not None and normalized_by(graph, node.input[0])
    if node.op_type == "Pow":
        return node.input[1] in graph.static and bool((graph.array(node.input[1]) == 2).all())
    return node.op_type == "Exp" or (node.op_type == "Mul" and node.input[0] == node.input[1])


def mix(v: Visit, axes: set[int]) -> Ids:
    """The ids of what is mixed along some axes, which get length 1."""
    ids = v.ids(0)
    return v.gather(ids, axes, f"mixes all {np.count_nonzero(np.unique(ids))} channels")


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(v: Visit) -> None:
    """Normalizes over one axis (before opset 13: over all from `axis` on)."""
    rank = len(v.shape(0))
    axis = v.attr("axis", -1 if v.graph.opset >= 13 else 1) % rank
    v.set(mix(v, {axis} if v.graph.opset >= 13 else set(range(axis, rank))))


@rule("LpNormalization")
def lp_normalization(v: Visit) -> None:
    """Divides by the norm along one axis."""
    v.set(mix(v, {v.attr("axis", -1) % len(v.shape(0))}))


@rule("MeanVarianceNormalization")
def mean_variance(v: Visit) -> None:
    """Normalizes over the batch and space, or over the axes that it names."""
    v.set(mix(v, {axis % len(v.shape(0)) for axis in v.attr("axes", [0, 2, 3])}))


@rule("CumSum", "CumProd")
def accumulate(v: Visit) -> None:
    """Every element along one axis takes in those before it."""
    axis = v.value(1)
    if axis is None or not v.fixed(1):
        v.freeze_all("accumulates along an axis that is known only at run time")
    else:
        v.set(mix(v, {int(axis.ravel()[0]) % len(v.shape(0))}))


@rule("Trilu")
@rule("Trilu", domain=DOMAIN)
def triangle(v: Visit) -> None:
    """Zeroes the elements on one side of a diagonal of the last two axes."""
    rank = len(v.shape(0))
    v.set(v.gather(v.ids(0), {rank - 2, rank - 1}, "zeroes a triangle of them"))


@rule("ArgMax", "ArgMin")
def argmax(v: Visit) -> None:
    """Says where the largest element along an axis is, for each place along the others."""
    axis = v.attr("axis", 0) % len(v.shape(0))
    ids = v.gather(v.ids(0), {axis}, "compares them all")
    v.set(ids.reshape([n for a, n in enumerate(ids.shape) if a != axis or v.attr("keepdims", 1)]))
