"""What feeds a model: arrays, folders of images or arrays, any calibration reader, or made-up inputs.

Every source becomes a list of chunks, read on demand (an `.npz`, one image, one feed of a reader), and a
sample is a row of a chunk. `Samples` makes feeds of rows: preprocessed, cast, checked against the inputs.
"""

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError, UsageError

Array = NDArray[Any]
Feed = dict[str, Array]
Shape = tuple[int | str | None, ...]
Size = tuple[int, int]
Shapes = Mapping[str, tuple[int, ...]]

ALIASES = ("x", "images", "image", "input", "arr_0")
LABELS = ("y", "labels", "label")
SUFFIXES = dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".webp"), "images") | {
    ".npy": ".npy",
    ".npz": ".npz",
}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
KINDS = {"bfloat": "float", "float": "float", "int": "int", "uint": "int", "bool": "bool", "str": "string"}
CASTS = {
    "float": ("float", "int", "bool"),
    "int": ("int", "bool"),
    "bool": ("bool", "int"),
    "string": ("string",),
}


# ---- What a model takes


@dataclass(frozen=True)
class Input:
    """One graph input as declared; a size that is a str or None is symbolic, no shape is an unknown rank."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape | None

    @property
    def joinable(self) -> bool:
        """Whether axis 0 is a batch of any size: symbolic, and no other axis is the one called batch."""
        if self.shape is None:
            return True
        named = ["batch" in str(dim).lower() for dim in self.shape]
        return bool(named) and not isinstance(self.shape[0], int) and (named[0] or not any(named))

    @property
    def rows(self) -> int:
        """How many rows of axis 0 one sample takes; 0 when axis 0 does not count samples."""
        first = self.shape[0] if self.shape else 0
        return 1 if self.joinable else first if isinstance(first, int) else 0

    def __str__(self) -> str:
        return f"input '{self.name}' ({self.dtype.name} {_show(self.shape)})"


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


PLAIN = Preprocessing()


@dataclass(frozen=True)
class _Picture:
    """How an input holds images: channels, (height, width) or None for any, channels before or after them."""

    channels: int
    size: Size | None
    first: bool


def _picture(item: Input, layout: str = "auto") -> _Picture | None:
    """How `item` holds images, None if it doesn't: it needs an axis of 1, 3, 4 or any number of channels."""
    if item.shape is None or len(item.shape) not in (3, 4) or (len(item.shape) == 3 and item.joinable):
        return None
    before, after = item.shape[-3], item.shape[-1]
    fits = before in MODES or (after not in MODES and not isinstance(before, int))
    first = layout == "nchw" or (layout == "auto" and fits)
    height, width = item.shape[-2:] if first else item.shape[-3:-1]
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    channels = before if first else after
    channels = channels if isinstance(channels, int) else 3
    return _Picture(channels, size, first) if channels in MODES else None


def _show(shape: Sequence[object] | None) -> str:
    return "of any shape" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _kind(dtype: np.dtype[Any]) -> str:
    """Float, int, bool, string or something else; told by the name, so that bfloat16 and int4 count too."""
    if dtype == np.object_:
        return "string"
    return next((kind for prefix, kind in KINDS.items() if dtype.name.startswith(prefix)), dtype.name)


# ---- Chunks: where arrays come from, read whenever they are asked for


@dataclass(frozen=True)
class _Memory:
    where: str
    arrays: Mapping[str, Array]

    def read(self) -> Mapping[str, Array]:
        return self.arrays


@dataclass(frozen=True)
class _ArrayFile:
    """An `.npy` (mapped into memory), or the arrays of an `.npz` that feed `inputs` (None: all of them)."""

    where: Path
    inputs: tuple[Input, ...] | None = None

    def read(self) -> Mapping[str, Array]:
        with _readable(self.where), self.where.open("rb") as stream:
            if stream.peek(6)[:6] == b"\x93NUMPY":
                return {"arr_0": np.load(self.where, mmap_mode="r", allow_pickle=False)}
            with np.load(stream, allow_pickle=False) as loaded:
                names = loaded.files if self.inputs is None else _keys(loaded.files, self.inputs, self.where)
                return {name: loaded[name] for name in names}


