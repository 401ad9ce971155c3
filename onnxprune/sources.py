"""What a model takes, and where arrays for it come from: files, folders, images, readers, scripts.

Every source becomes chunks. A chunk reads, whenever it is asked, as one array per input in the inputs' order.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import SourceFileLoader
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.declared import summed
from onnxprune.errors import DataError

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Feed = dict[str, Array]
Shape = tuple[int | str | None, ...]
Shapes = Mapping[str, tuple[int, ...]]
Size = tuple[int, int]

ALIASES = ("x", "images", "image", "input", "arr_0")
LABELS = ("y", "labels", "label")
KINDS = {"bfloat": "float", "float": "float", "int": "int", "uint": "int", "bool": "bool"}
KINDS |= {"str": "string", "object": "string"}
SUFFIXES = dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".webp"), "images") | {".npy": ".npy", ".npz": ".npz"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Picture:
    """How an input holds images: channels, (height, width) or None for any, channels before or after them."""

    channels: int
    size: Size | None
    first: bool


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

    def picture(self, layout: str = "auto") -> Picture | None:
        """How it holds images, None if it doesn't: it needs an axis of 1, 3, 4 or any number of channels.

        Any number of rows of one length are none: they are the keys of each head, or what belongs to each step.
        """
        if self.shape is None or len(self.shape) not in (3, 4) or (len(self.shape) == 3 and self.joinable):
            return None
        before, after = self.shape[-3], self.shape[-1]
        fits = before in MODES or (after not in MODES and not isinstance(before, int))
        first = layout == "nchw" or (layout == "auto" and fits)
        channels, (height, width) = (before, self.shape[-2:]) if first else (after, self.shape[-3:-1])
        if isinstance(width, int) and not isinstance(height, int):
            return None
        channels = channels if isinstance(channels, int) else 3
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        return Picture(channels, size, first) if channels in MODES else None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it takes arrays of this shape."""
        same = [have == want for have, want in zip(shape, self.shape or (), strict=False) if isinstance(want, int)]
        return self.shape is None or (len(shape) == len(self.shape) and all(same))

    def sized(self, shape: Shape) -> "Input":
        """The input with another shape, but its own axis 0 where that is a batch of any size."""
        return replace(self, shape=((self.shape or (None,))[0], *shape[1:]) if self.joinable else shape)

    def __str__(self) -> str:
        return f"input '{self.name}' ({self.dtype.name} {show(self.shape)})"


def kind(dtype: np.dtype[Any]) -> str:
    """Float, int, bool, string or something else; told by the name, so that bfloat16 and int4 count too."""
    return next((kind for prefix, kind in KINDS.items() if dtype.name.startswith(prefix)), dtype.name)


def show(shape: Sequence[object] | None) -> str:
    """A shape as messages show it."""
    return "of any shape" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"


def joins(inputs: Sequence[Input]) -> bool:
    """Whether the model takes batches of any size, with the batch on axis 0 wherever it appears."""
    elsewhere = any(_batches(inputs) & set((item.shape or ())[item.joinable :]) for item in inputs)
    return any(item.joinable for item in inputs) and not elsewhere


def pinned(inputs: Sequence[Input], shapes: Shapes) -> tuple[Input, ...]:
    """The inputs with `shapes` for symbolic sizes, wherever their names recur; batches are 1, or stay symbolic."""
    if unknown := sorted(set(shapes) - {item.name for item in inputs}):
        raise DataError(f"a shape is given for {unknown[0]}, but the model takes {', '.join(map(str, inputs))}")
    sizes: dict[int | str | None, int] = {}
    for item in inputs:
        shape = shapes.get(item.name)
        if shape is not None and not item.fits(shape):
            raise DataError(f"shape {show(shape)} doesn't fit {item}: only symbolic sizes can be chosen")
        sizes |= {dim: size for dim, size in zip(item.shape or (), shape or (), strict=False) if dim is not None}
    sizes |= dict.fromkeys(_batches(inputs), 1)
    known = [shapes.get(i.name) or (i.shape and tuple(_known(d, sizes) for d in i.shape)) for i in inputs]
    return tuple(item.sized(shape) if shape else item for item, shape in zip(inputs, known, strict=True))


