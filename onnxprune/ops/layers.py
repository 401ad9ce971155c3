"""Layers with weights: convolutions and matrix products."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from onnxprune.graph import Graph, attributes, key
from onnxprune.ids import Ids
from onnxprune.ops.attention import multiply
from onnxprune.ops.experts import chosen, multiply_by_chosen
from onnxprune.ops.linear import Float, Linear, by_columns, by_rows, by_taps, floating, per_channel
from onnxprune.ops.registry import Cut, View, Visit, always, rule
from onnxprune.ops.window import Window

ELSEWHERE = "works along another axis than that of the channels, which pass through"

# ---------------------------------------------------------------------------------------------- convolutions


def window(graph: Graph, node: NodeProto, transposed: bool) -> Window:
    """The geometry that a convolution's attributes and weight state."""
    a = attributes(node)
    kernel = tuple(graph.shapes[node.input[1]][2:])
    ones = (1,) * len(kernel)
    return Window(
        kernel,
        tuple(a.get("strides", ones)),
        tuple(a.get("dilations", ones)),
        tuple(a.get("pads", (0,) * 2 * len(kernel))),
        a.get("auto_pad", "NOTSET"),
        transposed,
        tuple(a.get("output_padding", ())),
        tuple(a.get("output_shape", ()))[-len(kernel) :],
    )


def conv_linear(graph: Graph, index: int) -> Linear | None:
    """Conv and ConvTranspose as matrix products, one per convolution group."""
    node = graph.nodes[index]
    transposed = node.op_type == "ConvTranspose"
    if node.input[1] not in graph.static or not floating(graph.array(node.input[1])):
        return None
    weight, groups = graph.numbers(node.input[1]), attributes(node).get("group", 1)
    taps = int(np.prod(weight.shape[2:]))
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], taps)
    inputs, outputs = (1, 2) if transposed else (2, 1)
    matrix = split.transpose(0, inputs, 3, outputs).reshape(groups, -1, split.shape[outputs])
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and bias not in graph.static:
        return None
    width = groups * matrix.shape[2]
    offset = graph.array(bias).astype(np.float64) if bias else np.zeros(width)
    names = node.input[0], key(node), node.input[1], bias
    geometry = window(graph, node, transposed)
    return Linear(index, key(node), *names, matrix, offset, geometry, axis=1, out_axis=1, tensors=by_taps)


def shrink_conv(cut: Cut) -> None:
    """Grouped weights lose rows and columns of the channels of each group, or whole groups, as depthwise ones do."""
    groups = cut.attrs.get("group", 1)
    inputs, outputs = cut.mask(cut.node.input[0], 1), cut.mask(key(cut.node), 1)
    if groups == 1 or (inputs.all() and outputs.all()):
        return
    whole = inputs.reshape(groups, -1)
    if (whole == whole[:, :1]).all() and not inputs.all():  # so for depthwise: the weight is cut like any other
        cut.set_attr("group", int(whole[:, 0].sum()))
        return
    weight = cut.graph.array(cut.node.input[1])
    split = weight.reshape(groups, -1, *weight.shape[1:])
    first, second = (inputs, outputs) if cut.node.op_type == "ConvTranspose" else (outputs, inputs)
    kept = zip(split, first.reshape(groups, -1), second.reshape(groups, -1), strict=True)
    cut.set_input(1, np.concatenate([block[rows][:, columns] for block, rows, columns in kept]), "cut")


def in_one_group(v: Visit) -> bool:
    """Whether every output channel reads all input channels."""
    return bool(v.attr("group", 1) == 1)


def weights_fixed(v: Visit, i: int = 1) -> bool:
    """Whether the weights, input i, are floating-point constants; if not, everything the node touches stays."""
    if not v.static(i):
        v.freeze_all("reads its weights from another node, not from a constant")
    elif not floating(v.graph.array(v.name(i))):
        v.freeze_all("has weights that aren't floating-point numbers")
    else:
        return True
    return False


@rule("Conv", "ConvTranspose", linear=conv_linear, shrink=shrink_conv, commutes=in_one_group)
def conv(v: Visit) -> None:
    """Contracts the channels of its input group by group, makes those of its output; depthwise filters pass through.

    So do heads that lie along the batch.
    """
    alike = all(n == 1 for n in v.ids(0).shape[2:]) or pointwise(v)
    if not weights_fixed(v) or (alike and passes(v, v.ids(0), 1, 1)):
        return
    x = v.channels(0, 1)
    y = filters(v, x, v.node.op_type == "ConvTranspose")
    v.notes.writers[v.index] = y
    if v.has(2):
        bias(v, 2, y)
    v.set_channels(y)


def pointwise(v: Visit) -> bool:
    """Whether a convolution treats every place in space by itself, and in the same way."""
    kernel = v.shape(1)[2:]
    plain = all(set(v.attr(name, [value])) == {value} for name, value in (("strides", 1), ("pads", 0)))
    return plain and set(kernel) == {1} and v.attr("group", 1) == 1 and not v.has(2)


