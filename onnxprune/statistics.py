"""Second moments of what layers read, computed while data streams through the model.

onnxruntime gathers sampled rows inside the graph (appended Reshape and Gather nodes, on whatever provider it has). The
host adds their products up in float64, about a fixed shift that keeps the float32 products of a batch exact enough.
Memory depends on the width of the layers, not on the number of samples. As long as there are fewer rows than columns
they are kept themselves, which takes less memory and time than their products. The sampled places are drawn anew for
every batch, the same for all channels. Sums merge exactly, so parts of the data can be kept apart (to judge on what
wasn't fitted) and joined later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper
from scipy.linalg.blas import dger, dsymm, ssyrk

from onnxprune.assembly import open_ended
from onnxprune.correlation import square, symmetric
from onnxprune.files import Model
from onnxprune.graph import Array, Graph, Shape
from onnxprune.ops.linear import Linear
from onnxprune.runtime import Runtime

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
Sized = dict[tuple[tuple[str, Shape], ...], Mapping[str, Shape]]  # sizes of the inputs -> shapes of all values
POSITIONS = 10  # output positions per sample and map, at least


class Products:
    """Σxxᵀ [N, N] of float32 rows x; `rows` are these themselves as long as there are at most N, then None."""

    def __init__(self, size: int, rows: Array | None = None, upper: Float | None = None) -> None:
        self.size, self.rows, self._upper = size, rows, upper

    def add(self, rows: Array) -> None:
        """Add rows [S, N]."""
        before, self.rows = self.rows, None
        if before is not None and len(before) + len(rows) <= self.size:
            self.rows = np.concatenate([before, rows])
        elif before is not None and self._upper is None and not len(before):
            self._upper = _products(rows)
            return
        elif before is not None and self._upper is None:
            self._upper = _products(before)
        if self._upper is not None:
            self._upper += ssyrk(1.0, rows.T, lower=1).T

    @property
    def upper(self) -> Float:
        """The upper triangle of the sum, row-major; what is below it means nothing."""
        if self._upper is None:
            assert self.rows is not None
            return _products(self.rows)
        return self._upper

    def __add__(self, other: Products) -> Products:
        """The sum over the rows of both."""
        joined = Products(self.size, self.rows)
        if other.rows is None:
            return Products(self.size, None, self.upper + other.upper)
        if joined.rows is None or len(joined.rows) + len(other.rows) > self.size:
            joined = Products(self.size, None, self.upper.copy())
        joined.add(other.rows)
        return joined

    def among(self, columns: Ints) -> Float:
        """The upper triangle for some columns, ascending ones: [n, n], row-major; the caller's own."""
        if self.rows is not None:
            return _products(self.rows if len(columns) == self.size else np.ascontiguousarray(self.rows[:, columns]))
        return self.upper.copy() if len(columns) == self.size else square(self.upper, columns)

    def times(self, weights: Float, columns: slice) -> Float:
        """The sum for some columns, times weights [n, o]."""
        if self.rows is not None:
            rows = self.rows[:, columns]
            product: Float = (rows.T @ (rows @ weights.astype(np.float32))).astype(np.float64)
            return product
        found: Float = dsymm(1.0, self.upper[columns, columns].T, weights, lower=1)
        return found

    def powers(self, weights: Float, columns: slice) -> Float:
        """Sum of squares of what weights [n, o] make of some columns, [o]."""
        if self.rows is not None:
            made = self.rows[:, columns] @ weights.astype(np.float32)
            return np.asarray(np.square(made).sum(0, dtype=np.float64))
        powers: Float = np.einsum("no,no->o", weights, self.times(weights, columns))
        return powers

    @property
    def diagonal(self) -> Float:
        """Sums of squares of the columns, [N]."""
        if self.rows is not None:
            return np.asarray(np.square(self.rows).sum(0, dtype=np.float64))
        return np.diagonal(self.upper)


def _products(rows: Array) -> Float:
    """The upper triangle of rowsᵀ rows, row-major."""
    return np.asarray(ssyrk(1.0, rows.T, lower=1).T, np.float64)