@dataclass(frozen=True)
class _ImageFile:
    """One image: {"image": uint8 (1, height, width, channels)}."""

    where: Path
    channels: int

    def size(self) -> Size:
        """Width and height, from the header alone."""
        with _readable(self.where), _pillow().open(self.where) as image:
            width, height = image.size
            return width, height

    def read(self) -> Mapping[str, Array]:
        with _readable(self.where), _pillow().open(self.where) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{self.where} has more than 8 bits per channel: store such images as .npy")
            pixels = np.asarray(image.convert(MODES[self.channels]))
            return {"image": pixels.reshape(1, *pixels.shape[:2], self.channels)}


@dataclass(frozen=True)
class _Draw:
    """Made-up arrays: normal floats, 0 or 1 for integers (only 1 in masks), any pixels for uint8 images."""

    inputs: tuple[Input, ...]
    seeds: tuple[tuple[int, ...], ...]
    where: str = "synthetic data"

    def read(self) -> Mapping[str, Array]:
        return {item.name: self._drawn(item, seed) for item, seed in zip(self.inputs, self.seeds, strict=True)}

    def _drawn(self, item: Input, seed: tuple[int, ...]) -> Array:
        rng, shape = np.random.default_rng(seed), [d if isinstance(d, int) else 1 for d in item.shape or ()]
        if _kind(item.dtype) == "float":
            return np.asarray(rng.standard_normal(shape, np.float32))
        if _kind(item.dtype) not in ("int", "bool"):
            raise DataError(f"{item} can't be made up: give calibration data")
        if item.dtype == np.uint8 and _picture(item):
            return rng.integers(0, 256, shape, np.uint8)
        return np.asarray(rng.integers("mask" in item.name.lower(), 2, shape))


_Chunk = _Memory | _ArrayFile | _ImageFile | _Draw


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever reading `path` raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path of the data") from None
    except Exception as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise DataError(f"{path} holds an array of Python objects: save plain numbers instead") from error
        what = f"{path} can't be read ({type(error).__name__})"
        raise DataError(f"{what}: it is damaged, cut short or not what its name says") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: install onnxprune[images]") from None
    return Image


# ---- Columns: the samples of one input in a chunk


@dataclass(frozen=True)
class _Column:
    """`table[i]` is what sample i feeds to `item` once developed; all samples share a single row."""

    source: str
    item: Input
    table: Array
    declared: Shape | None
    picture: _Picture | None
    develop: Callable[[Array], Array]

    def tensor(self, row: int, mirrored: bool = False) -> Array:
        """One sample as the model takes it; DataError if it doesn't fit."""
        values = self.develop(self.table[row if len(self.table) > 1 else 0])
        if self.declared is not None and not _fits(values.shape, self.declared):
            raise DataError(f"{self.source} doesn't fit {self.item}: give data of that shape")
        if mirrored and self.picture:
            values = np.flip(values, -1 if self.picture.first else -2)
        return _cast(values, self.item, self.source)


def _columns(chunk: _Chunk, inputs: Sequence[Input], plan: Preprocessing, split: bool) -> list[_Column]:
    """The chunk's array for each input, its rows as samples if `split`, else all of it as one."""
    arrays, columns = chunk.read(), []
    for key, item in zip(_keys(list(arrays), inputs, chunk.where), inputs, strict=True):
        source = f"{chunk.where}: array '{key}' ({arrays[key].dtype.name} {_show(arrays[key].shape)})"
        columns.append(_column(arrays[key], item, plan, source, isinstance(chunk, _ImageFile), split))
    return columns


def _keys(names: Sequence[str], inputs: Sequence[Input], where: object) -> list[str]:
    """The array that feeds each input: the one of its name, or x, images, … when there is only one input."""
    missing = [item.name for item in inputs if item.name not in names]
    if not missing:
        return [item.name for item in inputs]
    if len(inputs) == 1 and (aliases := [alias for alias in ALIASES if alias in names]):
        return aliases[:1]
    held = f"{where} holds {', '.join(names) or 'no arrays'}"
    raise DataError(f"{held}, but the model takes {', '.join(missing)}: give one array per input, by its name")