@rule("DeformConv", shrink=shrink_conv)
def deform_conv(v: Visit) -> None:
    """As a convolution; the offsets of its kernel and their mask stay. Each set of offsets is one of equal parts."""
    if not weights_fixed(v):
        return
    x, parts = v.channels(0, 1), v.attr("offset_group", 1)
    if parts > 1:
        v.ledger.partition((v.index, "offsets"), x.reshape(parts, -1))
    y = v.notes.writers[v.index] = filters(v, x)
    if v.has(3):
        bias(v, 3, y)
    v.set_channels(y)


def filters(v: Visit, x: Ids, transposed: bool = False) -> Ids:
    """The channels that a convolution makes of x, from its weight [out, in / groups, ...] or [in, out / groups, ...].

    A depthwise filter goes with its channel. Groups of several channels keep equal numbers of inputs and of outputs, or
    go whole, if that turns out to be the only way; the second axis of their weight holds other channels in each group,
    so only the first one's are named.
    """
    groups = v.attr("group", 1)
    inputs, outputs = len(x) // groups, v.out_shape()[1] // groups
    if groups > 1 and inputs == 1:
        y = v.parameter(1, 0)
        v.tie(y.reshape(groups, -1), x[:, None])
        return np.repeat(y, outputs) if transposed else y
    if v.index in v.notes.whole:
        rows = v.parameter(1, 0).reshape(groups, -1)
        v.tie(rows, rows[:, :1])
        v.tie(x.reshape(groups, -1), rows[:, :1])
        return np.repeat(rows[:, 0], outputs)
    x = v.contracted(0, 1)
    if transposed or groups == 1:
        v.tie(x, v.parameter(1, 0 if transposed else 1, "reader"))
    if not transposed or groups == 1:
        y = v.parameter(1, 1 if transposed else 0, "writer")
    else:
        y = v.ledger.fresh(("output", v.index), groups * outputs)
    if groups > 1:
        v.notes.grouped[v.index] = x.reshape(groups, inputs), y.reshape(groups, outputs)
        for side, rows in zip(("in", "out"), v.notes.grouped[v.index], strict=True):
            v.ledger.partition((v.index, side), rows)
    return y


def bias(v: Visit, i: int, channels: Ids, axis: int = -1) -> None:
    """A bias, one element per channel along an axis (from the end); one that isn't constant keeps its channels."""
    if not v.static(i):
        v.freeze(channels, "reads its bias from another node")
    elif len(v.shape(i)) >= -axis and v.shape(i)[axis] == len(channels) > 1:
        v.tie(channels, v.parameter(i, len(v.shape(i)) + axis))


# ---------------------------------------------------------------------------------------------- matrix products


def operands(v: View) -> tuple[int, int, int, int]:
    """Of Gemm: which operand is the constant matrix, its axes that are read and written, the other's that is read."""
    weight = 1 if v.static(1) else 0
    x, (a, b) = 1 - weight, (v.attr("transA", 0), v.attr("transB", 0))
    inner = (0 if a else 1, 1 if b else 0)  # the axis of each operand that the product sums over
    return weight, inner[weight], 1 - inner[weight], inner[x]


def gemm_linear(graph: Graph, index: int) -> Linear | None:
    """Gemm as a matrix product, alpha and beta folded in."""
    v = View(graph, graph.probes[0], index)
    weight, read, write, axis = operands(v)
    if not v.static(weight) or not floating(graph.array(v.name(weight))):
        return None
    matrix = graph.numbers(v.name(weight)).transpose(read, write)
    if v.attr("alpha", 1.0) != 1:
        matrix = matrix * v.attr("alpha")
    offset = np.zeros(matrix.shape[1])
    if v.has(2):
        value = per_channel(graph.array(v.name(2)), weight, 2) if v.static(2) else None
        if value is None:
            return None
        offset = offset + value * v.attr("beta", 1.0)
    names = v.name(1 - weight), key(v.node), v.name(weight), v.name(2)
    plain = by_columns if read else by_rows
    tensors = plain if weight else lambda linear: (plain(linear)[0], linear.offset[:, None])
    return Linear(index, key(v.node), *names, matrix[None], offset,
                  axis=axis, out_axis=weight, weight_at=weight, tensors=tensors)  # fmt: skip


@rule("Gemm", linear=gemm_linear, commutes=always)
def gemm(v: Visit) -> None:
    """Contracts an axis of its input, makes the last axis of its output; the first where the matrix is on the left."""
    if not (v.static(0) or v.static(1) or v.has(2)):
        factors = [v.ids(i).T if v.attr(f"trans{'AB'[i]}", 0) else v.ids(i) for i in (0, 1)]
        v.set(multiply(v, *factors))
        return
    weight, read, write, axis = operands(v)
    if not weights_fixed(v, weight):
        return
    product(v, read, write, axis, weight)
    if v.has(2) and v.index in v.notes.writers:
        bias(v, 2, v.notes.writers[v.index], weight - 2)
    elif v.has(2):
        v.freeze(v.ids(1 - weight), "adds its bias across them")


