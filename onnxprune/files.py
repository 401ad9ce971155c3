"""Model files, also those whose weights lie in files beside them, and models too large for one protobuf message.

*Large tensors stay outside of the message.* A `Model` is a ModelProto in which some initializers are only declared,
and the arrays that belong to them. Weights in external files are mapped, not read: an array is a view of the file, and
saving streams tensors from one file to the other. So a model of any size takes little memory until it runs.

*Data is read from the model's own folder only.* A location that is absolute, contains `..` or leads out through a
symbolic link is refused. (A model may itself be a link, as in a download cache; then the folder of the real file
counts as its own, too.)

*A model's own functions are inlined.* Exporters write modules as functions, and nothing could be pruned inside.

*What is written appears whole or not at all* (see `replacing`). A file that is replaced while it is mapped stays
readable under its mapping.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from onnxprune.errors import ModelError, OutputError
from onnxprune.nodes import arrange, disordered, names
from onnxprune.replacing import replacing

M = TypeVar("M", ModelProto, GraphProto, TensorProto)
LARGE = 1 << 14  # bytes from which a tensor is kept beside the message
BIG = 1 << 30  # bytes from which a model is handled in parts; protobuf's own limit is twice that
EXTERNAL = 1 << 10  # bytes from which a tensor moves to the data file when there is one
ALIGNMENT = 64
RESERVED = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # domains whose operators runtimes know by themselves
PACKED = {
    TensorProto.STRING,
    TensorProto.UNDEFINED,
    *(getattr(TensorProto, n) for n in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2") if hasattr(TensorProto, n)),
}  # types whose elements aren't whole bytes
CONTENT = (
    *("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)  # fields of a tensor's data


@dataclass(frozen=True)
class Model:
    """A model: `arrays` holds the content of those initializers that `proto` only declares, by name.

    `path` is where it was read from, `data` are the files beside it that hold weights.
    """

    proto: ModelProto
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    path: Path | None = None
    data: tuple[Path, ...] = ()


# ---------------------------------------------------------------------------------------------- reading


def load(path: str | Path) -> Model:
    """Read a model file; weights beside it are mapped, those in it read. ModelError says why it can't be read."""
    path = Path(path)
    proto = _parsed(path)
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{path} is not an ONNX model, or an empty one: it has no nodes and no outputs.")
    arrays: dict[str, NDArray[Any]] = {}
    data: dict[Path, NDArray[np.uint8] | None] = {}  # what is mapped of the files
    own = sum(t.data_location == TensorProto.EXTERNAL for t in proto.graph.initializer)
    for number, tensor in enumerate([t for t in _tensors(proto) if t.data_location == TensorProto.EXTERNAL]):
        file, offset, count = _place(tensor, path)
        mapped = data.setdefault(file, None)
        if number < own and count >= LARGE and tensor.data_type not in PACKED:
            data[file] = mapped = np.memmap(file, np.uint8, "r") if mapped is None else mapped
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            arrays[tensor.name] = mapped[offset : offset + count].view(dtype).reshape(tuple(tensor.dims))
            del tensor.external_data[:]
        else:
            _embed(tensor, file, offset, count)
    return replace(whole(proto) if not data else Model(inlined(proto), arrays), path=path, data=tuple(data))


def whole(model: ModelProto) -> Model:
    """A model whose message holds all its data, taken apart if it is big; ModelError if external data is missing."""
    missing = next((t.name for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL), None)
    if missing is not None:
        raise ModelError(
            f"the model was loaded without its external data ('{missing}'); pass its path, or load it with the data."
        )
    if size(Model(model)) < BIG:
        return Model(inlined(model))
    proto = _shallow(model)
    arrays = {}
    for tensor in model.graph.initializer:
        apart = _bytes(tensor) >= LARGE and tensor.data_type not in PACKED
        proto.graph.initializer.append(_declared(tensor) if apart else tensor)
        if apart:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
    return Model(inlined(proto), arrays)


