"""What feeds a model: samples from any source, preprocessed, cast, and checked against the model's inputs.

A sample is a row of a chunk (see `sources`); `Samples` reads chunks on demand and makes feeds of their rows.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune import sources
from onnxprune.errors import DataError, UsageError
from onnxprune.sources import LABELS, Array, Chunk, Feed, Input, Picture, Size, kind, show

__all__ = ["LABELS", "PLAIN", "Input", "Preprocessing", "Samples", "load", "load_labelled", "sidecar", "synthetic"]

CASTS = {"float": ("float", "int", "bool"), "int": ("int", "bool"), "bool": ("bool", "int"), "string": ("string",)}


@dataclass(frozen=True)
class Preprocessing:
    """How pixels (0 to 255) become a tensor.

    With `mean` or `std`: (x/255 − mean)/std when none of their values exceeds 1.5, else (x − mean)/std; with
    neither, image files are divided by 255 and uint8 arrays just cast. Integer inputs always get raw pixels.
    `layout` is the model's, "auto" reads it off the input's shape. `resize` None stretches image files to the
    declared height and width, (h, w) stretches to that, an int is the length of the shorter side before a
    central crop. `mirror` has each sample followed by a copy that is mirrored along the width.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str = "auto"
    resize: int | Size | None = None
    mirror: bool = False

    def __post_init__(self) -> None:
        sides = (self.resize,) if isinstance(self.resize, int) else self.resize or ()
        if self.layout not in ("auto", "nchw", "nhwc"):
            raise UsageError(f"unknown layout '{self.layout}': choose auto, nchw or nhwc")
        if any(side < 1 for side in sides):
            raise UsageError(f"can't resize images to {self.resize}: sizes start at 1")
        if not all(0 < s < math.inf for s in self.std or ()) or not all(map(math.isfinite, self.mean or ())):
            raise UsageError(f"mean {self.mean} and std {self.std}: give finite numbers, and a positive std")

    @property
    def normalises(self) -> bool:
        """Whether a mean or a standard deviation is given."""
        return self.mean is not None or self.std is not None

    def normalised(self, pixels: Array) -> Array:
        """Pixels (..., channels) by the given mean and standard deviation, as float32."""
        mean, std = np.array(self.mean or (0,), np.float32), np.array(self.std or (1,), np.float32)
        scale = np.float32(255 if max(mean.max(), std.max()) <= 1.5 else 1)
        return np.asarray((pixels / scale - mean) / std)

    def tensors(self, pixels: Array, item: Input, picture: Picture) -> Array:
        """uint8 pixels (..., h, w, c) or (..., c, h, w) as the input takes them; what isn't an image as it is."""
        before, after = (pixels.ndim > 3 and pixels.shape[axis] == picture.channels for axis in (-3, -1))
        if not before and not after:
            return pixels
        if before and (picture.first or not after):
            pixels = np.moveaxis(pixels, -3, -1)
        if self.resize is not None:
            images = pixels.reshape(-1, *pixels.shape[-3:])
            stack = np.stack([sources.resized(image, self.resize, picture.size) for image in images])
            pixels = stack.reshape(*pixels.shape[:-3], *stack.shape[1:])
        if any(len(values) not in (1, picture.channels) for values in (self.mean, self.std) if values is not None):
            raise DataError(f"mean {self.mean} and std {self.std} need {picture.channels} values (or 1) for {item}")
        if self.normalises and kind(item.dtype) == "float":
            pixels = self.normalised(pixels)
        return np.moveaxis(pixels, -1, -3) if picture.first else pixels


PLAIN = Preprocessing()