def product(v: Visit, read: int, write: int, axis: int, weight: int = 1) -> None:
    """Gemm or MatMul by a constant matrix, input `weight`, that contracts `axis` of the other input."""
    out = max(len(v.out_shape()) - 2 + weight, 0)
    if passes(v, v.ids(1 - weight), axis, out):
        return
    v.tie(v.contracted(1 - weight, axis), v.parameter(weight, read, "reader"))
    y = v.notes.writers[v.index] = v.parameter(weight, write, "writer")
    v.set_channels(y, axis=out)


def passes(v: Visit, ids: Ids, axis: int, out: int) -> bool:
    """Whether channels vary along other axes than the one that a layer contracts, and so pass through it.

    The layer then mixes places, or what belongs to one head of attention, and makes no channels along `out`. Where none
    of those that would pass can go anyway, it does.
    """
    if all(n == 1 for a, n in enumerate(ids.shape) if a != axis):
        return False
    if v.index in v.notes.apart:
        if ids.shape[axis] == 1:
            v.ledger.freeze(ids, v.notes.apart[v.index])
        return False
    rank = len(v.out_shape())
    v.notes.refused[v.index] = f"{v} {ELSEWHERE}"
    v.notes.passing[v.index] = v.unite(ids, [axis])
    moved = np.moveaxis(v.notes.passing[v.index], axis, out - rank)
    v.set(moved.reshape((1,) * (rank - ids.ndim) + moved.shape))
    return True


def matmul_linear(graph: Graph, index: int) -> Linear | None:
    """MatMul by a constant matrix on either side."""
    v = View(graph, graph.probes[0], index)
    weight = 1 if v.static(1) else 0
    if not v.static(weight):
        return None
    array, rank = graph.array(v.name(weight)), len(graph.shapes.get(v.name(1 - weight), ()))
    if not floating(array) or not 2 <= array.ndim <= max(rank, 2) or np.prod(array.shape[:-2]) != 1:
        return None
    square: Float = graph.numbers(v.name(weight)).reshape(array.shape[array.ndim - 2 :])
    matrix, plain = (square, by_rows) if weight else (square.T, by_columns)
    shape = (1,) * (array.ndim - 2)

    def tensors(linear: Linear) -> tuple[Float, Float]:
        tensor, offset = plain(linear)
        return tensor.reshape(shape + tensor.shape), offset if weight or rank == 1 else offset[:, None]

    names, axis = (v.name(1 - weight), key(v.node), v.name(weight), ""), max(weight - 2, -rank)
    return Linear(index, key(v.node), *names, matrix[None], np.zeros(matrix.shape[1]),
                  axis=axis, out_axis=axis, weight_at=weight, bias_at=0, tensors=tensors)  # fmt: skip


@rule("MatMul", linear=matmul_linear, commutes=always)
def matmul(v: Visit) -> None:
    """By a constant matrix on the right: contracts the last axis, makes a new one; on the left: the last but one.

    The product of two activations is that of attention. A vector has one axis, whatever the side.
    """
    for i in (0, 1):
        if (maker := chosen(v, i)) is not None:
            multiply_by_chosen(v, i, maker)
            return
    if not v.static(0) and not v.static(1):
        v.set(multiply(v, v.ids(0), v.ids(1)))
        return
    weight, x = (1, 0) if v.static(1) else (0, 1)
    if not weights_fixed(v, weight):
        return
    shape, ids = v.shape(weight), v.ids(x)
    if len(shape) < 2:
        v.freeze_all("multiplies by a constant vector")
        return
    if np.prod(shape[:-2]) != 1 and stack(v, weight, x):
        return
    rows, columns = len(shape) - 2, len(shape) - 1
    read, write = (rows, columns) if weight else (columns, rows)
    product(v, read, write, max(ids.ndim - 2 + weight, 0), weight)


def stack(v: Visit, weight: int, x: int) -> bool:
    """Whether channels pass through the product with a stack of matrices, as through queries that are constants.

    Heads along an axis of the stack have a matrix each. Those that lie along the axis of the product that is x's own
    pass through. Where none of them can go anyway, or there are none, the product is a layer of as many members as
    there are matrices, which all have the same channels.
    """
    shape, rank, ids = v.shape(weight), len(v.out_shape()), v.ids(x)
    if ids.ndim < 2:
        v.freeze_all("multiplies by a stack of matrices")
        return True
    heads = [axis - ids.ndim for axis in range(ids.ndim - 2) if ids.shape[axis] > 1]
    passing, summed = (-2, -1) if weight else (-1, -2)
    if v.index in v.notes.apart or not (heads or ids.shape[passing] > 1):
        return False
    whole = v.unite(ids, (-2, -1) if heads else (summed,))
    each = [axis for axis in heads if -axis <= len(shape) and shape[axis] > 1]
    for axis in each:
        own = v.parameter(weight, len(shape) + axis)
        v.tie(whole, own.reshape([-1 if a - ids.ndim == axis else 1 for a in range(ids.ndim)]))
    if not each:
        v.notes.refused[v.index] = f"{v} {ELSEWHERE}"
    v.notes.passing[v.index] = whole
    v.set(whole.reshape((1,) * (rank - ids.ndim) + whole.shape))
    return True