def _column(array: Array, item: Input, plan: Preprocessing, source: str, image: bool, split: bool) -> _Column:
    """`array` as samples of `item`; DataError when the dtypes don't go together."""
    if _kind(array.dtype) not in CASTS.get(_kind(item.dtype), ()):
        raise DataError(f"{source} can't be fed to {item}: convert it to {item.dtype.name}")
    develop: Callable[[Array], Array] = np.asarray
    picture, rows = _picture(item, plan.layout), item.rows
    rank = array.ndim if item.shape is None else len(item.shape)
    if picture and (image or _is_pixels(array, plan, source)):
        develop = partial(_developed, item=item, picture=picture, plan=plan, image=image)
        array, rows = array if image else _channels_last(array, picture), rows if rank == 4 else 0
    table = _table(array, rank, rows) if split else array[None]
    declared = (1, *item.shape[1:]) if item.shape and item.joinable and split else item.shape
    return _Column(source, item, table, declared, picture, develop)


def _table(array: Array, rank: int, rows: int) -> Array:
    """A view of `array` with samples along a new axis 0, each of rank `rank` and with `rows` rows."""
    if array.ndim == rank + 1:
        return array
    if rows and array.ndim == rank > 0 and (len(array) >= rows or not len(array)):
        count = len(array) // rows
        return array[: count * rows].reshape(count, rows, *array.shape[1:])
    return array[None, None] if rows == 1 and array.ndim == rank - 1 else array[None]


def _is_pixels(array: Array, plan: Preprocessing, source: str) -> bool:
    """Whether an array is to be preprocessed as images are: uint8, and the user chose some preprocessing."""
    if plan.normalises and array.dtype != np.uint8:
        raise DataError(f"{source} isn't uint8 pixels: drop the mean and std, or give images as uint8")
    return array.dtype == np.uint8 and (plan.normalises or plan.resize is not None or plan.layout != "auto")


def _channels_last(array: Array, picture: _Picture) -> Array:
    """Images (..., h, w, c) from either layout; the model's own wins where the array could have both."""
    before = array.ndim >= 3 and array.shape[-3] == picture.channels
    after = array.ndim >= 3 and array.shape[-1] == picture.channels
    return np.moveaxis(array, -3, -1) if before and (picture.first or not after) else array


def _developed(pixels: Array, item: Input, picture: _Picture, plan: Preprocessing, image: bool) -> Array:
    """uint8 pixels (..., h, w, c) resized, normalised, and in the layout of `item`."""
    if pixels.ndim < 3 or pixels.shape[-1] != picture.channels:
        return pixels
    if image or plan.resize is not None:
        stack = [_resized(each, picture, plan.resize) for each in pixels.reshape(-1, *pixels.shape[-3:])]
        pixels = np.stack(stack).reshape(*pixels.shape[:-3], *stack[0].shape)
    if any(len(values) not in (1, picture.channels) for values in (plan.mean, plan.std) if values is not None):
        raise DataError(f"mean {plan.mean} and std {plan.std} need {picture.channels} values (or 1) for {item}")
    if _kind(item.dtype) == "float" and (image or plan.normalises):
        pixels = plan.normalised(pixels)
    return np.moveaxis(pixels, -1, -3) if picture.first else pixels


def _resized(pixels: Array, picture: _Picture, resize: int | Size | None) -> Array:
    """One image (h, w, c), stretched to a size, or scaled by its shorter side and cropped centrally."""
    now = (pixels.shape[0], pixels.shape[1])
    crop = size = resize if isinstance(resize, tuple) else picture.size or now
    if isinstance(resize, int):
        crop = picture.size or (resize, resize)
        size = (round(now[0] * resize / min(now)), round(now[1] * resize / min(now)))
    top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    if min(top, left) < 0:
        raise DataError(f"images resized to {resize} are smaller than the model's {_show(crop)}: resize to more")
    if size != now:
        image = _pillow().fromarray(pixels[..., 0] if picture.channels == 1 else pixels)
        pixels = np.asarray(image.resize(size[::-1], _pillow().BILINEAR)).reshape(*size, picture.channels)
    return pixels[top : top + crop[0], left : left + crop[1]]


def _fits(shape: Sequence[int], declared: Shape) -> bool:
    same = (want == have for have, want in zip(shape, declared, strict=False) if isinstance(want, int))
    return len(shape) == len(declared) and all(same)


def _cast(values: Array, item: Input, source: str) -> Array:
    """A copy of `values` in the input's dtype; DataError on numbers out of range, infinite or NaN."""
    with np.errstate(all="ignore"):
        cast = np.array(values, item.dtype, order="C")
    _check_finite(cast, source)
    if _kind(item.dtype) in ("int", "bool") and not np.array_equal(cast, values):
        raise DataError(f"{source} has values outside the range of {item}: rescale or convert it")
    return cast