def inlined(model: ModelProto) -> ModelProto:
    """The model with calls of its own functions replaced by their nodes, as runtimes do when they load it.

    Functions called like operators that runtimes know stay: a call means the operator, for onnxruntime as for ONNX's
    reference implementation. So do functions for another opset than the model's.
    """
    model = in_text(model)
    versions = {o.domain: o.version for o in model.opset_import}
    fits = [f for f in model.functions if all(versions.get(o.domain) == o.version for o in f.opset_import)]
    own = [(f.domain, f.name) for f in fits if f.domain not in RESERVED]
    return in_order(inliner.inline_selected_functions(model, own, False) if own else model)


def in_text(model: ModelProto) -> ModelProto:
    """The model with names that aren't UTF-8 read as Latin-1: some vendors write them in an encoding of their own."""
    if not any(isinstance(name, bytes) for name in names(model.graph, model.graph.node)):
        return model
    new = ModelProto()
    new.CopyFrom(model)
    _decode(new)
    return new


def _decode(message: Any) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for part in value if descriptor.is_repeated else [value]:
                _decode(part)
        elif descriptor.type == descriptor.TYPE_STRING and descriptor.is_repeated:
            value[:] = [text.decode("latin-1") if isinstance(text, bytes) else text for text in value]
        elif descriptor.type == descriptor.TYPE_STRING and isinstance(value, bytes):
            setattr(message, descriptor.name, value.decode("latin-1"))


def in_order(model: ModelProto) -> ModelProto:
    """The model with every node behind those whose values it reads, as ONNX wants it; not all writers care."""
    if not disordered(model.graph):
        return model
    new = ModelProto()
    new.CopyFrom(model)
    arrange(new.graph)
    return new


def read(model: ModelProto | str | Path) -> Model:
    """A model from a file, or one that the caller holds."""
    return whole(model) if isinstance(model, ModelProto) else load(model)


def _parsed(path: Path) -> ModelProto:
    """The message alone."""
    if not path.exists():
        raise ModelError(f"{path}: no such file; give the path of an .onnx model.")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the path of an .onnx model.")
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf, OS and onnx errors have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} is not a readable ONNX model ({reason}); is it complete, and an .onnx file?"
        ) from error


def _place(tensor: TensorProto, model: Path) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's external data, which lies where it may and is all there."""
    entries = {e.key: e.value for e in tensor.external_data}
    file = _beside(entries.get("location", ""), model)
    try:
        offset = int(entries.get("offset", "0"))
        rest = file.stat().st_size - offset
        count = int(entries.get("length", rest if tensor.data_type in PACKED else _bytes(tensor)))
    except ValueError:
        raise ModelError(f"{model} is damaged: where the data of '{tensor.name}' lies is no number.") from None
    if offset < 0 or count < 0 or (tensor.data_type not in PACKED and count != _bytes(tensor)):
        raise ModelError(
            f"{model} is damaged: it says that '{tensor.name}' has {count} bytes of data at {offset} in {file.name}, "
            "which doesn't fit its shape."
        )
    if file.stat().st_size < offset + count:
        raise ModelError(
            f"{file} is too short: '{tensor.name}' of {model.name} ends at byte {offset + count}, and the file has "
            f"{file.stat().st_size}; is it complete?"
        )
    return file, offset, count


def _beside(location: str, model: Path) -> Path:
    """The file at a location, which must lie in the model's folder."""
    kinds = (PurePosixPath(location), PureWindowsPath(location))
    if not location or any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in kinds):
        raise ModelError(
            f"{model} wants weights from '{location}', outside of its own folder; that is refused: put them beside it."
        )
    try:
        file = (model.parent / location).resolve(strict=True)
    except (OSError, RuntimeError):
        raise ModelError(
            f"{model} keeps its weights in '{location}', which isn't there; put that file beside it."
        ) from None
    if not any(file.is_relative_to(folder) for folder in (model.parent.resolve(), model.resolve().parent)):
        raise ModelError(
            f"{model} wants weights from '{location}', a link that leads out of its own folder; that is refused: "
            "put the file itself beside it."
        )
    if not file.is_file() or not os.access(file, os.R_OK):
        raise ModelError(f"{model} keeps its weights in '{location}', which can't be read as a file.")
    return file