@dataclass
class Moments:
    """Sums over rows x [N] and targets y [o], both about a fixed shift: count, Σx, Σxxᵀ, Σy, Σxyᵀ, Σ‖y‖²."""

    shift: Array
    target_shift: Array
    count: int = 0

    def __post_init__(self) -> None:
        n, o = len(self.shift), len(self.target_shift)
        self.total, self.products = np.zeros(n), Products(n, np.zeros((0, n), np.float32))
        self.target_total, self.cross, self.power = np.zeros(o), np.zeros((n, o)), np.zeros(o)

    @property
    def square(self) -> Float:
        """Σxxᵀ [N, N], of which only the upper triangle counts."""
        return self.products.upper

    @classmethod
    def starting_with(cls, x: Array, y: Array | None = None) -> Moments:
        """Empty sums about the mean of the first rows (about 0 if there are none), which keeps the sums small."""
        targets = np.zeros((1, 0), np.float32) if y is None else y
        return cls(*(rows.sum(0, dtype=np.float64).astype(np.float32) / max(len(rows), 1) for rows in (x, targets)))

    def add(self, x: Array, y: Array | None = None) -> None:
        """Add rows x [S, N] and, where targets are kept, y [S, o]; float32 products, float64 sums."""
        rows = np.subtract(x, self.shift, dtype=np.float32)
        self.count += len(x)
        self.total += rows.sum(0, dtype=np.float64)
        self.products.add(rows)
        if y is not None:
            self._add_targets(rows, y)

    def _add_targets(self, rows: Array, y: Array) -> None:
        targets = np.subtract(y, self.target_shift, dtype=np.float32)
        self.target_total += targets.sum(0, dtype=np.float64)
        self.cross += rows.T @ targets
        self.power += np.square(targets).sum(0, dtype=np.float64)

    def retargeted(self, pairs: Iterable[tuple[Array, Array]]) -> Moments:
        """The same rows with other targets: only the sums that contain y are made anew."""
        new = Moments(self.shift, self.target_shift, self.count)
        new.total, new.products = self.total, self.products
        for x, y in pairs:
            new._add_targets(np.subtract(x, self.shift, dtype=np.float32), y)
        return new

    def mixed(self, matrix: Float) -> Moments:
        """The same rows, each multiplied from the right by a matrix [N, N]."""
        new = Moments(self.shift @ matrix, self.target_shift, self.count)
        new.total = self.total @ matrix
        new.products = Products(len(matrix), None, matrix.T @ symmetric(self.square) @ matrix)
        new.target_total, new.cross, new.power = self.target_total, matrix.T @ self.cross, self.power
        return new

    def __add__(self, other: Moments) -> Moments:
        """The sums over both parts; where targets are kept, these must have the same shifts."""
        other = other._about(self.shift)
        merged = Moments(self.shift, self.target_shift, self.count + other.count)
        for name in ("total", "products", "target_total", "cross", "power"):
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        return merged

    def _about(self, shift: Array) -> Moments:
        """The same sums about another shift of x."""
        if np.array_equal(shift, self.shift):
            return self
        d = self.shift.astype(np.float64) - shift
        new = Moments(shift, self.target_shift, self.count)
        new.total = self.total + self.count * d
        moved = self.square + np.outer(d, self.total) + np.outer(new.total, d)
        new.products = Products(len(d), None, moved)
        new.target_total, new.power = self.target_total, self.power
        new.cross = self.cross + np.outer(d, self.target_total)
        return new

    @property
    def mean(self) -> Float:
        """Mean of x."""
        return self.shift + self.total / max(self.count, 1)

    @property
    def target_mean(self) -> Float:
        """Mean of y."""
        return self.target_shift + self.target_total / max(self.count, 1)

    def gram_about(self, mean: Float) -> Float:
        """E[(x−m)(x−m)ᵀ], [N, N]."""
        return symmetric(self.upper_about(mean, np.arange(len(self.total))))

    def upper_about(self, mean: Float, columns: Ints) -> Float:
        """Its upper triangle for some columns of x, ascending ones: [n, n]; what is below it means nothing."""
        if not len(columns):
            return np.zeros((0, 0))  # which BLAS doesn't take
        count = max(self.count, 1)
        gram = self.products.among(columns)
        gram /= count
        d = (mean - self.shift)[columns]
        u = self.total[columns] / count - d / 2
        for one, other in ((u, d), (d, u)):
            dger(-1.0, one, other, a=gram.T, overwrite_a=1)
        return gram

    def cross_about(self, mean: Float, target_mean: Float) -> Float:
        """E[(x−m)(y−m')ᵀ], [N, o]."""
        count = max(self.count, 1)
        d, e = mean - self.shift, target_mean - self.target_shift
        cross = self.cross - np.outer(self.total, e) - np.outer(d, self.target_total) + count * np.outer(d, e)
        return cross / count

    def power_about(self, target_mean: Float) -> Float:
        """E[(y−m')²] per target, [o]."""
        count = max(self.count, 1)
        e = target_mean - self.target_shift
        return (self.power - 2 * e * self.target_total + count * e**2) / count

    def about(self, mean: Float, target_mean: Float) -> tuple[Float, Float, Float]:
        """Per row: E[(x−m)(x−m)ᵀ], E[(x−m)(y−m')ᵀ] and E[(y−m')²] per target, about given means."""
        return self.gram_about(mean), self.cross_about(mean, target_mean), self.power_about(target_mean)

    def variance(self, weights: Float, rows: slice) -> Float:
        """Variance of x·w for some rows of x and weights [n, o], per column [o]: no matrix of all rows is made."""
        count = max(self.count, 1)
        spread: Float = self.products.powers(weights, rows) / count - np.square(self.total[rows] @ weights / count)
        return spread

    def own_cross(self, weights: Float, rows: slice) -> Float:
        """Covariance of some rows of x with x·w for weights [n, o] of theirs, [n, o]: no matrix of all rows is made."""
        count = max(self.count, 1)
        mean = self.total[rows] / count
        covariance: Float = self.products.times(weights, rows) / count - np.outer(mean, mean @ weights)
        return covariance

    def rows_about(self, mean: Float) -> Array | None:
        """All x − m, float32 [count, N], if they are few enough to be kept."""
        rows = self.products.rows
        return None if rows is None else rows - (mean - self.shift).astype(np.float32)

    @property
    def variances(self) -> Float:
        """Of x, [N]."""
        count = max(self.count, 1)
        found: Float = np.maximum(self.products.diagonal / count - np.square(self.total / count), 0.0)
        return found

    def columns(self, chosen: NDArray[np.int64]) -> Moments:
        """The same rows with only some of the targets."""
        if not len(self.target_shift):
            return self
        new = Moments.__new__(Moments)
        new.__dict__.update(self.__dict__)
        new.target_shift, new.target_total = self.target_shift[chosen], self.target_total[chosen]
        new.cross, new.power = self.cross[:, chosen], self.power[chosen]
        return new

    def centred(self) -> tuple[Float, Float, Float]:
        """Covariances about the own means."""
        return self.about(self.mean, self.target_mean)


