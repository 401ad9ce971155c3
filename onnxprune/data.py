"""The samples of a run: where they come from, and which of them fit, choose and judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune import calibration, evaluation
from onnxprune.calibration import Input, Preprocessing, Samples
from onnxprune.declared import length
from onnxprune.errors import DataError
from onnxprune.evaluation import Labelled
from onnxprune.graph import Graph
from onnxprune.runtime import Session

Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]
SYNTHETIC_SAMPLES = 256


@dataclass(frozen=True)
class Division:
    """Indices of the samples that are fitted, that choose (dampings, curves, probes), and that judge the result."""

    fit: Ints
    tune: Ints
    judge: Ints


def divide(count: int, seed: int, *, judge: float, copies: int = 1) -> Division:
    """Divide sample numbers at random: a share `judge` of them (at most 512), then 15 % of the rest to choose by.

    With `copies`, that many neighbours (a sample and its mirror image) stay together. With too few samples to divide,
    all fit and all judge.
    """
    units = count // copies
    order = np.random.default_rng(seed).permutation(units)
    judges = min(max(round(units * judge), 1), 512) if judge else 0
    chooses = min(round((units - judges) * 0.15), 512)
    parts = np.split(order, [judges, judges + chooses])
    judged, tuned, fitted = ((part[:, None] * copies + np.arange(copies)).ravel() for part in parts)
    if not len(fitted):
        return Division(np.arange(count), tuned[:0], np.arange(count))
    return Division(fitted, tuned, judged)


def inputs_of(graph: Graph) -> list[Input]:
    """The model's inputs as `calibration` wants them."""
    found = []
    for value in graph.inputs:
        tensor = value.type.tensor_type
        shape = tuple(length(d) or d.dim_param or None for d in tensor.shape.dim)
        found.append(
            Input(
                value.name,
                np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
                shape if tensor.HasField("shape") else None,
            )
        )
    return found


def samples_of(
    graph: Graph,
    path: Path | None,
    source: Any,
    preprocessing: Preprocessing,
    samples: int | None,
    seed: int,
    shapes: Mapping[str, Sequence[int]] | None,
) -> Samples:
    """What was given, else the `.calib.npz` beside the model, else made-up inputs. Raises DataError."""
    inputs = inputs_of(graph)
    sizes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    source = source if source is not None else calibration.sidecar(path) if path is not None else None
    if source is None:
        found = calibration.synthetic(inputs, count=samples or SYNTHETIC_SAMPLES, seed=seed, shapes=sizes)
    else:
        found = calibration.load(source, inputs, preprocessing=preprocessing, samples=samples, seed=seed, shapes=sizes)
    return found if graph.batched else replace(found, batchable=False)


def bearable(samples: Samples, session: Session, progress: Progress = lambda done, total: None) -> Samples:
    """Without the samples on which a model fails, as a detector may where it finds nothing. DataError if that are all.

    A sample goes with its mirror image.
    """
    fine, copies, failure = np.ones(len(samples.places), bool), samples.count // len(samples.places), None
    for index in range(samples.count):
        try:
            session.run(samples.feed([index]))
        except DataError as error:
            fine[index // copies], failure = False, error
        progress(index + 1, samples.count)
    if failure is not None and not fine.any():
        raise failure
    return replace(samples, places=samples.places[fine])


def labelled_of(source: Any, graph: Graph, preprocessing: Preprocessing) -> Labelled:
    """Labelled samples from an `.npz` or (samples, labels), or a user's function of a model file. Raises DataError."""
    if callable(source):
        return Labelled(function=source)
    if isinstance(source, tuple):
        x, y = source
        plain = replace(preprocessing, mirror=False)
        return Labelled(calibration.load(x, inputs_of(graph), preprocessing=plain), np.asarray(y))
    if isinstance(source, str) and ":" in source and source.rpartition(":")[0].endswith(".py"):
        return Labelled(function=evaluation.load_function(source))
    return Labelled(*calibration.load_labelled(source, inputs_of(graph), preprocessing=preprocessing))


def shapes_of(samples: Samples) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that one sample feeds."""
    feed = next(iter(samples.batches([0], 1)))
    return {name: value.shape for name, value in feed.items()}
