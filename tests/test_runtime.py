"""Sessions: what they are given, and what they say when it doesn't work."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import CASES

import models
from onnxprune import runtime
from onnxprune.errors import DataError, ModelError, ProviderError
from onnxprune.runtime import Chain, Runtime, provider


def test_a_model_runs_from_memory_and_from_a_file(tmp_path):
    case = CASES["chain"]
    onnx.save(case.model(), tmp_path / "m.onnx")
    feed = case.feed()
    results = [Runtime(threads=1).session(m).run(feed) for m in (case.model(), tmp_path / "m.onnx")]
    np.testing.assert_array_equal(results[0]["y"], results[1]["y"])


def test_outputs_by_name_and_inputs_that_nobody_asked_for():
    case = CASES["two_heads"]
    session = Runtime(threads=1).session(case.model(), optimize=False)
    found = session.run({**case.feed(), "other": np.zeros(1)}, ["q"])
    assert list(found) == ["q"]
    assert session.outputs == ["p", "q"]
    assert session.inputs == ["x"]


def test_sessions_one_after_the_other():
    first = models.build("float[N,3] x", "float[N,3] h, float[N,3] g", "h = Relu(x)\ng = Neg(x)", {})
    second = models.build("float[N,3] x, float[N,3] h", "float[N,3] y", "y = Sub(h, x)", {})
    sessions = [Runtime(threads=1).session(model) for model in (first, second)]
    chain, x = Chain(sessions, ["g", "y", "other"]), np.array([[-1, 0, 2]], np.float32)
    assert (chain.inputs, chain.outputs) == (["x"], ["g", "y"])
    np.testing.assert_array_equal(chain.run({"x": x, "more": x})["y"], [[1, 0, 0]])
    np.testing.assert_array_equal(chain.run({"x": x}, ["g"])["g"], -x)
    assert list(chain.run({"x": x})) == ["g", "y"]
    with pytest.raises(DataError):
        chain.run({})


def test_short_and_full_names_of_providers():
    assert provider("cpu") == provider("CPU") == provider("CPUExecutionProvider") == "CPUExecutionProvider"


def test_a_provider_that_is_not_there_names_those_that_are():
    with pytest.raises(ProviderError, match=r"'nonsense'.*cpu"):
        Runtime("nonsense").session(CASES["chain"].model())


def test_a_provider_that_does_not_start(monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: Fallen())
    with pytest.raises(ProviderError, match="didn't start"):
        Runtime("cuda").session(CASES["chain"].model())


class Fallen:
    """A session that fell back to the processor."""

    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_a_model_that_does_not_load():
    with pytest.raises(ModelError, match=r"can't load the model: .*Frobnicate"):
        Runtime().session(CASES["unknown_operator"].model())


def test_an_input_that_does_not_fit():
    session = Runtime().session(CASES["chain"].model())
    with pytest.raises(DataError, match="fails on this input"):
        session.run({"x": np.zeros((1, 3, 8), np.float32)})
    with pytest.raises(DataError):
        session.run({})


def test_reasons_are_one_short_line():
    assert runtime._reason(ValueError("[E] : 1 : FAIL : a\n  b " + "c" * 500)).startswith("a b ccc")
    assert len(runtime._reason(ValueError("x" * 500))) == 301