def _check_finite(values: Array, source: str) -> None:
    if _kind(values.dtype) == "float" and not np.isfinite(values).all():
        raise DataError(f"{source} has NaN or infinite values for the model: clean the data")


# ---- Samples


@dataclass(frozen=True)
class Samples:
    """A random-access collection of samples, read and preprocessed when they are asked for; can be pickled.

    `origin` is "given" or "synthetic". If not `batchable`, a feed holds one sample: the model's batch is
    fixed, or samples differ in shape or in what isn't per sample. `places` (count, 3): chunk, row, mirrored.
    """

    count: int
    origin: str
    batchable: bool
    inputs: tuple[Input, ...] = field(repr=False)
    plan: Preprocessing = field(repr=False)
    chunks: tuple[_Chunk, ...] = field(repr=False, compare=False)
    places: NDArray[np.int64] = field(repr=False, compare=False)
    split: bool = field(default=True, repr=False)

    def feed(self, indices: Sequence[int]) -> Feed:
        """The samples joined along axis 0, by input name; what isn't per sample is passed as it is.

        Raises DataError on a sample that can't be read or doesn't fit, and on several if not `batchable`.
        """
        if len(indices) != 1 and not self.batchable:
            raise DataError(f"these samples must be fed one at a time, not {len(indices)}: use batches of 1")
        feeds: list[Feed] = []
        for chunk, places in groupby(self.places[list(indices)].tolist(), key=lambda place: place[0]):
            columns = _columns(self.chunks[chunk], self.inputs, self.plan, self.split)
            feeds += [{c.item.name: c.tensor(row, flip) for c in columns} for _, row, flip in places]
        return {item.name: _joined([feed[item.name] for feed in feeds], item) for item in self.inputs}

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Feed]:
        """Feeds of `size` samples, in order; the last may have fewer, and each has one if not `batchable`."""
        size = size if self.batchable else 1
        for start in range(0, len(indices), size):
            yield self.feed(indices[start : start + size])

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "Samples":
        """Only these samples, in this order."""
        return replace(self, count=len(indices), places=self.places[np.asarray(indices, np.int64)])


def _joined(tensors: Sequence[Array], item: Input) -> Array:
    if len(tensors) == 1 or not item.joinable:
        return tensors[0]
    return np.concatenate(tensors)


def _batches(inputs: Sequence[Input]) -> bool:
    """Whether the model takes batches of any size, with the batch on axis 0 wherever it appears."""
    batch = {item.shape[0] for item in inputs if item.joinable and item.shape} - {None}
    elsewhere = any(batch & set(item.shape or ()) for item in inputs if not item.joinable)
    return any(item.joinable for item in inputs) and not elsewhere


def _surveyed(chunks: Sequence[_Chunk], inputs: Sequence[Input], plan: Preprocessing, strict: bool) -> Samples:
    """The samples of chunks, each looked at; if one can't be split, each is a sample (`strict`: an error)."""
    looks = [_look(chunk, inputs, plan, split=True) for chunk in chunks]
    split = all(count for count, _ in looks)
    if not split and strict:
        raise DataError(f"{chunks[0].where} has arrays of different numbers of samples: make them agree")
    if not split:
        looks = [_look(chunk, inputs, plan, split=False) for chunk in chunks]
    places = np.array([(c, row, 0) for c, (count, _) in enumerate(looks) for row in range(count)])
    alike = len({needs for _, needs in looks}) == 1 and None not in looks[0][1]
    batchable = split and alike and _batches(inputs)
    return Samples(len(places), "given", batchable, tuple(inputs), plan, tuple(chunks), places, split)


def _look(chunk: _Chunk, inputs: Sequence[Input], plan: Preprocessing, split: bool) -> tuple[int, tuple[object, ...]]:
    """How many samples a chunk holds (0: its arrays disagree), and what must be equal to join them to others.

    That is the shape of a sample; for what isn't per sample its values too, None if they differ in the chunk.
    """
    columns = _columns(chunk, inputs, plan, split)
    most = max((len(c.table) for c in columns), default=1)
    count = next((len(c.table) for c in columns if c.item.joinable), most)
    if count == 0:
        raise DataError(f"{chunk.where} holds no samples: give at least one")
    if any(len(c.table) != count and (c.item.joinable or len(c.table) > 1) for c in columns):
        return 0, ()
    needs: list[object] = []
    for column in columns:
        if not isinstance(column.table, np.memmap):
            _check_finite(column.table, column.source)
        tensor, shared = column.tensor(0), count == 1 or len(column.table) == 1
        needs.append(tensor.shape if column.item.joinable else (tensor.shape, tensor.tobytes()) if shared else None)
    return count, tuple(needs)