def parted(batches: Iterable[tuple[Array, Array]], split: int) -> list[Moments]:
    """Moments of the rows and targets of the batches before the split and, if there are any, of those behind it."""
    parts: list[Moments] = []
    for number, (x, y) in enumerate(batches):
        if number in (0, split):
            parts.append(Moments(parts[0].shift, parts[0].target_shift) if parts else Moments.starting_with(x, y))
        parts[-1].add(x, y)
    return parts


def positions_wanted(linear: Linear, samples: int, batch: int, maps: int) -> int:
    """How many output positions become rows in a batch of all samples: 8 rows per column, and 10 per sample, at least.

    For a convolution it is the number of those that all `maps` of a batch share: a sample's frames, or its boxes.
    """
    each = max(POSITIONS, -(-8 * linear.size // max(samples * linear.repeats, 1))) * batch
    return -(-each // max(maps, 1)) if linear.window else each


def gathered_bytes(graph: Graph, linear: Linear, samples: int) -> int:
    """What the rows gathered of one sample take, of so many samples in all."""
    x = graph.shapes[linear.input]
    places = min(linear.count(x, linear.output_shape(x)), positions_wanted(linear, samples, 1, x[0]))
    return 4 * places * linear.channels * linear.taps * (x[0] if linear.window else 1)


def moments_bytes(graph: Graph, linear: Linear, parts: Sequence[int]) -> int:
    """What the moments of parts of so many samples take: products, or rows as long as these are no more."""
    gathered, square = gathered_bytes(graph, linear, sum(parts)), linear.size**2
    return sum(n * gathered if n * gathered <= 4 * square else 8 * square for n in parts)


def draw(rng: np.random.Generator, available: int, wanted: int) -> NDArray[np.int64]:
    """Different positions in ascending order; all of them where there aren't more."""
    if available <= wanted:
        return np.arange(available)
    return np.sort(rng.choice(available, wanted, replace=False))


def gathering(graph: Graph, linears: Sequence[Linear]) -> ModelProto:
    """A model with nodes that gather, for every layer, the inputs at flat places `<key>/index` into `<key>/rows`.

    Inputs of which data decide how many rows there are come out whole: nobody knows before where to look.
    """
    model = open_ended(graph)
    for linear in linears:
        if linear.input not in graph.uncounted:
            _gather(graph, model.graph, linear)
    for name in dict.fromkeys(linear.input for linear in linears if linear.input in graph.uncounted):
        model.graph.output.append(helper.make_tensor_value_info(name, graph.types[name], None))
    return model


def _gather(graph: Graph, body: GraphProto, linear: Linear) -> None:
    """Append the nodes that gather one layer's rows: from the last axis of an input that is made flat in front."""
    rows, index, flat, shape, last = (f"{linear.key}/{part}" for part in ("rows", "index", "flat", "shape", "last"))
    x = linear.input
    order = linear.order(len(graph.shapes[x]))
    if not linear.window and order != sorted(order):
        body.node.append(helper.make_node("Transpose", [x], [last], perm=order))
        x = last
    sizes = [0, linear.channels, -1] if linear.window else [-1, linear.channels]
    body.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [len(sizes)], sizes))
    body.input.append(helper.make_tensor_value_info(index, TensorProto.INT64, [None]))
    body.node.append(helper.make_node("Reshape", [x, shape], [flat]))
    body.node.append(helper.make_node("Gather", [flat, index], [rows], axis=2 if linear.window else 0))
    body.output.append(helper.make_tensor_value_info(rows, graph.types[linear.input], None))


def collect(
    graph: Graph,
    linears: Sequence[Linear],
    parts: Sequence[Iterable[Mapping[str, Array]]],
    samples: int,
    runtime: Runtime,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
    *,
    tied: Mapping[str, str] | None = None,
) -> dict[str, list[Moments]]:
    """Moments of the input of every layer, kept apart for each part of the data: layer key -> one per part.

    `samples` is the number of all samples, from which the number of places per sample follows. Rows of layers that are
    `tied` count under the key that it gives for theirs.
    """
    session = runtime.session(Model(gathering(graph, linears), graph.arrays))
    names = {linear.key: linear.key for linear in linears} | dict(tied or {})
    found: dict[str, list[Moments]] = {name: [] for name in names.values()}
    rng, known, whole = np.random.default_rng(seed), Sized(), graph.uncounted
    for part, feeds in enumerate(parts):
        for feed in feeds:
            shapes, count = sized(graph, feed, known), len(next(iter(feed.values())))
            places = {x.key: _places(rng, x, shapes[x.input], samples, count) for x in linears if x.input not in whole}
            values = session.run({**feed, **{f"{name}/index": index.ravel() for name, (index, _) in places.items()}})
            for linear in linears:
                if linear.input in whole:
                    index, inside = _places(rng, linear, values[linear.input].shape, samples, count)
                    gathered = linear.gather(values[linear.input], index)
                else:
                    inside, gathered = places[linear.key][1], values.pop(f"{linear.key}/rows")
                rows = linear.stacked(linear.rows(gathered, inside).astype(np.float32, copy=False))
                moments = found[names[linear.key]]
                while len(moments) <= part:
                    moments.append(
                        Moments(moments[0].shift, moments[0].target_shift) if moments else Moments.starting_with(rows)
                    )
                moments[part].add(rows)
            progress(count)
    return found


def _places(
    rng: np.random.Generator, linear: Linear, x: Shape, samples: int, count: int
) -> tuple[Ints, NDArray[np.bool_]]:
    """Where a layer reads an input of shape x, of `count` samples, at output positions drawn at random."""
    y = linear.output_shape(x)
    return linear.reads(x, y, draw(rng, linear.count(x, y), positions_wanted(linear, samples, count, x[0])))


def sized(graph: Graph, feed: Mapping[str, Array], known: Sized) -> Mapping[str, Shape]:
    """Shapes of all values for inputs of the sizes of `feed`; `known` remembers what was inferred."""
    shapes = tuple(sorted((name, tuple(value.shape)) for name, value in feed.items()))
    if shapes not in known:
        known[shapes] = graph.shapes_for(dict(shapes))
    return known[shapes]
