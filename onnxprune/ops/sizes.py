"""Operators that ask for the sizes of a value, or make a value from sizes."""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Graph, key
from onnxprune.ids import widen
from onnxprune.inference import evaluate
from onnxprune.ops.registry import Cut, View, Visit, always, rule


@rule("Shape", commutes=always)
def shape_of(v: Visit) -> None:
    """Each length along which channels vary is an id of its own: calculating with it freezes those channels.

    A list of sizes is as long as ever, whatever the sizes are.
    """
    ids = v.ids(0, lanes=True)
    if v.ledger.sizes(ids):
        ids = np.zeros((1,) * ids.ndim, np.int64)
    lengths = np.zeros(ids.ndim, np.int64)
    for axis, n in enumerate(ids.shape):
        if n > 1 and axis not in v.ledger.lane_axes(ids):
            lengths[axis] = v.ledger.fresh(("length", v.name(0), axis), 1)[0]
            v.ledger.measured(int(lengths[axis]), ids, axis)
    v.set(lengths[v.attr("start", 0) : v.attr("end", len(lengths))])


def moves_sizes(v: Visit, *moved: int) -> bool:
    """Whether these inputs are sizes, which the others move to places that are always the same; the ids move so."""
    made, inputs = v.probe.values.get(key(v.node)), [i for i in range(len(v.node.input)) if v.has(i)]
    if made is None or made.dtype != np.int64 or not all(i in moved or v.fixed(i) for i in inputs):
        return False
    given = {i: widen(v.ids(i), v.shape(i)) if i in moved else v.value(i) for i in inputs}
    v.set(evaluate(v.node, [given.get(i) for i in range(len(v.node.input))], v.graph.opset)[0])
    return True


@rule("Size")
def size_of(v: Visit) -> None:
    """A total over all axes."""
    v.freeze(v.ids(0), "counts all elements")


def always_stated(v: View, i: int) -> list[int]:
    """The axes along which the sizes in input i always say the same, where the others depend on the input."""
    stated = [sizes for probe in v.graph.probes if (sizes := probe.values.get(v.name(i))) is not None]
    if len(stated) < len(v.graph.probes) or v.fixed(i):
        return []
    same = np.all([sizes == stated[0] for sizes in stated], 0) & (stated[0] > 1)
    return (np.flatnonzero(same) + len(v.out_shape()) - len(same)).tolist()


