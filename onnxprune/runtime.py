"""onnxruntime: sessions, providers, and nothing else knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from onnxprune.errors import DataError, ModelError, ProviderError
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

    def session(self, model: ModelProto | str | Path, *, optimize: bool = True) -> Session:
        """Load a model; ModelError says why onnxruntime can't."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # NumPy works between two runs
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        chosen = [provider(self.provider)]
        if chosen != ["CPUExecutionProvider"]:
            chosen.append("CPUExecutionProvider")  # for the operators that the provider leaves to it
        source: Any = str(model) if isinstance(model, str | Path) else model.SerializeToString()
        try:
            session = ort.InferenceSession(source, options, providers=chosen)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelError(f"onnxruntime can't load the model: {_reason(error)}") from error
        if session.get_providers()[0] != chosen[0]:
            raise ProviderError(
                f"execution provider '{self.provider}' is installed but didn't start (missing driver or library?); "
                "choose another with --provider."
            )
        return Session(session)


class Session:
    """A loaded model."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.outputs: list[str] = [o.name for o in session.get_outputs()]
        self.inputs: list[str] = [i.name for i in session.get_inputs()]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Values of the outputs (all of them when None); DataError if the model fails on these inputs."""
        names = list(outputs) if outputs is not None else self.outputs
        try:
            values = self._session.run(names, {n: feeds[n] for n in self.inputs if n in feeds})
        except Exception as error:
            raise DataError(f"the model fails on this input: {_reason(error)}") from error
        return dict(zip(names, (np.asarray(v) for v in values), strict=True))


def _reason(error: Exception) -> str:
    """The informative part of an onnxruntime message, on one line."""
    text = str(error).split(" : ")[-1]
    return " ".join(text.split())[:300].rstrip(".") + "."
