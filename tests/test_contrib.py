"""What onnxruntime merged, and what it stands for, compute the same; shapes are those that onnxruntime finds."""

from __future__ import annotations

from math import erf

import numpy as np
import onnx
import pytest
from cases import CASES
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from strategies import random_plan

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


class NhwcConv(OpRun):
    """A convolution with the channels last, a sum and an activation."""

    op_domain = contrib.DOMAIN

    def _run(self, x, w, b=None, z=None, activation="", **attributes):
        attributes = {name: value for name, value in attributes.items() if value is not None}
        node = helper.make_node("Conv", ["x", "w", "b"][: 2 if b is None else 3], ["y"], **attributes)
        feed = {"x": np.moveaxis(x, -1, 1), "w": np.moveaxis(w, -1, 1)} | ({} if b is None else {"b": b})
        y = np.moveaxis(ReferenceEvaluator(node).run(None, feed)[0], 1, -1)
        y = y if z is None else y + z
        return (np.maximum(y, 0) if activation else y,)


class NhwcFusedConv(NhwcConv):
    pass


class GroupNorm(OpRun):
    op_domain = contrib.DOMAIN

    def _run(self, x, gamma, beta, activation=0, channels_last=1, epsilon=1e-5, groups=1):
        axis = 3 if channels_last else 1
        rows = np.moveaxis(x, axis, 1)
        apart = rows.reshape(len(x), groups, -1)
        apart = (apart - apart.mean(2, keepdims=True)) / np.sqrt(apart.var(2, keepdims=True) + epsilon)
        y = np.moveaxis(apart.reshape(rows.shape), 1, -1) * gamma + beta
        y = y / (1 + np.exp(-y)) if activation else y
        return (np.moveaxis(y, -1, axis).astype(x.dtype),)


class SkipGroupNorm(OpRun):
    op_domain = contrib.DOMAIN

    def _run(self, x, gamma, beta, skip, bias=None, channels_last=1, **rest):
        skip = skip if skip.ndim == 4 else skip[:, None, None] if channels_last else skip[:, :, None, None]
        whole = x + skip + (0 if bias is None else bias)
        norm = GroupNorm(self.onnx_node, self.run_params)
        return (*norm._run(whole, gamma, beta, channels_last=channels_last, **rest), whole)


def gelu(x):
    return (x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2).astype(x.dtype)


class Gelu(OpRun):
    op_domain = contrib.DOMAIN

    def _run(self, x, approximate=None):
        return (gelu(x),)


class BiasAdd(OpRun):
    op_domain = contrib.DOMAIN

    def _run(self, x, bias, skip):
        return (x + bias + skip,)


class BiasSplitGelu(OpRun):
    op_domain = contrib.DOMAIN

    def _run(self, x, bias):
        left, right = np.split(x + bias, 2, axis=-1)
        return (left * gelu(right),)


OPERATORS = [NhwcConv, NhwcFusedConv, GroupNorm, SkipGroupNorm, Gelu, BiasAdd, BiasSplitGelu]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "name", ["images_with_channels_last", "norm_groups_with_channels_first", "sums_and_gates_with_a_bias"]
)
def test_what_runs_on_gpus_alone(name, seed):
    """By a reference of its own: taken apart, and with fewer channels, it computes what it did."""
    case = CASES[name]
    coupling, feed = couple(Graph(case.model())), case.feed(2)
    plan = random_plan(coupling, seed=seed)
    pairs = [(case.model(), twin(coupling, Plan())), (twin(coupling, plan), rewrite(coupling, plan))]
    for pair in pairs:
        one, other = (ReferenceEvaluator(model, new_ops=OPERATORS).run(None, feed)[0] for model in pair)
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


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
