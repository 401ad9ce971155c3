"""How a model answers: agreement with another model, accuracy, size and time."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from onnxprune import intervals
from onnxprune.calibration import Samples
from onnxprune.cost import file_bytes, parameters, total_macs
from onnxprune.errors import DataError
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.report import Fidelity, Loss, Size
from onnxprune.runtime import Runtime, Session

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
BATCH = 64  # samples that are run at once, unless they are large
GRANTED = 2e9  # bytes for what a model holds while it runs
ANSWERS_HELD = 3e8  # bytes of answers that are kept to be compared; dense outputs are judged on fewer samples


@dataclass(frozen=True)
class Labelled:
    """Labelled samples, or a user's function that gives an accuracy for a model file."""

    samples: Samples | None = None
    labels: Ints | None = None
    function: Callable[[str], float] | None = None


def affordable(graph: Graph, names: Iterable[str], most: float = ANSWERS_HELD) -> int:
    """For how many samples these values fit into memory granted for answers, at least 1."""
    size = sum(8 * prod(graph.shapes.get(name, ())) for name in names)
    return max(1, int(most // max(size, 1)))


def at_once(graph: Graph, granted: float = GRANTED) -> int:
    """How many samples are run at once by default: up to BATCH, as far as what a model holds fits into memory granted.

    What is held are the values that are still to be read, when they are most; onnxruntime keeps up to twice as much.
    """
    last = {name: i for i, node in enumerate(graph.nodes) for name in (*node.output, *graph.reads(node))}
    sizes = {name: _bytes(graph, name) for name in last if name not in graph.static}
    change = np.zeros(len(graph.nodes) + 1)
    for i, node in enumerate(graph.nodes):
        for name in sizes.keys() & {*node.output}:
            change[i] += sizes[name]
            change[last[name] + 1] -= sizes[name]
    most = float(np.cumsum(change).max(initial=0.0))
    return max(1, min(BATCH, int(granted // max(2 * most, 1.0))))


def _bytes(graph: Graph, name: str) -> float:
    """Bytes of a value of one sample; 0 if that isn't known."""
    elements = prod(graph.shapes[name]) if name in graph.shapes else 0
    return float(elements) * helper.tensor_dtype_to_np_dtype(graph.types[name]).itemsize if elements else 0.0


def answers(
    model: Model | ModelProto,
    samples: Samples,
    indices: Sequence[int],
    runtime: Runtime,
    batch: int,
    outputs: Sequence[str] | None = None,
    *,
    changed: bool = False,
) -> list[Array]:
    """What `collected` gives of the model's outputs (or some of them) for these samples, one after the other.

    Where a `changed` model fails, it answers nothing: a detector may, on what it no longer finds. If it fails on all
    samples, there are no values.
    """
    return list(collected(runtime.session(model), samples.batches(indices, batch), outputs, changed).values())


def collected(
    session: Session, feeds: Iterable[Mapping[str, Array]], outputs: Sequence[str] | None = None, changed: bool = False
) -> dict[str, Array]:
    """Values of a session's floating-point outputs (or some of them) for all feeds, joined along the batch axis.

    Where none is, those of its labels: integers, booleans, and strings.
    """
    found: dict[str, list[Array]] = {}
    for feed in feeds:
        try:
            values = session.run(feed, outputs)
        except DataError:
            if not changed:
                raise
            continue
        for name, value in values.items():
            if (answer := _answer(value)) is not None:
                found.setdefault(name, []).append(answer)
    joined = {name: _joined(parts) for name, parts in found.items()}
    return {name: value for name, value in joined.items() if not are_labels(value)} or joined


def _answer(value: Array) -> Array | None:
    """An output as numbers, labels as integers (strings by their checksums); None for what is neither."""
    value = np.atleast_1d(value)
    if value.dtype.kind == "O" and all(isinstance(row, dict) for row in value):  # a score for each class: a ZipMap's
        value = np.array([list(row.values()) for row in value])
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return value.astype(np.float64)
    if value.dtype.kind in "OUS" and all(isinstance(text, str) for text in value.flat):
        value = np.array([crc32(text.encode()) for text in value.flat]).reshape(value.shape)
    return value.astype(np.int64) if value.dtype.kind in "iub" else None


def _joined(values: list[Array]) -> Array:
    """Joined along the first axis; outputs of varying size are flattened first."""
    if len({value.shape[1:] for value in values}) == 1:
        return np.concatenate(values)
    return np.concatenate([value.ravel() for value in values])


def fidelity(
    before: Sequence[Array], after: Sequence[Array], count: int, origin: str, *, guided: bool = False
) -> Fidelity:
    """Compare the answers of two models to the same samples; if `guided`, values of which each counts alike.

    An output whose size the data decide (boxes that are found), and that has another size now, is wholly changed.
    Labels have errors as if they stood for vectors with a single 1.
    """
    if not before or not count:
        return Fidelity(None, 0.0, count, origin)
    found = _alike(before, after, count, origin) if guided else _compared(before, after, count, origin)
    return replace(found, unexplained=unexplained(before, after, origin))


def unexplained(before: Sequence[Array], after: Sequence[Array], origin: str) -> float | None:
    """The share of the answers' variance over made-up samples that changes; None for given samples.

    Answers to noise are often nearly the same for all of it. Then they stay what they are whatever is pruned, and only
    what little they vary tells anything; if they don't vary at all nothing does, and all counts as changed.
    """
    if origin != "synthetic":
        return None
    if all(are_labels(b) for b in before):
        return None if any(len(np.unique(b, axis=0)) > 1 for b in before) else 1.0
    change = sum(float(_squares(b, a)[0].sum()) for b, a in zip(before, after, strict=True))
    variance = sum(float(np.square(b - b.mean(0)).sum()) for b in before if len(b))
    return change / variance if variance > 0 else 1.0


def _alike(before: Sequence[Array], after: Sequence[Array], count: int, origin: str) -> Fidelity:
    sums = [[float(part.sum()) for part in _squares(b, a)] for b, a in zip(before, after, strict=True)]
    shares = [change / power for change, power in sums if power]
    return Fidelity(None, float(np.sqrt(np.mean(shares))) if shares else 0.0, count, origin)


def _compared(before: Sequence[Array], after: Sequence[Array], count: int, origin: str) -> Fidelity:
    squares = [_squares(b, a) for b, a in zip(before, after, strict=True)]
    change, power = (float(sum(part.sum() for part in column)) for column in zip(*squares, strict=True))
    error = float(np.sqrt(change / power)) if power else 0.0
    changed = _changed(before[0], after[0])
    if changed is not None:
        interval = intervals.proportion(float(changed.sum()), len(changed))
        return Fidelity(1 - float(changed.mean()), error, len(changed), origin, *interval)  # a run may hold several
    if all(len(part) == count for column in squares for part in column):  # a row is a sample
        changes, powers = (np.sum(column, axis=0) for column in zip(*squares, strict=True))
        return Fidelity(None, error, count, origin, *intervals.root_of_ratio(changes, powers))
    return Fidelity(None, error, count, origin)


def _changed(before: Array, after: Array) -> Float | None:
    """The share of each sample's answers that isn't the same [samples]; None where outputs are no answers."""
    if before.shape != after.shape or not len(before):
        return None
    if are_labels(before):
        return np.asarray((before != after).reshape(len(before), -1).mean(1))
    return np.asarray(before.argmax(1) != after.argmax(1), np.float64) if looks_like_scores(before) else None


def _squares(before: Array, after: Array) -> tuple[Float, Float]:
    """The squared change of each row, and its square."""
    if are_labels(before):
        same = before == after if before.shape == after.shape else np.zeros(before.shape, bool)
        change, power = 2.0 * ~same, np.ones(before.shape)
    else:
        change, power = np.square(before - after if before.shape == after.shape else before), np.square(before)
    axes = tuple(range(1, before.ndim))
    return change.sum(axes), power.sum(axes)


def loss(found: Fidelity, before: Float | None = None, after: Float | None = None) -> Loss:
    """What `drop` counts: the fall of the mean score of the same samples where there are scores, else of fidelity.

    Of made-up samples it is what tells more of a difference: fidelity, or what their answers' variance has lost.
    """
    if before is None or after is None:
        if (found.unexplained or 0.0) > found.loss:
            return Loss("variance", found.unexplained or 0.0, None, None, found.samples)
        what = "outputs" if found.top1_agreement is None else "agreement"
        return Loss(what, found.loss, found.low, found.high, found.samples)
    fall = round(float(before.mean() - after.mean()), 12)  # 0.92 - 0.91 is 0.01
    low, high = intervals.difference(before, after) if len(before) > 1 else (None, None)
    return Loss("accuracy", fall, low, high, len(before))


def needed(found: Loss, allowed: float) -> int | None:
    """Samples that show that what was measured is at most what is allowed, if the true loss is what was measured."""
    if found.high is None or found.value >= allowed:
        return None
    if found.of == "agreement":
        return intervals.samples_for(found.value, allowed)
    return math.ceil(found.samples * ((found.high - found.value) / (allowed - found.value)) ** 2)


def looks_like_scores(output: Array) -> bool:
    """Whether an output is one row of class scores per sample."""
    return output.ndim == 2 and output.shape[1] > 1 and not are_labels(output)


def are_labels(output: Array) -> bool:
    """Whether an output holds integers, such as an ArgMax gives."""
    return output.dtype.kind == "i"


def scores(model: Model | ModelProto, path: str | Path | None, data: Labelled, runtime: Runtime, batch: int) -> Float:
    """1 for each labelled sample [n] that the model gets right, else 0; or what the user's function says of the file.

    The mean is the accuracy.
    """
    if data.function is not None:
        try:
            return np.array([float(data.function(str(path)))])
        except Exception as error:  # the user's own code may raise anything
            raise DataError(f"the function given as --eval failed: {type(error).__name__}: {error}") from error
    if data.samples is None or data.labels is None:
        raise DataError("accuracy needs labelled samples, or a function of a model's path.")
    graph = (model.proto if isinstance(model, Model) else model).graph
    first = [o.name for o in graph.output if o.type.tensor_type.elem_type != TensorProto.STRING][:1]
    every, labels = range(data.samples.count), data.labels.ravel()
    found = answers(model, data.samples, every, runtime, batch, first) if first else []
    if found and are_labels(found[0]) and found[0].size == len(labels):
        return np.asarray(found[0].ravel() == labels, np.float64)
    if not found or not looks_like_scores(found[0]):
        raise DataError(
            "accuracy needs class scores [samples, classes] or class numbers [samples] as the first output (but for "
            "strings); pass a function instead."
        )
    if labels.max(initial=0) >= found[0].shape[1]:
        raise DataError(f"label {labels.max()} is larger than the model's {found[0].shape[1]} classes allow.")
    return np.asarray(found[0].argmax(1) == labels, np.float64)


def load_function(spec: str) -> Callable[[str], float]:
    """The function that `file.py:name` names."""
    file, _, name = spec.rpartition(":")
    if not Path(file).exists():
        raise DataError(f"{file}: no such file; --eval takes a labelled .npz or file.py:function.")
    try:
        function = runpy.run_path(file, run_name="onnxprune_user_eval").get(name)
    except Exception as error:  # the user's own code may raise anything
        raise DataError(f"{file} fails to run: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise DataError(f"{file} has no function '{name}'.")
    return function  # type: ignore[no-any-return]


def size(graph: Graph, on_disk: int | None = None, latency_ms: float | None = None) -> Size:
    """What a model weighs."""
    return Size(parameters(graph), total_macs(graph), on_disk or file_bytes(graph), latency_ms)