@dataclass(frozen=True)
class Samples:
    """A random-access collection of samples, read and preprocessed when they are asked for; can be pickled.

    `origin` is "given" or "synthetic". If not `batchable`, a feed holds one sample: the model's batch is fixed, or
    samples differ in shape or in what isn't per sample. `places` (n, 2) are chunks and rows, each followed by its
    mirror image if `plan` says so. If not `split`, a chunk is one sample.
    """

    origin: str
    batchable: bool
    inputs: tuple[Input, ...] = field(repr=False)
    plan: Preprocessing = field(repr=False)
    chunks: tuple[Chunk, ...] = field(repr=False, compare=False)
    places: NDArray[np.int64] = field(repr=False, compare=False)
    split: bool = field(default=True, repr=False)

    @property
    def count(self) -> int:
        """The number of samples, mirrored ones included."""
        return len(self.places) * (1 + self.plan.mirror)

    def feed(self, indices: Sequence[int]) -> Feed:
        """The samples joined along axis 0, by input name; what isn't per sample is passed as it is.

        Raises DataError on a sample that can't be read or doesn't fit, and on several if not `batchable`.
        """
        if len(indices) != 1 and not self.batchable:
            raise DataError(f"these samples must be fed one at a time, not {len(indices)}: use batches of 1")
        numbers, mirrored = np.divmod(list(indices), 1 + self.plan.mirror)
        wanted = np.column_stack([self.places[numbers], mirrored]).tolist()
        tensors: dict[str, list[Array]] = {item.name: [] for item in self.inputs}
        for chunk, group in groupby(wanted, key=lambda place: place[0]):
            _, rows, flips = zip(*group, strict=True)
            for column in _columns(self.chunks[chunk], self.inputs, self.plan, self.split):
                tensors[column.item.name] += column.tensors(rows, flips)
        joined = {item.name for item in self.inputs if item.joinable and len(indices) > 1}
        return {name: np.concatenate(found) if name in joined else found[0] for name, found in tensors.items()}

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Feed]:
        """Feeds of `size` samples, in order; the last may have fewer, and each has one if not `batchable`."""
        size = size if self.batchable else 1
        for start in range(0, len(indices), size):
            yield self.feed(indices[start : start + size])


def load(
    source: Any,
    inputs: Sequence[Input],
    *,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    seed: int = 0,
    shapes: sources.Shapes | None = None,
) -> Samples:
    """Samples from a path (`.npz`, `.npy`, a folder of these or of images), `file.py:object`, or an object.

    An object is a dict of arrays, an array, a CalibrationDataReader, an iterable of dicts, or a callable that
    returns one of these. `samples` limits how many are used: random ones by `seed`, but the first of readers
    and iterables (which are held in memory, so give a limit if they are endless). `shapes` give the size of
    images where the model doesn't. Raises DataError on what can't feed `inputs`.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"can't use {samples} samples: give at least 1")
    if preprocessing.mirror and not any(item.picture(preprocessing.layout) for item in inputs):
        raise DataError(f"only images can be mirrored, not {', '.join(map(str, inputs))}: drop the mirroring")
    sized = sources.pinned(inputs, shapes or {})
    if not isinstance(source, str | os.PathLike):
        found = _from_object(source, "the calibration data", inputs, preprocessing, samples)
    elif ".py:" in str(source):
        with sources.script(str(source)) as given:
            found = _from_object(given, str(source), inputs, preprocessing, samples)
    elif Path(source).is_dir():
        found = _from_folder(Path(source), inputs, sized, preprocessing)
    else:
        found = _survey([sources.from_file(Path(source), inputs)], inputs, preprocessing, only=True)
    if samples is None or samples >= len(found.places):
        return found
    return replace(found, places=np.random.default_rng(seed).choice(found.places, samples, replace=False))


def load_labelled(
    path: str | os.PathLike[str], inputs: Sequence[Input], *, preprocessing: Preprocessing = PLAIN
) -> tuple[Samples, NDArray[np.int64]]:
    """Samples, never mirrored, and their labels from an `.npz` with `y` or `labels`.

    Labels are int64 (count,), or (count, batch) for a model of a fixed batch. Raises DataError as `load`
    does, and on labels that aren't class numbers.
    """
    key, labels = sources.read_labels(Path(path), inputs)
    source = f"{path}: array '{key}' ({labels.dtype.name} {show(labels.shape)})"
    samples = load(path, inputs, preprocessing=replace(preprocessing, mirror=False))
    if kind(labels.dtype) not in CASTS["float"] or not np.array_equal(labels, np.trunc(labels)):
        raise DataError(f"{source} must hold class numbers: give one integer per sample")
    batch = max((item.rows for item in inputs), default=0)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim == 1 and batch > 1 and len(flat) // batch == samples.count:
        flat = flat[: samples.count * batch].reshape(samples.count, batch)
    elif flat.shape != (samples.count,):
        raise DataError(f"{source} must have one label for each of the {samples.count} samples")
    return samples, flat.astype(np.int64)


def sidecar(model_path: str | os.PathLike[str]) -> Path | None:
    """The data beside a model (`a/b.calib.npz` for `a/b.onnx`), None when there is none."""
    path = Path(model_path).with_suffix(".calib.npz")
    return path if path.is_file() else None


def synthetic(inputs: Sequence[Input], *, count: int, seed: int = 0, shapes: sources.Shapes | None = None) -> Samples:
    """`count` made-up samples: normal floats, 0 or 1 for integers; drawn from `seed` when they are asked for.

    Symbolic sizes come from `shapes`; else a batch is 1, an image 224 × 224, and anything else 16. What
    isn't per sample is the same in all samples. Raises DataError on an input that can't be made up.
    """
    if count < 1:
        raise UsageError(f"can't make up {count} samples: give at least 1")
    sized = sources.filled(sources.pinned(inputs, shapes or {}))
    batchable = sources.joins(inputs)
    chunks = [Chunk("synthetic data", partial(_made_up, sized, batchable, seed, n)) for n in range(count)]
    return replace(_survey_alike(chunks, sized, PLAIN), origin="synthetic", batchable=batchable)


def _from_object(given: Any, where: str, inputs: Sequence[Input], plan: Preprocessing, limit: int | None) -> Samples:
    """Arrays, or a reader or iterable of feeds (read now), or a callable that returns one of these."""
    if isinstance(given, type) or (callable(given) and not hasattr(given, "get_next")):
        with sources.foreign(where):
            given = given()
    given = {"arr_0": given} if isinstance(given, np.ndarray) else given
    if isinstance(given, Mapping):
        return _survey([sources.held(given, inputs, where)], inputs, plan, only=True)
    return _survey(sources.feeds(given, inputs, where), inputs, plan, limit=limit)


def _from_folder(folder: Path, inputs: Sequence[Input], sized: Sequence[Input], plan: Preprocessing) -> Samples:
    """All images, `.npy` or `.npz` below a folder; images are a sample each, and `sized` says of what size."""
    what, files = sources.in_folder(folder)
    if what != "images":
        return _survey([Chunk(str(file), partial(sources.read, file, inputs)) for file in files], inputs, plan)
    picture = sized[0].picture(plan.layout) if len(sized) == 1 else None
    if picture is None:
        raise DataError(f"{folder} holds images, but the model takes {', '.join(map(str, inputs))}: give an .npz")
    plan = replace(plan, resize=plan.resize or picture.size, std=plan.std if plan.normalises else (1.0,))
    if plan.resize is None and len({sources.image_size(file) for file in files}) > 1:
        raise DataError(f"the images in {folder} differ in size, and the model takes any: choose one with --resize")
    chunks = [Chunk(str(file), partial(sources.read_image, file, picture.channels)) for file in files]
    return _survey_alike(chunks, sized, plan)


def _survey(
    chunks: Iterable[Chunk], inputs: Sequence[Input], plan: Preprocessing, only: bool = False, limit: int | None = None
) -> Samples:
    """The first `limit` samples of chunks; if one can't be split, each is a sample (an `only` one: a DataError)."""
    looks, total = [], 0
    for chunk in chunks:
        looks.append((chunk, *_look(chunk, inputs, plan)))
        total += looks[-1][1] or 1
        if limit is not None and total >= limit:
            break
    read, counts, needs = zip(*looks, strict=True)
    split = all(counts)
    if only and not split:
        raise DataError(f"{read[0].where} has arrays of different numbers of samples: make them agree")
    if not split:
        counts = tuple(_look(chunk, inputs, plan, split=False)[0] for chunk in read)
    alike = split and None not in needs[0] and all(need == needs[0] for need in needs)
    return Samples("given", alike and sources.joins(inputs), tuple(inputs), plan, read, _places(counts)[:limit], split)