def filled(inputs: Iterable[Input]) -> list[Input]:
    """The inputs with a default for every size that is still symbolic: for all of one name that of the first one."""
    found, named = list[tuple[Input, list[tuple[int | str | None, int]]]](), dict[str, int]()
    for item in inputs:
        if item.shape is None:
            raise DataError(f"{item}: the model declares no shape, choose one with --input-shapes")
        sizes = [16] * len(item.shape)
        if picture := item.picture():
            sizes[-3:] = (picture.channels, 224, 224) if picture.first else (224, 224, picture.channels)
        pairs = list(zip(item.shape, sizes, strict=True))
        named = {d: 1 if "batch" in d.lower() else size for d, size in pairs if isinstance(d, str)} | named
        found.append((item, pairs))
    named |= {d: total for d in named if (total := summed(d, named)) is not None}
    return [
        item.sized(tuple(named[d] if isinstance(d, str) else size if d is None else d for d, size in pairs))
        for item, pairs in found
    ]


def _known(dim: int | str | None, sizes: Mapping[int | str | None, int]) -> int | str | None:
    """A length by its name, in a sum of names as much of it as is known."""
    if not isinstance(dim, str) or dim in sizes or "+" not in dim:
        return sizes.get(dim, dim)
    name = " + ".join(str(sizes.get(term, term)) for term in map(str.strip, dim.split("+")))
    return summed(name, {}) or name


def _batches(inputs: Sequence[Input]) -> set[int | str | None]:
    return {item.shape[0] for item in inputs if item.joinable and item.shape} - {None}


@dataclass(frozen=True)
class Chunk:
    """Arrays from one place: `read()` gives one per input, in their order, by the names that they have there."""

    where: str
    read: Callable[[], Arrays]


def pick(names: Sequence[str], inputs: Sequence[Input], where: object) -> list[str]:
    """The array that feeds each input: the one of its name, or x, images, … when there is only one input."""
    wanted = [item.name for item in inputs]
    missing = [name for name in wanted if name not in names]
    if not missing:
        return wanted
    if len(wanted) == 1 and (aliases := [alias for alias in ALIASES if alias in names]):
        return aliases[:1]
    held = f"{where} holds {', '.join(map(str, names)) or 'no arrays'}"
    raise DataError(f"{held}, but the model takes {', '.join(missing)}: give one array per input, by its name")


def from_file(path: Path, inputs: Sequence[Input]) -> Chunk:
    """An `.npz`, read now, or an `.npy`. Raises DataError on anything else."""
    found = SUFFIXES.get(_existing(path).suffix.lower())
    if path.suffix == ".py":
        raise DataError(f"{path} is a script: name the object in it that gives the data, as in {path}:reader")
    if found not in (".npy", ".npz"):
        raise DataError(f"{path} is no kind of data we read: give .npz, .npy, a folder or file.py:object")
    return Chunk(str(path), partial(dict, read(path, inputs)) if found == ".npz" else partial(read, path, inputs))


def in_folder(folder: Path) -> tuple[str, list[Path]]:
    """What the files in and below a folder are ("images", ".npy" or ".npz"), and those files sorted by path."""
    files = [f for f in sorted(folder.rglob("*")) if f.suffix.lower() in SUFFIXES and f.name[0] != "."]
    kinds = sorted({SUFFIXES[f.suffix.lower()] for f in files})
    if len(kinds) != 1:
        held = " and ".join(kinds) or "no samples"
        raise DataError(f"{folder} holds {held}: fill it with either images, .npy or .npz files")
    return kinds[0], files


def read_labels(path: Path, inputs: Sequence[Input]) -> tuple[str, Array]:
    """Name and values of the array of labels that an `.npz` holds beside these inputs. Raises DataError."""
    with _arrays(_existing(path)) as held:
        key = next((key for key in LABELS if key in held and key not in [item.name for item in inputs]), None)
        if key is None:
            raise DataError(f"{path} has no labels: add an array 'y' with one class number per sample")
        return key, held[key]


def read(path: Path, inputs: Sequence[Input]) -> Arrays:
    """The arrays in an `.npz` that feed these inputs, or an `.npy`, which is mapped into memory. Raises DataError."""
    with _arrays(path) as held:
        return {key: held[key] for key in pick(list(held), inputs, path)}


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path of the data")
    return path