BY_PLACES = {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization"}
THROUGH = {"Add", "Sub", "Mul", "Div", "Concat", "Split", "Slice", "Sigmoid", "Tanh", "Relu", "LeakyRelu", "Identity"}


def repeated_along(v: View, i: int | None = None) -> int | None:
    """The axis along which the places of a repeated number or constant are channels, if it can be told.

    It is the only one that sizes (input i) which depend on the input always state alike, or, of a constant, along which
    it has several elements. Where there are several, the first layer tells that reads it.
    """
    if i is None:
        rank = len(v.out_shape())
        axes = [axis - len(v.shape(0)) + rank for axis, n in enumerate(v.shape(0)) if n > 1]
    else:
        axes = always_stated(v, i)
    if len(axes) > 1:
        axes = [a for a in axes if a == read_along(v)]
    return axes[0] if axes else None


def read_along(v: View) -> int | None:
    """The axis of output 0 along which the first layer behind it has channels, if there is one that tells."""
    axis = _read_along(v.graph, v.node.output[0], set())
    return None if axis is None else axis + len(v.out_shape())


def _read_along(graph: Graph, name: str, seen: set[str]) -> int | None:
    """The axis (from the end) along which the first layer behind a value has channels, followed axis by axis."""
    for reader in graph.consumers.get(name, []) if name not in seen else []:
        node, rank = graph.nodes[reader], len(graph.shapes.get(name, ()))
        if node.op_type in BY_PLACES and node.input[0] == name:
            return 1 - rank
        if node.op_type in ("Gemm", "MatMul") and node.input[0] == name and node.input[1] in graph.static:
            return -1
        if node.op_type in THROUGH:
            seen.add(name)
            axis = _read_along(graph, key(node), seen)
            if axis is not None:
                return axis
    return None


def lower_sizes(cut: Cut, i: int) -> None:
    """Take what goes off the sizes in input i that always say the same; those that count channels follow anyway."""
    name, sizes = key(cut.node), cut.node.input[i]
    if cut.changes(name) and (same := always_stated(cut.view, i)) and not cut.restated(sizes):
        gone = np.zeros(len(cut.shape(name)), np.int64)
        gone[same] = np.subtract(cut.shape(name), cut.kept(name))[same]
        cut.lower_input(i, gone[-cut.shape(sizes)[0] :])


def shrink_filled(cut: Cut) -> None:
    """As many places as are kept."""
    lower_sizes(cut, 0)


@rule("ConstantOfShape", shrink=shrink_filled)
def filled(v: Visit) -> None:
    """Repeats a number. Along an axis whose size counts channels, each place belongs to one of these.

    Along an axis whose size is always the same there are channels, too, as of the class token of every image.
    """
    if not v.ids(0).any() and (axis := repeated_along(v, 0)) is not None:
        v.set_channels(v.ledger.fresh(("repeated", v.index), v.out_shape()[axis]), axis)
    elif not stretched(v, 0):
        made(v)


def stretched(v: Visit, i: int) -> bool:
    """Whether the sizes in input i, to which one number is repeated, count channels, which the places belong to then.

    Without any such sizes there are no channels; where there are others, nothing is set.
    """
    shape = v.out_shape()
    rows = {axis: v.ledger.rows.get(int(size)) for axis, size in enumerate(v.ids(i).ravel()) if size}
    known = {axis: found for axis, found in rows.items() if found is not None and len(found) == shape[axis]}
    if len(known) < len(rows) or len(rows) > 1:
        return False
    v.set(np.zeros((1,) * len(shape), np.int64))
    for axis, found in known.items():
        v.set_channels(v.unite(found, [1]).ravel(), axis)
    return True


@rule("RandomNormalLike", "RandomUniformLike")
def noise(v: Visit) -> None:
    """Draws a number for every element."""
    v.set(v.ids(0))


INDEXING = {"Cast", "Concat", "Expand", "Identity", "Reshape", "Unsqueeze"}


def indexes_alone(v: View, name: str, summed: bool = False) -> bool:
    """Whether a value only says, as it is, where ScatterND puts elements; of sums with others only the shape counts."""
    for reader in v.graph.consumers.get(name, []):
        node = v.graph.nodes[reader]
        place = list(node.input).index(name)
        if node.op_type == "Shape" or (node.op_type == "ScatterND" and place == 1 and not summed):
            continue
        onward = place == 0 or node.op_type in ("Add", "Concat")
        if node.op_type not in (*INDEXING, "Add") or not onward:
            return False
        if not indexes_alone(v, key(node), summed or node.op_type == "Add"):
            return False
    return name not in v.graph.outputs


@rule("Range")
def count_up(v: Visit) -> None:
    """Numbers from a start on. Those of all channels name these, if they are for that alone: fewer are as good."""
    start, step = v.value(0), v.value(2)
    size = v.ids(1).ravel()
    rows = v.ledger.rows.get(int(size[0])) if size.size == 1 else None
    plain = start is not None and step is not None and int(start) == 0 and int(step) == 1
    if rows is None or not plain or len(rows) != v.out_shape()[0] or not indexes_alone(v, key(v.node)):
        made(v)
        return
    v.set_channels(v.unite(rows, [1]).ravel(), 0)


@rule("RandomNormal", "RandomUniform", "EyeLike")
def made(v: Visit) -> None:
    """Makes a value from sizes: it has no channels, and sizes that are channels stay."""
    if any(v.ids(i).any() for i in range(len(v.node.input))):
        v.freeze_all("makes a value of this size")
    else:
        v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