# ---- Sources


def load(
    source: Any,
    inputs: Sequence[Input],
    *,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    seed: int = 0,
    shapes: Shapes | None = None,
) -> Samples:
    """Samples from a path (`.npz`, `.npy`, a folder of these or of images), `file.py:object`, or an object.

    An object is a dict of arrays, an array, a CalibrationDataReader, an iterable of dicts, or a callable that
    returns one of these. `samples` limits how many are used: random ones by `seed`, but the first of readers
    and iterables (which are held in memory, so give a limit if they are endless). `shapes` give the size of
    images where the model doesn't. Raises DataError on what can't feed `inputs`.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"can't use {samples} samples: give at least 1")
    pinned = _pinned(inputs, shapes or {})
    if not isinstance(source, str | os.PathLike):
        found = _from_object(source, "the calibration data", inputs, preprocessing, samples)
    elif ".py:" in str(source):
        found = _from_script(str(source), inputs, preprocessing, samples)
    elif Path(source).is_dir():
        found = _from_folder(Path(source), inputs, pinned, preprocessing)
    else:
        found = _from_file(Path(source), inputs, preprocessing)
    return _mirrored(_limited(found, samples, seed))


def load_labelled(
    path: str | os.PathLike[str],
    inputs: Sequence[Input],
    *,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    seed: int = 0,
) -> tuple[Samples, NDArray[np.int64]]:
    """Samples, never mirrored, and their labels from an `.npz` with `y` or `labels`.

    Labels are int64 (count,), or (count, batch) for a model of a fixed batch. Raises DataError as `load`
    does, and on labels that aren't class numbers.
    """
    arrays = dict(_ArrayFile(Path(path)).read())
    key = next((key for key in LABELS if key in arrays and key not in [item.name for item in inputs]), None)
    if key is None:
        raise DataError(f"{path} has no labels: add an array 'y' with one class number per sample")
    labels = arrays.pop(key)
    found = _surveyed([_Memory(str(path), arrays)], inputs, replace(preprocessing, mirror=False), strict=True)
    labels = _class_numbers(labels, found, f"{path}: array '{key}' ({labels.dtype.name} {_show(labels.shape)})")
    kept = _limited(found, samples, seed)
    return kept, labels[kept.places[:, 1]]


def _class_numbers(labels: Array, found: Samples, source: str) -> NDArray[np.int64]:
    """Labels as int64 (count,), or (count, batch) for a model of a fixed batch."""
    if _kind(labels.dtype) not in CASTS["float"] or not np.array_equal(labels, np.trunc(labels)):
        raise DataError(f"{source} must hold class numbers: give one integer per sample")
    batch = max(item.rows for item in found.inputs)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim == 1 and len(flat) != found.count and batch and len(flat) // batch == found.count:
        flat = flat[: found.count * batch].reshape(found.count, batch)
    elif flat.shape != (found.count,):
        raise DataError(f"{source} must have one label for each of the {found.count} samples")
    return flat.astype(np.int64)


def sidecar(model_path: str | os.PathLike[str]) -> Path | None:
    """The data beside a model (`a/b.calib.npz` for `a/b.onnx`), None when there is none."""
    path = Path(model_path).with_suffix(".calib.npz")
    return path if path.is_file() else None


def _limited(found: Samples, limit: int | None, seed: int) -> Samples:
    if limit is None or limit >= found.count:
        return found
    return found.take(np.random.default_rng(seed).choice(found.count, limit, replace=False))


def _mirrored(found: Samples) -> Samples:
    """Each sample followed by its mirror image, if the preprocessing asks for it."""
    if not found.plan.mirror:
        return found
    if not any(_picture(item, found.plan.layout) for item in found.inputs):
        raise DataError(f"only images can be mirrored, not {', '.join(map(str, found.inputs))}: drop the mirroring")
    places = np.repeat(found.places, 2, axis=0)
    places[1::2, 2] = 1
    return replace(found, count=len(places), places=places)


def _from_file(path: Path, inputs: Sequence[Input], plan: Preprocessing) -> Samples:
    """An `.npz`, read now, or an `.npy`."""
    if path.suffix == ".npz":
        arrays = _ArrayFile(path, tuple(inputs)).read()
        return _surveyed([_Memory(str(path), arrays)], inputs, plan, strict=True)
    if path.suffix == ".npy":
        return _surveyed([_ArrayFile(path)], inputs, plan, strict=True)
    if path.suffix == ".py":
        raise DataError(f"{path} is a script: name the object in it that gives the data, as in {path}:reader")
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path of the data")
    raise DataError(f"{path} is no kind of data we read: give .npz, .npy, a folder or file.py:object")


def _from_folder(folder: Path, inputs: Sequence[Input], pinned: Sequence[Input], plan: Preprocessing) -> Samples:
    """All images, `.npy` or `.npz` below a folder, sorted by path."""
    files = [f for f in sorted(folder.rglob("*")) if f.suffix.lower() in SUFFIXES and f.name[0] != "."]
    kinds = sorted({SUFFIXES[f.suffix.lower()] for f in files})
    if len(kinds) != 1:
        held = " and ".join(kinds) or "no samples"
        raise DataError(f"{folder} holds {held}: fill it with either images, .npy or .npz files")
    if kinds == ["images"]:
        return _from_images(folder, files, pinned, plan)
    return _surveyed([_ArrayFile(f, tuple(inputs)) for f in files], inputs, plan, strict=False)


def _from_images(folder: Path, files: Sequence[Path], inputs: Sequence[Input], plan: Preprocessing) -> Samples:
    """One sample per image; only the first is decoded now."""
    picture = _picture(inputs[0], plan.layout)
    if picture is None or len(inputs) > 1:
        raise DataError(f"{folder} holds images, but the model takes {', '.join(map(str, inputs))}: give an .npz")
    chunks = tuple(_ImageFile(file, picture.channels) for file in files)
    if picture.size is None and plan.resize is None and len({chunk.size() for chunk in chunks}) > 1:
        raise DataError(f"the images in {folder} differ in size, and the model takes any: choose one with --resize")
    _look(chunks[0], inputs, plan, split=True)
    return Samples(len(chunks), "given", _batches(inputs), tuple(inputs), plan, chunks, _places(len(chunks)))


def _places(count: int) -> NDArray[np.int64]:
    """The places of samples that are a chunk each."""
    return np.array([(chunk, 0, 0) for chunk in range(count)])


def _from_script(source: str, inputs: Sequence[Input], plan: Preprocessing, limit: int | None) -> Samples:
    """What `file.py:object` names."""
    path, _, name = source.rpartition(":")
    with _imported(Path(path)) as module:
        if not hasattr(module, name):
            raise DataError(f"{path} has no object '{name}': name the reader or iterable that it defines")
        return _from_object(getattr(module, name), source, inputs, plan, limit)


def _from_object(given: Any, where: str, inputs: Sequence[Input], plan: Preprocessing, limit: int | None) -> Samples:
    """Arrays, or a reader or iterable of feeds (read now), or a callable that returns one of these."""
    if isinstance(given, type) or (callable(given) and not hasattr(given, "get_next")):
        with _foreign(where):
            given = given()
    given = {"arr_0": given} if isinstance(given, np.ndarray) else given
    if isinstance(given, Mapping):
        return _surveyed([_held(given, where, inputs, np.asarray)], inputs, plan, strict=True)
    chunks: list[_Memory] = []
    total = 0
    for feed in _pulled(given, where):
        chunks.append(_held(feed, f"{where}, feed {len(chunks)}", inputs, np.array))
        total += _look(chunks[-1], inputs, plan, split=True)[0] or 1
        if limit is not None and total >= limit:
            break
    if not chunks:
        raise DataError(f"{where} yields nothing: has it been read to its end before?")
    found = _surveyed(chunks, inputs, plan, strict=False)
    return found.take(range(min(found.count, limit or found.count)))


def _held(feed: Any, where: str, inputs: Sequence[Input], convert: Callable[[Any], Array]) -> _Memory:
    """The arrays of one feed that the model takes, in memory."""
    if not isinstance(feed, Mapping):
        raise DataError(f"{where} is of type {type(feed).__name__}: give a dict of arrays by input name")
    keys = _keys([str(name) for name in feed], inputs, where)
    with _foreign(where):
        return _Memory(where, {key: convert(feed[key]) for key in keys})


def _pulled(reader: Any, where: str) -> Iterator[Any]:
    """The feeds of a CalibrationDataReader or an iterable."""
    if not hasattr(reader, "get_next") and not hasattr(reader, "__iter__"):
        raise DataError(f"{where} is of type {type(reader).__name__}: give a reader or an iterable of dicts")
    step = reader.get_next if hasattr(reader, "get_next") else partial(next, iter(reader), None)
    while True:
        with _foreign(where):
            feed = step()
        if feed is None:
            return
        yield feed


@contextmanager
def _foreign(where: object) -> Iterator[None]:
    """Run code that isn't ours: whatever it raises is a DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{where} failed with {type(error).__name__}: {error}") from error


