"""onnxruntime: sessions, providers, and nothing else knows of it.

A model of ordinary size is handed over as one message. A big one (`files.BIG`; a message can't hold 2 GB) is handed
over without its weights: onnxruntime maps those that lie in a file just as we do, and gets the others as arrays. It
then neither optimizes the graph nor repacks weights, which would make copies of them, and makes what a node reads just
before that runs (a weight that is transposed or cast), not first of all; so a session takes no memory worth mentioning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from onnxprune import files
from onnxprune.errors import DataError, ModelError, ProviderError
from onnxprune.files import Model
from onnxprune.graph import Array

SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


def provider(name: str) -> str:
    """The full name of an execution provider that this onnxruntime has; ProviderError names those it has."""
    full = SHORT.get(name.lower(), name)
    available = ort.get_available_providers()
    if full not in available:
        known = {v: k for k, v in SHORT.items()}
        here = ", ".join(known.get(p, p) for p in available)
        raise ProviderError(
            f"execution provider '{name}' isn't available in this onnxruntime; it has: {here}. "
            "Install the onnxruntime package that brings it, or choose another with --provider."
        )
    return full


@dataclass(frozen=True)
class Runtime:
    """Where and how models run: an execution provider and a number of threads (0: onnxruntime's choice)."""

    provider: str = "cpu"
    threads: int = 0
    libraries: tuple[str, ...] = ()  # shared libraries with custom operators

    @property
    def version(self) -> str:
        """The version of onnxruntime."""
        return str(ort.__version__)

    def session(
        self,
        model: Model | ModelProto | str | Path,
        *,
        optimize: bool = True,
        in_parts: bool = False,
        planned: bool = False,
    ) -> Session:
        """Load a model, `in_parts` as if it was a big one; ModelError says why onnxruntime can't.

        Memory isn't `planned` ahead for a size of inputs, as onnxruntime does by default: that takes it twice.
        """
        if isinstance(model, str | Path):
            model = files.load(model)
        elif isinstance(model, ModelProto):
            model = Model(model)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = planned
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work between two runs
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        chosen = [provider(self.provider)]
        if chosen != ["CPUExecutionProvider"]:
            chosen.append("CPUExecutionProvider")  # for the operators that the provider leaves to it
        try:
            for library in self.libraries:
                options.register_custom_ops_library(library)
            message, held = _message(model, options, in_parts=in_parts)
            session = ort.InferenceSession(message, options, providers=chosen)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelError(f"onnxruntime can't load the model: {_reason(error)}") from error
        if session.get_providers()[0] != chosen[0]:
            raise ProviderError(
                f"execution provider '{self.provider}' is installed but didn't start (missing driver or library?); "
                "choose another with --provider."
            )
        return Session(session, held)


class Session:
    """A loaded model."""

    def __init__(self, session: Any, held: Sequence[Any] = ()) -> None:
        self._session, self._held = session, held  # onnxruntime may use arrays in place
        self.outputs: list[str] = [o.name for o in session.get_outputs()]
        self.inputs: list[str] = [i.name for i in session.get_inputs()]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Values of the outputs (all of them when None); DataError if the model fails on these inputs."""
        names = list(outputs) if outputs is not None else self.outputs
        try:
            values = self._session.run(names, {n: feeds[n] for n in self.inputs if n in feeds})
        except Exception as error:
            raise DataError(f"the model fails on this input: {_reason(error)}") from error
        return dict(zip(names, map(_array, values), strict=True))


def _array(value: Any) -> Array:
    """An output; a sequence of tensors as one, side by side if they have equally many rows."""
    if not isinstance(value, list) or not value or not all(isinstance(v, np.ndarray) and v.ndim for v in value):
        return np.asarray(value)
    rows = {len(one) for one in value}
    return np.concatenate([one.reshape(len(one), -1) if len(rows) == 1 else one.ravel() for one in value], axis=-1)


class Chain(Session):
    """Sessions one after the other, each of which reads what it is fed and what the ones before it made."""

    def __init__(self, sessions: Sequence[Session], outputs: Sequence[str]) -> None:
        self.sessions = sessions
        made, read = set[str](), dict[str, None]()
        for session in sessions:
            read.update((name, None) for name in session.inputs if name not in made)
            made.update(session.outputs)
        self.inputs, self.outputs = list(read), [name for name in outputs if name in made]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Values of the outputs (all of them when None); DataError if the models fail on these inputs."""
        names = list(outputs) if outputs is not None else self.outputs
        values = {name: feeds[name] for name in self.inputs if name in feeds}
        for place, session in enumerate(self.sessions):
            values |= session.run(values)
            wanted = {name for later in self.sessions[place + 1 :] for name in later.inputs}.union(names)
            values = {name: value for name, value in values.items() if name in wanted}
        return {name: values[name] for name in names}


def _message(model: Model, options: Any, *, in_parts: bool) -> tuple[bytes, list[Any]]:
    """What a session is made from. Of a big model `options` say where its weights are, and some are held in memory."""
    if not in_parts and not files.big(model):
        return files.embedded(model).SerializeToString(), []
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    tensors = {t.name: t for t in proto.graph.initializer if t.name in model.arrays}
    places = {name: place for name in tensors if (place := files.place(model.arrays[name]))}
    drive = Path(next((file.anchor for file, _ in places.values()), ""))  # of which each file is one
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(drive))
    others: list[str] = []
    for name, tensor in tensors.items():
        file, offset = places.get(name, (Path(), 0))
        known = name in places and file.is_relative_to(drive)
        others += [] if known else [name]
        entries = {"location": file.relative_to(drive) if known else "beside", "offset": offset}
        for key, value in {**entries, "length": model.arrays[name].nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
    for name in tensors:
        files.release(model.arrays[name])  # onnxruntime maps the file itself
    typed = ort.OrtValue.ortvalue_from_numpy_with_onnx_type  # the other one knows NumPy's own types alone
    values = [typed(np.ascontiguousarray(model.arrays[n]), tensors[n].data_type) for n in others]
    options.add_external_initializers(others, values)
    return proto.SerializeToString(), values


def _reason(error: Exception) -> str:
    """The informative part of an onnxruntime message, on one line."""
    text = str(error).split(" : ")[-1]
    return " ".join(text.split())[:300].rstrip(".") + "."
