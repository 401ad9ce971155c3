"""A layer as a matrix product: Y = X W + b, with X the rows that the layer reads at its output positions.

For a convolution a row is the patch under one output position, channel-major: column c * taps + t holds channel c at
kernel tap t. So a channel of the input owns `taps` consecutive rows of W. Gemm and MatMul are the case of one tap, and
so is what an LSTM makes of its input before its gates take over.
Constant per-channel operations behind the layer (BatchNormalization, a bias Add, a scale) are its *tail*: they are
folded into W and b, and drop out of the written model where W is written anew.

A layer is fitted at one of two granularities. At *tap level* every row of W is free: exact, and the Gram matrix is as
wide as W is high. At *channel level* one coefficient says how much of a removed channel a kept one takes over, at all
taps alike: x_removed ≈ Σ A x_kept for whole feature maps. The fit sees one row per tap and as many columns as there are
channels (`stacked`), and W' = A W tap by tap (GRAIL's form of REAP's mixing). It is for what is too wide otherwise,
like the layer behind the Flatten of a VGG.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune import files
from onnxprune.graph import Array, Graph, Shape, key
from onnxprune.ops.registry import find
from onnxprune.ops.window import Window

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
FLOATS = {"float16", "bfloat16", "float32", "float64"}
WIDEST = 8192  # rows of a Gram matrix up to which layers are refitted: it takes 8 N² bytes


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
    groups, n, o = linear.shape
    kernel, taps = linear.window.kernel, linear.taps
    split = linear.matrix.reshape(groups, n // taps, taps, o)
    if linear.window.transposed:
        return split.transpose(0, 1, 3, 2).reshape(groups * (n // taps), o, *kernel), linear.offset
    return split.transpose(0, 3, 1, 2).reshape(groups * o, n // taps, *kernel), linear.offset


@dataclass(frozen=True)
class Later:
    """A matrix that is made whenever it is asked for: those of all layers of a big model would take too much memory."""

    shape: Shape
    dtype: np.dtype[Any]
    make: Callable[[], Float]


@dataclass(frozen=True)
class Linear:
    """One linear layer with its tail folded in. matrix [conv_group, N, o] and offset [conv_group * o] are float64.

    (A big model's matrices are as precise as its weights, in float32 at least, and may be made `Later`.)
    `axis` and `out_axis` hold the channels of input and output. `output` is empty where X W + b is no value of the
    graph, because the node goes on computing with it. `weight_at` and `bias_at` are the node's inputs for the
    constants `weight` and `bias`, which `tensors` makes of the matrix and the offset; a node that takes no bias
    (`bias_at` 0) gets an Add behind it. `beside` [conv_group * o] is what else the bias tensor holds, if anything.
    `loops` marks what a recurrent node makes of its own channels. The columns are in `lanes` equal parts, each of which
    holds its part of the outputs so many times as there are gates; an input in lanes has these along `lane_axis`.
    `fixed` marks one that only puts channels in their places: a fit changes nothing but the offset. `shared` [m, t] are
    the rows of each of m channels that share one coefficient; None at tap level.
    """

    index: int
    key: str
    input: str
    output: str
    weight: str
    bias: str
    held: Float | Later
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
    lanes: int = 1
    lane_axis: int | None = None
    fixed: bool = False
    shared: Ints | None = None

    @property
    def matrix(self) -> Float:
        """The matrix [conv_group, N, o]."""
        return self.held.make() if isinstance(self.held, Later) else self.held

    def release(self) -> None:
        """Give back the memory that the pages of a mapped matrix take."""
        if not isinstance(self.held, Later):
            files.release(self.held)

    @property
    def made(self) -> Linear:
        """The layer with its matrix at hand, to be asked for it again and again."""
        return replace(self, held=self.matrix) if isinstance(self.held, Later) else self

    @property
    def shape(self) -> Shape:
        """The shape of the matrix."""
        return self.held.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the matrix's numbers are: float64 but for big models."""
        return self.held.dtype

    @property
    def conv_group(self) -> int:
        """Number of convolution groups (Conv's attribute `group`)."""
        return int(self.shape[0])

    @property
    def taps(self) -> int:
        """Rows of the matrix that one input channel owns."""
        return self.window.taps() if self.window else 1

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return self.conv_group * int(self.shape[1]) // self.taps

    @property
    def size(self) -> int:
        """Number of unknowns per output: the order of the Gram matrix."""
        return self.channels * self.taps if self.shared is None else len(self.shared)

    @property
    def refittable(self) -> bool:
        """Whether the Gram matrix of what the layer reads is small enough to solve with."""
        return self.size <= WIDEST

    @property
    def repeats(self) -> int:
        """Rows of the fit that one row of the layer makes."""
        return 1 if self.shared is None else self.shared.shape[1]

    def stacked(self, rows: Array) -> Array:
        """The rows as the fit sees them: [S * t, m] at channel level."""
        if self.shared is None:
            return rows
        return np.ascontiguousarray(rows[:, self.shared.T]).reshape(-1, len(self.shared))

    def unstacked(self, mean: Float) -> Float:
        """Means [channels * taps] of the layer's rows, as far as those of the stacked ones tell."""
        if self.shared is None:
            return mean
        means = np.empty(self.channels * self.taps)
        means[self.shared] = mean[:, None]
        return means

    def seen(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Flags of the input channels as those of the fit's."""
        return flags if self.shared is None else np.repeat(flags, self.taps)[self.shared[:, 0]]

    @property
    def fit(self) -> Linear:
        """The layer that the fit sees: itself, or at channel level one of matrix S [m, m] with S Sᵀ = Σ W_t W_tᵀ.

        Its squared error on stacked rows is that of every tap's channels, read by the weights of all taps one by one.
        """
        return self if self.shared is None else self._fit

    @cached_property
    def _fit(self) -> Linear:
        assert self.shared is not None
        root = np.stack([(vectors * values) @ vectors.T for values, vectors in self._spectra])
        return Linear(self.index, self.key, "", "", "", "", root, np.zeros(len(self.shared)))

    @cached_property
    def _spectra(self) -> list[tuple[Float, Float]]:
        """Square roots of the eigenvalues of each group's Σ W_t W_tᵀ, and the eigenvectors."""
        found = []
        for matrix, rows in zip(self.matrix, self._tap_rows(), strict=True):
            values, vectors = np.linalg.eigh(sum(matrix[r] @ matrix[r].T for r in rows.T))
            found.append((np.sqrt(np.maximum(values, 0.0)), vectors))
        return found

    def _tap_rows(self) -> list[Ints]:
        """Rows [channels, t] of each group's matrix."""
        assert self.shared is not None
        n = self.shape[1]
        return [part - g * n for g, part in enumerate(np.split(self.shared, self.conv_group))]

    def spread(self, matrix: Float, offset: Float) -> tuple[Float, Float]:
        """Matrix and offset of the layer from those of `fit`."""
        if self.shared is None:
            return matrix, offset
        own, added = self.matrix, []
        wide = np.zeros_like(own)
        constants = np.split(offset, self.conv_group)
        for g, ((values, vectors), rows) in enumerate(zip(self._spectra, self._tap_rows(), strict=True)):
            inverse = np.divide(1.0, values, out=np.zeros_like(values), where=values > 1e-9 * values.max(initial=0.0))
            back = (vectors * inverse) @ vectors.T
            mixing = matrix[g] @ back
            for r in rows.T:
                wide[g][r] = mixing @ own[g][r]
            added.append((constants[g] @ back) @ sum(own[g][r] for r in rows.T))
        return wide, self.offset + np.concatenate(added)

    def cut(self, inputs: NDArray[np.bool_], outputs: NDArray[np.bool_]) -> Linear:
        """The layer on kept input and output channels; each group and each lane keeps equally many of them."""
        rows = np.repeat(inputs, self.taps).reshape(self.conv_group, -1)
        kept = np.tile(outputs.reshape(self.lanes, -1), len(self.offset) // len(outputs)).ravel()
        columns = kept.reshape(self.conv_group, -1)
        blocks = [block[r][:, c] for block, r, c in zip(self.matrix, rows, columns, strict=True)]
        beside = None if self.beside is None else self.beside[kept]
        return replace(self, held=np.stack(blocks), offset=self.offset[kept], beside=beside)

    def extents(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        """Sizes of the axes over which the layer is repeated, for an input and an output of these shapes.

        For a convolution these are the spatial axes, the places that all samples share; else all but the channels.
        """
        if self.window:
            return x[2:], y[2:]
        rest = tuple(x[a] for a in self.order(len(x))[: -len(self.axes)])
        return rest, rest

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that hold the input channels."""
        return (self.axis,) if self.lane_axis is None else (self.lane_axis, self.axis)

    def order(self, rank: int) -> list[int]:
        """All axes of an input, those that hold its channels last."""
        held = [a % rank for a in self.axes]
        return [a for a in range(rank) if a not in held] + held

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
            return x.reshape(*x.shape[:2], prod(x.shape[2:]))[:, :, index.ravel()]
        return x.transpose(self.order(x.ndim)).reshape(-1, self.channels)[index.ravel()]

    def sample(self, x: Array, y: Shape, positions: Ints) -> Array:
        """Rows that the layer reads at the output positions."""
        index, inside = self.reads(x.shape, y, positions)
        return self.rows(self.gather(x, index), inside)

    def outputs(self, y: Array, positions: Ints) -> Array:
        """Rows [samples * P, channels] of a value of the output's shape at the output positions."""
        if self.window:
            flat = y.reshape(*y.shape[:2], prod(y.shape[2:]))[:, :, positions]
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
        columns = scale.reshape(linear.conv_group, 1, -1).astype(linear.dtype)
        linear = replace(
            linear,
            output=key(node),
            tail=(*linear.tail, index),
            held=linear.matrix if (scale == 1).all() else linear.matrix * columns,
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

    def described() -> Linear | None:
        known = find(graph.nodes[index])
        found: Linear | None = known.loop(graph, index) if known is not None and known.loop is not None else None
        return found if found is not None and found.input in graph.shapes else None

    return _deferred(graph, described)


def share(linear: Linear, channels: Ints) -> Linear:
    """The layer at channel level, if `channels`, numbers of what its input channels belong to, allow it.

    The taps of a convolution share a coefficient, or the places of a map that was made flat: equally many of each.
    """
    if linear.taps > 1:
        return replace(linear, shared=np.arange(linear.channels * linear.taps).reshape(-1, linear.taps))
    _, counts = np.unique(channels, return_counts=True)
    alike = counts[0] > 1 and (counts == counts[0]).all() and (channels >= 0).all() and linear.conv_group == 1
    return replace(linear, shared=np.argsort(channels, kind="stable").reshape(-1, counts[0])) if alike else linear


def same(one: Linear, other: Linear) -> bool:
    """Whether two layers have the same matrix and offset."""
    return np.array_equal(one.matrix, other.matrix) and np.array_equal(one.offset, other.offset)


def describe(graph: Graph, index: int, *, tail: bool = True) -> Linear | None:
    """The node as a linear layer with its tail, or None when it isn't one (or reads weights computed at run time)."""

    def described() -> Linear | None:
        known = find(graph.nodes[index])
        if known is None or known.linear is None or key(graph.nodes[index]) not in graph.shapes:
            return None
        linear = known.linear(graph, index)
        return fold_tail(graph, linear) if linear is not None and tail else linear

    return _deferred(graph, described)


def _deferred(graph: Graph, describe: Callable[[], Linear | None]) -> Linear | None:
    """What is described; a matrix of a big model that isn't a view of its file is described anew when asked for."""
    linear = describe()
    if linear is None or not graph.big:
        return linear
    if linear.matrix.nbytes < files.LARGE or files.mapping(linear.matrix) is not None:
        return linear

    def make() -> Float:
        again = describe()
        assert again is not None
        return again.matrix

    return replace(linear, held=Later(linear.shape, linear.dtype, make))