@contextmanager
def _imported(path: Path) -> Iterator[ModuleType]:
    """A script as a module that finds its neighbours; it and they are forgotten when the context ends."""
    if not path.is_file():
        raise DataError(f"{path} does not exist: check the path of the script")
    folder, before = path.resolve().parent, set(sys.modules)
    spec = importlib.util.spec_from_file_location(f"onnxprune_data_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(folder))
    try:
        with _foreign(path):
            spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().parent == folder:
                del sys.modules[name]


# ---- Made-up inputs


def synthetic(inputs: Sequence[Input], *, count: int, seed: int = 0, shapes: Shapes | None = None) -> Samples:
    """`count` made-up samples: normal floats, 0 or 1 for integers; drawn from `seed` when they are asked for.

    Symbolic sizes come from `shapes`; else a batch is 1, an image 224 × 224, and anything else 16. What
    isn't per sample is the same in all samples. Raises DataError on an input that can't be made up.
    """
    if count < 1:
        raise UsageError(f"can't make up {count} samples: give at least 1")
    batchable, sized = _batches(inputs), _filled(_pinned(inputs, shapes or {}))
    chunks = []
    for n in range(count):
        seeds = tuple((seed, k, n if item.joinable or not batchable else 0) for k, item in enumerate(sized))
        chunks.append(_Draw(sized, seeds))
    _look(chunks[0], sized, PLAIN, split=False)
    return Samples(count, "synthetic", batchable, sized, PLAIN, tuple(chunks), _places(count), split=False)


def _pinned(inputs: Sequence[Input], shapes: Shapes) -> tuple[Input, ...]:
    """The inputs with `shapes` for symbolic sizes, wherever their names recur; batches stay symbolic."""
    if unknown := sorted(set(shapes) - {item.name for item in inputs}):
        raise DataError(f"a shape is given for {unknown[0]}, but the model takes {', '.join(map(str, inputs))}")
    pairs = [zip(item.shape or (), shapes.get(item.name, ()), strict=False) for item in inputs]
    sizes = {dim: size for pair in pairs for dim, size in pair if isinstance(dim, str)}
    pinned = []
    for item in inputs:
        shape = shapes.get(item.name)
        if shape is not None and item.shape is not None and not _fits(shape, item.shape):
            raise DataError(f"shape {_show(shape)} doesn't fit {item}: only symbolic sizes can be chosen")
        known = None if item.shape is None else tuple(sizes.get(d, d) if isinstance(d, str) else d for d in item.shape)
        pinned.append(_keep_batch(item, shape or known))
    return tuple(pinned)


def _filled(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """The inputs with a default for every size that is still symbolic, batches on axis 0 excepted."""
    batches = {item.shape[0] for item in inputs if item.joinable and item.shape} - {None}
    filled = []
    for item in inputs:
        if item.shape is None:
            raise DataError(f"{item}: the model declares no shape, choose one with --input-shapes")
        sizes = [16] * len(item.shape)
        if picture := _picture(item):
            sizes[-3:] = (picture.channels, 224, 224) if picture.first else (224, 224, picture.channels)
        sizes = [
            1 if d in batches or "batch" in str(d).lower() else size for d, size in zip(item.shape, sizes, strict=True)
        ]
        shape = tuple(d if isinstance(d, int) else size for d, size in zip(item.shape, sizes, strict=True))
        filled.append(_keep_batch(item, shape))
    return tuple(filled)


def _keep_batch(item: Input, shape: Shape | None) -> Input:
    """The input with another shape, but its own axis 0 where that is a batch of any size."""
    if shape and item.joinable:
        shape = ((item.shape or (None,))[0], *shape[1:])
    return replace(item, shape=shape)