def _survey_alike(chunks: Sequence[Chunk], inputs: Sequence[Input], plan: Preprocessing) -> Samples:
    """A sample of each chunk; all are like the first, and only that is read now."""
    return replace(_survey(chunks[:1], inputs, plan), chunks=tuple(chunks), places=_places([1] * len(chunks)))


def _places(counts: Sequence[int]) -> NDArray[np.int64]:
    """The chunk and the row of every sample."""
    return np.column_stack([np.repeat(np.arange(len(counts)), counts), np.concatenate([*map(np.arange, counts)])])


def _look(chunk: Chunk, inputs: Sequence[Input], plan: Preprocessing, split: bool = True) -> tuple[int, list[object]]:
    """How many samples a chunk holds (0: its arrays disagree), and what must be equal to join them to others.

    That is the shape of a sample; for what isn't per sample its values too, None if they differ in the chunk.
    """
    columns = list(_columns(chunk, inputs, plan, split))
    counts = {len(c.table) for c in columns if c.item.joinable} or {max([len(c.table) for c in columns], default=1)}
    if 0 in counts:
        raise DataError(f"{chunk.where} holds no samples: give at least one")
    if len(counts | {len(c.table) for c in columns} - {1}) > 1:
        return 0, []
    needs: list[object] = []
    for column in columns:
        if not isinstance(column.table, np.memmap):
            _check_finite(column.table, column.source)
        first, shared = column.tensors([0], [0])[0], len(column.table) == 1
        needs.append(first.shape if column.item.joinable else (first.shape, first.tobytes()) if shared else None)
    return counts.pop(), needs


