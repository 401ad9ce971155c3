"""A layer as a matrix product: Y = X W + b, with X the rows that the layer reads at its output positions.

For a convolution a row is the patch under one output position, channel-major: column c * taps + t holds channel c at
kernel tap t. So a channel of the input owns `taps` consecutive rows of W. Gemm and MatMul are the case of one tap, and
so is what an LSTM makes of its input before its gates take over.
Constant per-channel operations behind the layer (BatchNormalization, a bias Add, a scale) are its *tail*: they are
folded into W and b, and drop out of the written model where W is written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph import Array, Graph, Shape, key
from onnxprune.ops.registry import find

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
FLOATS = {"float16", "bfloat16", "float32", "float64"}


@dataclass(frozen=True)
class Window:
    """Geometry of a (transposed) convolution over any number of spatial axes."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape  # begins, then ends
    auto_pad: str = "NOTSET"
    transposed: bool = False
    output_padding: Shape = ()

    def taps(self) -> int:
        """Number of kernel taps."""
        return prod(self.kernel)

    def begins(self, extent: Shape) -> Shape:
        """Padding before the first element of each spatial axis of an input of this extent."""
        if self.auto_pad in ("NOTSET", ""):
            return self.pads[: len(self.kernel)]
        if self.auto_pad == "VALID":
            return (0,) * len(self.kernel)
        totals = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(extent, self.kernel, self.strides, self.dilations, strict=True)
        ]
        return tuple(t // 2 if self.auto_pad == "SAME_UPPER" else t - t // 2 for t in totals)

    def out_extent(self, extent: Shape) -> Shape:
        """Size of each spatial axis of the output for an input of this extent."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        if self.auto_pad.startswith("SAME"):
            return tuple(-(-n // s) for n, s in zip(extent, self.strides, strict=True))
        pads = self.pads if self.auto_pad != "VALID" else (0,) * 2 * len(self.kernel)
        totals = [a + b for a, b in zip(pads[: len(reach)], pads[len(reach) :], strict=True)]
        if self.transposed:
            extra = self.output_padding or (0,) * len(reach)
            sizes = zip(extent, self.strides, reach, totals, extra, strict=True)
            return tuple((n - 1) * s + r - t + e for n, s, r, t, e in sizes)
        return tuple((n + t - r) // s + 1 for n, s, r, t in zip(extent, self.strides, reach, totals, strict=True))

    def reads(self, extent: Shape, out_extent: Shape, positions: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Flat input index under each (output position, tap), and whether it lies inside the input: both [P, taps]."""
        begins = self.begins(extent)
        places = np.unravel_index(positions, out_extent)
        taps = np.unravel_index(np.arange(self.taps()), self.kernel)
        index = np.zeros((len(positions), self.taps()), np.int64)
        inside = np.ones(index.shape, bool)
        for axis, n in enumerate(extent):
            stride, reach = self.strides[axis], taps[axis] * self.dilations[axis]
            if self.transposed:
                numerator = places[axis][:, None] + begins[axis] - reach
                at = numerator // stride
                inside &= numerator % stride == 0
            else:
                at = places[axis][:, None] * stride + reach - begins[axis]
            inside &= (at >= 0) & (at < n)
            index = index * n + at
        return np.where(inside, index, 0), inside


Tensors = Callable[["Linear"], tuple[Float, Float]]


def by_rows(linear: Linear) -> tuple[Float, Float]:
    """The weight as [N, o], the bias as [o]."""
    return linear.matrix[0], linear.offset


def by_columns(linear: Linear) -> tuple[Float, Float]:
    """The weight as [o, N], the bias as [o]."""
    return linear.matrix[0].T, linear.offset


def by_taps(linear: Linear) -> tuple[Float, Float]:
    """The weight of a (transposed) convolution, the bias as [channels]."""
    assert linear.window is not None
    groups, n, o = linear.matrix.shape
    kernel, taps = linear.window.kernel, linear.taps
    split = linear.matrix.reshape(groups, n // taps, taps, o)
    if linear.window.transposed:
        return split.transpose(0, 1, 3, 2).reshape(groups * (n // taps), o, *kernel), linear.offset
    return split.transpose(0, 3, 1, 2).reshape(groups * o, n // taps, *kernel), linear.offset


@dataclass(frozen=True)
class Linear:
    """One linear layer with its tail folded in. matrix [conv_group, N, o] and offset [conv_group * o] are float64.

    `axis` and `out_axis` hold the channels of input and output. `output` is empty where X W + b is no value of the
    graph, because the node goes on computing with it. `weight_at` and `bias_at` are the node's inputs for the
    constants `weight` and `bias`, which `tensors` makes of the matrix and the offset; a node that takes no bias
    (`bias_at` 0) gets an Add behind it. `beside` [conv_group * o] is what else the bias tensor holds, if anything.
    `loops` marks what a recurrent node makes of its own channels.
    """

    index: int
    key: str
    input: str
    output: str
    weight: str
    bias: str
    matrix: Float
    offset: Float
    window: Window | None = None
    tail: tuple[int, ...] = ()
    axis: int = -1
    out_axis: int = -1
    weight_at: int = 1
    bias_at: int = 2
    tensors: Tensors = by_rows
    beside: Float | None = None
    loops: bool = False

    @property
    def conv_group(self) -> int:
        """Number of convolution groups (Conv's attribute `group`)."""
        return int(self.matrix.shape[0])

    @property
    def taps(self) -> int:
        """Rows of the matrix that one input channel owns."""
        return self.window.taps() if self.window else 1

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return self.conv_group * int(self.matrix.shape[1]) // self.taps

    def cut(self, inputs: NDArray[np.bool_], outputs: NDArray[np.bool_]) -> Linear:
        """The layer on kept input and output channels, of which each convolution group has equally many.

        The columns may be several times the output channels, one after the other, as for the gates of an LSTM.
        """
        rows = np.repeat(inputs, self.taps).reshape(self.conv_group, -1)
        kept = np.tile(outputs, len(self.offset) // len(outputs))
        columns = kept.reshape(self.conv_group, -1)
        blocks = [block[r][:, c] for block, r, c in zip(self.matrix, rows, columns, strict=True)]
        beside = None if self.beside is None else self.beside[kept]
        return replace(self, matrix=np.stack(blocks), offset=self.offset[kept], beside=beside)

    def extents(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        """Sizes of the axes over which the layer is repeated, for an input and an output of these shapes.

        For a convolution these are the spatial axes, the places that all samples share; else all but the channels.
        """
        if self.window:
            return x[2:], y[2:]
        rest = x[: self.axis % len(x)] + x[self.axis % len(x) + 1 :]
        return rest, rest

    def reads(self, x: Shape, y: Shape, positions: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Where output `positions` read the input of shape x, flat over its repeated axes: [P, taps] each."""
        extent, out_extent = self.extents(x, y)
        if self.window:
            return self.window.reads(extent, out_extent, positions)
        return positions[:, None], np.ones((len(positions), 1), bool)

    def output_shape(self, x: Shape) -> Shape:
        """Shape of the output for an input of shape x."""
        if self.window:
            return (x[0], len(self.offset), *self.window.out_extent(tuple(x[2:])))
        rest, _ = self.extents(x, x)
        place = self.out_axis % len(x)
        return (*rest[:place], len(self.offset), *rest[place:])

    def count(self, x: Shape, y: Shape) -> int:
        """Number of output positions: those of each sample for a convolution, else all."""
        return prod(self.extents(x, y)[1])

    def rows(self, gathered: Array, inside: NDArray[np.bool_]) -> Array:
        """Rows [samples * P, channels * taps] from what `gather` took; places outside the input become zero."""
        if not self.window:
            return gathered
        positions, taps = inside.shape
        b, c, _ = gathered.shape
        patches = gathered.reshape(b, c, positions, taps)
        if not inside.all():
            patches = patches * inside.astype(patches.dtype)
        return np.ascontiguousarray(patches.transpose(0, 2, 1, 3)).reshape(b * positions, c * taps)

    def gather(self, x: Array, index: Ints) -> Array:
        """The elements of x at flat places `index` [P, taps], on all channels: what the appended nodes compute."""
        if self.window:
            return x.reshape(*x.shape[:2], -1)[:, :, index.ravel()]
        return np.moveaxis(x, self.axis, -1).reshape(-1, self.channels)[index.ravel()]

    def sample(self, x: Array, y: Shape, positions: Ints) -> Array:
        """Rows that the layer reads at the output positions."""
        index, inside = self.reads(x.shape, y, positions)
        return self.rows(self.gather(x, index), inside)

    def outputs(self, y: Array, positions: Ints) -> Array:
        """Rows [samples * P, channels] of a value of the output's shape at the output positions."""
        if self.window:
            flat = y.reshape(*y.shape[:2], -1)[:, :, positions]
            return np.ascontiguousarray(flat.transpose(0, 2, 1)).reshape(-1, y.shape[1])
        return np.moveaxis(y, self.out_axis, -1).reshape(-1, y.shape[self.out_axis])[positions]

    def apply(self, rows: Array, matrix: Float | None = None, offset: Float | None = None) -> Array:
        """Y = X W + b on rows [S, channels * taps], with the layer's own weights or others of their shapes."""
        matrix = self.matrix if matrix is None else matrix
        offset = self.offset if offset is None else offset
        groups, n, o = matrix.shape
        out: Array = np.empty((len(rows), groups * o), rows.dtype)
        for g in range(groups):
            np.matmul(rows[:, g * n : (g + 1) * n], matrix[g].astype(rows.dtype), out=out[:, g * o : (g + 1) * o])
        out += offset.astype(rows.dtype)
        return out


def floating(array: Array) -> bool:
    """Whether an array is of a floating-point type that a layer's weights may have."""
    return array.dtype.name in FLOATS


def fold_tail(graph: Graph, linear: Linear) -> Linear:
    """The layer together with all constant per-channel operations that alone read its output."""
    while linear.output not in graph.outputs and len(graph.consumers.get(linear.output, ())) == 1:
        index = graph.consumers[linear.output][0]
        node = graph.nodes[index]
        known = find(node)
        position = list(node.input).index(linear.output) if linear.output in node.input else -1
        if known is None or known.affine is None or position < 0 or list(node.input).count(linear.output) != 1:
            break
        rank, width = len(graph.shapes[linear.output]), len(linear.offset)
        found = known.affine(graph, node, position, linear.out_axis % rank, rank)
        if found is None or graph.shapes.get(key(node)) != graph.shapes[linear.output]:
            break
        scale, shift = (np.broadcast_to(np.asarray(v, np.float64), (width,)) for v in found)
        columns = scale.reshape(linear.conv_group, 1, -1)
        linear = replace(
            linear,
            output=key(node),
            tail=(*linear.tail, index),
            matrix=linear.matrix * columns,
            offset=linear.offset * scale + shift,
        )
    return linear


def per_channel(value: Array, axis: int, rank: int) -> Float | None:
    """A constant operand as one number per channel (or one for all); None if it varies along another axis."""
    shape: Sequence[int] = (1,) * (rank - value.ndim) + value.shape
    if value.ndim > rank or any(n != 1 for a, n in enumerate(shape) if a != axis):
        return None
    return value.astype(np.float64).ravel()


def loop(graph: Graph, index: int) -> Linear | None:
    """How the node reads its own channels of the step before as a linear layer, or None if it doesn't."""
    known = find(graph.nodes[index])
    found: Linear | None = known.loop(graph, index) if known is not None and known.loop is not None else None
    return found if found is not None and found.input in graph.shapes else None


def describe(graph: Graph, index: int) -> Linear | None:
    """The node as a linear layer with its tail, or None when it isn't one (or reads weights computed at run time)."""
    known = find(graph.nodes[index])
    if known is None or known.linear is None or key(graph.nodes[index]) not in graph.shapes:
        return None
    linear = known.linear(graph, index)
    return fold_tail(graph, linear) if linear is not None else None
