"""What onnxruntime merged, and what it stands for, compute the same; shapes are those that onnxruntime finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cases import CASES
from onnx import ModelProto, helper

from onnxprune import contrib
from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.oracle import check
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite, twin
from onnxprune.runtime import Runtime

OWN = [n for n, c in CASES.items() if c.runs and "com.microsoft" in c.body]
RUNTIME = Runtime(threads=1)


def results(model: ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = RUNTIME.session(model, optimize=False)
    return session.run(feed, [o.name for o in model.graph.output])


@pytest.mark.parametrize("name", OWN)
def test_taken_apart_is_the_same(name):
    """Without a plan the twin is the model as the graph lists it."""
    case = CASES[name]
    model = case.model()
    plain = twin(couple(Graph(model)), Plan())
    static = set(Graph(model).initializers)
    assert not any(contrib.merged(node, static) for node in plain.graph.node)
    feed = case.feed(2)
    expected, found = results(model, feed), results(plain, feed)
    for value in expected:
        np.testing.assert_allclose(found[value], expected[value], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_shapes_are_those_of_the_runtime(name):
    case = CASES[name]
    model = case.model()
    graph = Graph(model)
    probe = graph.probes[-1]
    batched = [i.name for i in graph.inputs if i.type.tensor_type.shape.dim[0].dim_param]
    batch = max((probe.shapes[name][0] for name in batched), default=1)
    names = [n for node in model.graph.node for n in node.output if n]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_value_info(n, onnx.TypeProto()) for n in names)
    found = results(model, case.feed(batch))
    assert {n: tuple(v.shape) for n, v in found.items()} == {n: probe.shapes[n] for n in names}


@pytest.mark.parametrize("name", OWN)
def test_surgery_is_exact(name):
    case = CASES[name]
    coupling = couple(Graph(case.model()))
    plan = Plan({g.name: np.arange(g.channels)[g.cells >= 0][1:] for g in coupling.groups if not g.cells.any()})
    verdict = check(coupling, plan, rewrite(coupling, plan), [case.feed(2)])
    assert verdict.ok, verdict