def place(array: NDArray[Any]) -> tuple[Path, int] | None:
    """File and offset of an array that is mapped; None for any other, and if the file is gone from there."""
    whole = mapping(array)
    if whole is None or whole.filename is None or not array.flags.c_contiguous:
        return None
    file = Path(str(whole.filename))
    return (file, whole.offset + _address(array) - _address(whole)) if file.exists() else None


def release(array: NDArray[Any]) -> None:
    """Give back the memory that a mapped array's pages take; they are read from the file again when needed."""
    whole = mapping(array)
    if whole is not None and hasattr(mmap, "MADV_DONTNEED"):
        before = whole.offset % mmap.ALLOCATIONGRANULARITY + _address(array) - _address(whole)
        start = before - before % mmap.PAGESIZE
        pages: Any = whole.base
        pages.madvise(mmap.MADV_DONTNEED, start, before + array.nbytes - start)


def mapping(array: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """The mapped file that an array is a view of; None if there is none."""
    whole: Any = array
    while isinstance(whole, np.ndarray):
        if isinstance(whole, np.memmap) and isinstance(whole.base, mmap.mmap):
            return whole
        whole = whole.base
    return None


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _embed(tensor: TensorProto, file: Path, offset: int, count: int) -> None:
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(count)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def _declared(tensor: TensorProto) -> TensorProto:
    """The tensor as one whose data is kept beside the message."""
    new = without(tensor, CONTENT)
    new.data_location = TensorProto.EXTERNAL
    return new


def tensor(name: str, value: NDArray[Any], beside: dict[str, NDArray[Any]] | None) -> TensorProto:
    """An initializer; where others are kept beside the message, a large one goes there, too."""
    value = np.asarray(value, order="C")
    if beside is None or value.nbytes < LARGE:
        return numpy_helper.from_array(value, name)
    beside[name] = value
    return _declared(TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape))