@dataclass(frozen=True)
class _Column:
    """The samples of one input in a chunk: rows of `table`, one if all share it, pixels if there is a `plan`."""

    item: Input
    one: Input
    source: str
    table: Array
    picture: Picture | None
    plan: Preprocessing | None

    def tensors(self, rows: Sequence[int], flips: Sequence[int]) -> list[Array]:
        """Samples as the model takes them, what isn't per sample only once. Raises DataError if they don't fit."""
        taken = len(rows) if self.item.joinable else 1
        values = self.table[[row if len(self.table) > 1 else 0 for row in rows[:taken]]]
        if self.plan and self.picture:
            values = self.plan.tensors(values, self.item, self.picture)
        if not self.one.fits(values.shape[1:]):
            raise DataError(f"{self.source} doesn't fit {self.item}: give data of that shape")
        values, flipped = _cast(values, self.item, self.source), np.array(flips[:taken], bool)
        if self.picture and flipped.any():
            values[flipped] = np.flip(values[flipped], -1 if self.picture.first else -2)
        return [values[n, ...] for n in range(taken)]


def _columns(chunk: Chunk, inputs: Sequence[Input], plan: Preprocessing, split: bool) -> Iterator[_Column]:
    """The chunk's array for each input, its rows as samples if `split`, else all of it as one. Raises DataError."""
    for item, (key, array) in zip(inputs, chunk.read().items(), strict=True):
        source = f"{chunk.where}: array '{key}' ({array.dtype.name} {show(array.shape)})"
        picture, uint8 = item.picture(plan.layout), array.dtype == np.uint8
        if kind(array.dtype) not in CASTS.get(kind(item.dtype), ()):
            raise DataError(f"{source} can't be fed to {item}: convert it to {item.dtype.name}")
        if picture and plan.normalises and not uint8:
            raise DataError(f"{source} isn't uint8 pixels: drop the mean and std, or give images as uint8")
        pixels = picture is not None and uint8 and replace(plan, mirror=False) != PLAIN
        one = replace(item, shape=(1, *item.shape[1:])) if item.shape and item.joinable and split else item
        table = _table(array, item, pixels) if split else array[None]
        yield _Column(item, one, source, table, picture, plan if pixels else None)


def _table(array: Array, item: Input, pixels: bool) -> Array:
    """A view of `array` with samples along a new axis 0."""
    rank = array.ndim if item.shape is None else len(item.shape)
    rows = 0 if pixels and rank == 3 else item.rows
    if array.ndim == rank + 1:
        return array
    if rows and array.ndim == rank > 0 and (len(array) >= rows or not len(array)):
        count = len(array) // rows
        return array[: count * rows].reshape(count, rows, *array.shape[1:])
    return array[None, None] if rows == 1 and array.ndim == rank - 1 else array[None]


def _cast(values: Array, item: Input, source: str) -> Array:
    """A copy of `values` in the input's dtype. Raises DataError on numbers out of range, infinite or NaN."""
    with np.errstate(all="ignore"):
        cast = np.array(values, item.dtype, order="C")
    _check_finite(cast, source)
    if kind(item.dtype) in ("int", "bool") and not np.array_equal(cast, values):
        raise DataError(f"{source} has values outside the range of {item}: rescale or convert it")
    return cast


def _check_finite(values: Array, source: str) -> None:
    if kind(values.dtype) == "float" and not np.isfinite(values).all():
        raise DataError(f"{source} has NaN or infinite values for the model: clean the data")


def _made_up(inputs: Sequence[Input], batchable: bool, seed: int, number: int) -> Feed:
    """One sample: normal floats, 0 or 1 for integers (1 in masks), any pixels; what isn't per sample is number 0's."""
    feed: Feed = {}
    for k, item in enumerate(inputs):
        rng = np.random.default_rng((seed, k, number if item.joinable or not batchable else 0))
        shape = [d if isinstance(d, int) else 1 for d in item.shape or ()]
        if kind(item.dtype) not in ("float", "int", "bool"):
            raise DataError(f"{item} can't be made up: give calibration data")
        if kind(item.dtype) == "float":
            feed[item.name] = np.asarray(rng.standard_normal(shape, np.float32))
        elif item.dtype == np.uint8 and item.picture():
            feed[item.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            feed[item.name] = np.asarray(rng.integers("mask" in item.name.lower(), 2, shape))
    return feed