@contextmanager
def _arrays(path: Path) -> Iterator[Arrays]:
    """What an `.npz` holds, or an `.npy` as arr_0; told apart by what they are, not by their names."""
    with _readable(path), path.open("rb") as stream:
        if stream.peek(6)[:6] == b"\x93NUMPY":
            yield {"arr_0": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with np.load(stream, allow_pickle=False) as held:
                yield held


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever reading `path` raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise DataError(f"{path} holds an array of Python objects: save plain numbers instead") from error
        what = f"{path} can't be read ({type(error).__name__})"
        raise DataError(f"{what}: it is damaged, cut short or not what its name says") from error


def image_size(path: Path) -> Size:
    """Width and height, from the header alone."""
    with _readable(path), _pillow().open(path) as image:
        width, height = image.size
        return width, height


def read_image(path: Path, channels: int) -> Arrays:
    """An image as uint8 (1, height, width, channels). Raises DataError."""
    with _readable(path), _pillow().open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{path} has more than 8 bits per channel: store such images as .npy")
        return {"image": np.array(image.convert(MODES[channels])).reshape(1, image.height, image.width, channels)}


def resized(pixels: Array, resize: int | Size, declared: Size | None) -> Array:
    """One image (h, w, c), stretched to a size, or scaled by its shorter side and cropped centrally."""
    now = pixels.shape[:2]
    crop = size = resize if isinstance(resize, tuple) else declared or (resize, resize)
    if isinstance(resize, int):
        size = (round(now[0] * resize / min(now)), round(now[1] * resize / min(now)))
    top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    if min(top, left) < 0:
        raise DataError(f"images resized to {resize} are smaller than the model's {show(crop)}: resize to more")
    if size != now:
        image = _pillow().fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        pixels = np.asarray(image.resize(size[::-1], _pillow().BILINEAR)).reshape(*size, -1)
    return pixels[top : top + crop[0], left : left + crop[1]]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: install onnxprune[images]") from None
    return Image


def held(arrays: Any, inputs: Sequence[Input], where: str, copy: bool | None = None) -> Chunk:
    """The arrays of a dict that feed these inputs, in memory; `copy` as numpy.array takes it."""
    if not isinstance(arrays, Mapping):
        raise DataError(f"{where} is of type {type(arrays).__name__}: give a dict of arrays by input name")
    keys = pick(list(arrays), inputs, where)
    with foreign(where):
        return Chunk(where, partial(dict, {key: np.array(arrays[key], copy=copy) for key in keys}))


def feeds(reader: Any, inputs: Sequence[Input], where: str) -> Iterator[Chunk]:
    """The feeds of a CalibrationDataReader or an iterable of dicts, each copied when its turn comes."""
    if not hasattr(reader, "get_next") and not hasattr(reader, "__iter__"):
        raise DataError(f"{where} is of type {type(reader).__name__}: give a reader or an iterable of dicts")
    step = reader.get_next if hasattr(reader, "get_next") else partial(next, iter(reader), None)
    for number in count():
        with foreign(where):
            feed = step()
        if feed is None and number == 0:
            raise DataError(f"{where} yields nothing: has it been read to its end before?")
        if feed is None:
            return
        yield held(feed, inputs, f"{where}, feed {number}", copy=True)


@contextmanager
def script(spec: str) -> Iterator[Any]:
    """What `file.py:object` names. The script finds its neighbours; they are forgotten when the context ends."""
    path, name = Path(spec.rpartition(":")[0]), spec.rpartition(":")[2]
    folder, before = _existing(path).resolve().parent, set(sys.modules)
    module = ModuleType(f"onnxprune_data_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(folder))
    try:
        with foreign(path):
            SourceFileLoader(module.__name__, str(path)).exec_module(module)
        if not hasattr(module, name):
            raise DataError(f"{path} has no object '{name}': name the reader or iterable that it defines")
        yield getattr(module, name)
    finally:
        sys.path.remove(str(folder))
        for added in set(sys.modules) - before:
            if Path(getattr(sys.modules[added], "__file__", None) or "").resolve().parent == folder:
                del sys.modules[added]


@contextmanager
def foreign(where: object) -> Iterator[None]:
    """Run code that isn't ours: whatever it raises is a DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{where} failed with {type(error).__name__}: {error}") from error
