"""Gathers that do nothing, but let what reads a value, or what writes it, do with some of its channels.

A Gather of all channels lets its reader choose: it picks fewer. A Pad by one channel of zeros in front and a Gather of
all channels but that one let what writes the value choose: zeros take the place of what it leaves out (see
`serialize`).
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Array, Graph, Shape, attributes, key
from onnxprune.ops.linear import Float, Linear
from onnxprune.ops.registry import View
from onnxprune.ops.window import Window


def everything(shape: Shape, axis: int, indices: Array | None, first: int = 0) -> bool:
    """Whether these are all places along an axis, from the first on, in their order."""
    return indices is not None and np.array_equal(indices, np.arange(first, shape[axis]))


def pads(v: View) -> tuple[list[int], list[int]] | None:
    """(begins, ends) per axis of a Pad node; None when they aren't known."""
    rank = len(v.shape(0))
    if v.graph.opset < 11:
        return list(v.attr("pads")[:rank]), list(v.attr("pads")[rank:])
    known = v.value(1)
    if known is None:
        return None
    given, axes = known.tolist(), v.value(3)
    if axes is None:
        return given[:rank], given[rank:]
    begins, ends = [0] * rank, [0] * rank
    for k, axis in enumerate(axes.tolist()):
        begins[axis], ends[axis] = given[k], given[len(given) // 2 + k]
    return begins, ends


def fills_up(graph: Graph, index: int) -> bool:
    """Whether a node is a Gather of all channels of a map but the first, which is a Pad's zeros.

    That does nothing, unless it is there to let what writes the map do with fewer: zeros can take any channel's place.
    """
    gather, maker = graph.nodes[index], graph.producer.get(graph.nodes[index].input[0])
    if maker is None or graph.nodes[maker].op_type != "Pad" or gather.input[1] not in graph.static:
        return False
    pad, rank = View(graph, graph.probes[0], maker), len(graph.shapes.get(gather.input[0], ()))
    found = pads(pad) if all(pad.fixed(i) for i in (1, 2, 3)) else None
    value = pad.value(2) if graph.opset >= 11 else pad.attr("value", 0.0)
    one = [int(axis == 1) for axis in range(rank)]
    return (
        found == (one, [0] * rank)
        and pad.attr("mode", "constant") == "constant"
        and not np.any(value if value is not None else 0)
        and attributes(gather).get("axis", 0) == 1
        and everything(graph.shapes[gather.input[0]], 1, graph.array(gather.input[1]), first=1)
    )


def filled(graph: Graph, name: str) -> str:
    """The value that one is filled up to, where that is all that is done with it; else the value itself."""
    found = name
    for operator in ("Pad", "Gather"):
        readers = graph.consumers.get(found, [])
        if found in graph.outputs or [graph.nodes[i].op_type for i in readers] != [operator]:
            return name
        found = key(graph.nodes[readers[0]])
    return found if fills_up(graph, readers[0]) else name


def by_index(linear: Linear) -> tuple[Float, Float]:
    """Where the input has each output's channel, the first place for those that it hasn't; the bias for maps."""
    assert linear.window is not None
    return (linear.matrix[0] > 0).argmax(0), linear.offset.reshape(-1, *linear.window.kernel)


def filling(graph: Graph, index: int) -> Linear | None:
    """A Gather that may fill up with zeros as a product with the identity, and an offset for what is left out."""
    if not fills_up(graph, index):
        return None
    node = graph.nodes[index]
    n, spatial = graph.shapes[key(node)][1], (1,) * (len(graph.shapes[key(node)]) - 2)
    return Linear(
        index, key(node), node.input[0], key(node), node.input[1], "", np.eye(n + 1, n, -1)[None], np.zeros(n),
        Window(spatial, spatial, spatial, (0, 0) * len(spatial)), axis=1, out_axis=1, bias_at=0, tensors=by_index,
        fixed=True,
    )  # fmt: skip