# ---------------------------------------------------------------------------------------------- contents


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model, wherever it is."""
    yield from _tensors_of(model.graph)
    for training in model.training_info:
        yield from _tensors_of(training.initialization)
        yield from _tensors_of(training.algorithm)
    for function in model.functions:
        yield from _tensors_in(function.node)


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_in(graph.node)


def _tensors_in(nodes: Sequence[NodeProto]) -> Iterator[TensorProto]:
    for a in (a for node in nodes for a in node.attribute):
        if a.type == AttributeProto.TENSOR:
            yield a.t
        yield from a.tensors
        for sparse in [a.sparse_tensor] if a.type == AttributeProto.SPARSE_TENSOR else a.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        for body in [a.g] if a.type == AttributeProto.GRAPH else a.graphs:
            yield from _tensors_of(body)


def _bytes(tensor: TensorProto) -> int:
    """Bytes of a tensor's content."""
    if tensor.data_type in PACKED:
        return int(tensor.ByteSize())
    return int(prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def size(model: Model) -> int:
    """Bytes that a model takes in a file."""
    beside = sum(_bytes(t) for t in model.proto.graph.initializer if t.name in model.arrays)
    inside = sum(_bytes(t) for t in model.proto.graph.initializer if t.name not in model.arrays)
    return beside + (inside if inside >= BIG else int(model.proto.ByteSize()))  # a larger one can't be encoded


def big(model: Model) -> bool:
    """Whether a model is handled in parts: it, or all that its arrays belong to, takes BIG bytes."""
    return max(size(model), sum(array.nbytes for array in model.arrays.values())) >= BIG


def moved_size(model: Model, location: str) -> int:
    """Bytes that a model takes with its weights in a file beside it, which is called like that: both files."""
    counter = _Counter()
    return int(_moved(model, location, counter).ByteSize()) + counter.tell()


class _Counter(BytesIO):
    """A file that only counts what is written to it."""

    count = 0

    def write(self, content: Any, /) -> int:
        self.count += len(content)
        return len(content)

    def tell(self) -> int:
        return self.count


def on_disk(path: Path) -> int:
    """Bytes of a model file and of the files beside it that hold its weights."""
    locations = {e.value for t in _tensors(_parsed(path)) for e in t.external_data if e.key == "location"}
    files = {_beside(location, path) for location in locations}
    return path.stat().st_size + sum(file.stat().st_size for file in files)


def embedded(model: Model) -> ModelProto:
    """The model as one message, with all its data in it."""
    if not model.arrays:
        return model.proto
    proto = _shallow(model.proto)
    for tensor in model.proto.graph.initializer:
        proto.graph.initializer.append(_filled(tensor, model))
    return proto


def _filled(tensor: TensorProto, model: Model) -> TensorProto:
    """An initializer with its data."""
    if tensor.name not in model.arrays:
        return tensor
    new = without(tensor, CONTENT)
    new.raw_data = numpy_helper.from_array(model.arrays[tensor.name]).raw_data
    return new


def _shallow(model: ModelProto) -> ModelProto:
    """A copy without the graph's initializers, which aren't copied on the way."""
    new = without(model, ("graph",))
    new.graph.CopyFrom(without(model.graph, ("initializer",)))
    return new


def without(message: M, fields: Sequence[str]) -> M:
    """A message without some of its fields, which aren't copied on the way."""
    new = type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.name in fields:
            continue
        if descriptor.is_repeated:
            getattr(new, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(new, descriptor.name).CopyFrom(value)
        else:
            setattr(new, descriptor.name, value)
    return new


# ---------------------------------------------------------------------------------------------- writing


def beside(path: Path, model: Model) -> Path:
    """The data file of a model written to `path`: named after it, with the ending that the model's own one has."""
    own = [
        d.name.removeprefix(model.path.name) for d in model.data if model.path and d.name.startswith(model.path.name)
    ]
    return path.with_name(path.name + (own[0] if len(own) == len(model.data) == 1 and own[0] else ".data"))


def save(model: Model | ModelProto, path: str | Path, *, external: bool | None = None) -> None:
    """Write a model whole or not at all, its weights in a file beside it if `external`. Raises OutputError.

    By default weights are written as the model's own file had them; beside it, too, where they don't fit into it.
    """
    model = model if isinstance(model, Model) else Model(model)
    path = Path(path)
    data = beside(path, model)
    if external is None:
        external = bool(model.data)
    if external or size(model) >= 2 * BIG - LARGE:
        if data.resolve() in model.data and model.path is not None and path.resolve() != model.path.resolve():
            raise OutputError(f"{data} holds the weights of {model.path}; give another path to write to.")
        with replacing(path, data) as (file, other):
            file.write(_moved(model, data.name, other).SerializeToString())
    else:
        old = _owned(path, data)
        with replacing(path) as (file,):
            file.write(embedded(model).SerializeToString())
        if old:
            data.unlink(missing_ok=True)


def _moved(model: Model, location: str, file: BinaryIO) -> ModelProto:
    """The message that refers to `location` for its weights, which are written to `file`."""
    proto = _shallow(model.proto)
    for tensor in model.proto.graph.initializer:
        if _bytes(tensor) < EXTERNAL or tensor.data_type in PACKED:
            proto.graph.initializer.append(_filled(tensor, model))
            continue
        array = model.arrays[tensor.name] if tensor.name in model.arrays else numpy_helper.to_array(tensor)
        offset = file.tell() + -file.tell() % ALIGNMENT
        file.write(bytes(offset - file.tell()))
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        file.write(content.data)
        new = proto.graph.initializer.add()
        new.CopyFrom(_declared(tensor))
        for key, value in (("location", location), ("offset", offset), ("length", content.nbytes)):
            new.external_data.add(key=key, value=str(value))
    return proto


def _owned(path: Path, data: Path) -> bool:
    """Whether the model that is at `path` now keeps its weights in `data`."""
    try:
        return data.exists() and any(e.value == data.name for t in _tensors(_parsed(path)) for e in t.external_data)
    except ModelError:
        return False
