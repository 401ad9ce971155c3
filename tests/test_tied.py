"""Layers that are one in several places, as a detector's head on all maps, stay one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cases import Case

import models
from onnxprune import prune
from onnxprune.coupling import couple
from onnxprune.fitting import error_on, refit
from onnxprune.graph import Graph
from onnxprune.oracle import check
from onnxprune.plan import Plan, Weights
from onnxprune.reconstruct import MODES, refit_ahead
from onnxprune.rewrite import rewrite
from onnxprune.statistics import collect


def head(behind: str = "d{l} = Relu(c{l})", order: tuple[int, ...] = (0, 1, 2), **weights: object) -> onnx.ModelProto:
    """Maps of three sizes, each read by the same three layers; `behind` is what stands between the last two."""
    body = "".join(
        f"""
        s{level} = Conv<pads=[1,1,1,1], strides=[{2**level},{2**level}]>(x, ws{level})
        r{level} = Relu(s{level})
        a{level} = Conv<pads=[1,1,1,1]>(r{level}, wa, ba)
        b{level} = Relu(a{level})
        c{level} = Conv<pads=[1,1,1,1]>(b{level}, wb)
        {behind.format(l=level)}
        e{level} = Conv(d{level}, wc)
        f{level} = Reshape(e{level}, flat)"""
        for level in order
    )
    constants = {f"ws{level}": (8, 3, 3, 3) for level in range(3)} | {"wa": (16, 8, 3, 3), "ba": (16,)}
    constants |= {"wb": (16, 16, 3, 3), "wc": (4, 16, 1, 1), "flat": [0, 4, -1]}
    case = Case("head", "float[N,3,8,8] x", "float[N,4,L] y", f"{body}\ny = Concat<axis=2>(f0, f1, f2)",
                constants | weights)  # fmt: skip
    return case.model()


def images(count: int = 64) -> list[dict[str, np.ndarray]]:
    return [{"x": x} for x in np.split(np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32), 4)]


def weights_of(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The weights that the layers of the head read, on each map."""
    nodes = {n.output[0]: n for n in model.graph.node}
    return {layer: [nodes[f"{layer}{level}"].input[1] for level in range(3)] for layer in "ace"}


@pytest.mark.parametrize("mode", MODES)
def test_a_head_stays_one(mode):
    model = head()
    result = prune(model, target="params=0.5", calibration=images(), reconstruct=mode)
    assert result.report.after.params <= 0.5 * result.report.before.params
    assert weights_of(result.model) == weights_of(model)
    plain = prune(model, target="params=0.5", calibration=images(), reconstruct="none")
    assert mode == "none" or result.report.fidelity.relative_error < 0.9 * plain.report.fidelity.relative_error


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_it_is_fitted_on_all_maps(order):
    """The weights fit all maps better than what fits the first one alone."""
    coupling = couple(Graph(head(order=order)))
    first, *others = coupling.tied["e0"]
    keep, parts = {f"c{order[0]}": np.arange(8)}, [images(), images()]
    refits = refit_ahead(coupling, keep, parts, 128, models.RUNTIME)
    assert all(refits[one.key] is refits[first.key] for one in others)
    moments = collect(coupling.graph, [first, *others], parts[:1], 64, models.RUNTIME)
    alone = refit(first, coupling.mask(keep).inputs(first), moments[first.key][0], None)
    together, one = (
        sum(error_on(linear, weights, moments[linear.key][0]) for linear in (first, *others))
        for weights in (refits["e0"].weights, alone.weights)
    )
    assert together < 0.9 * one


def test_what_stands_behind_one_use_alone_isnt_folded():
    norms = {f"{name}{level}": (16,) for name in "ghmv" for level in range(3)}
    model = head("n{l} = BatchNormalization(c{l}, g{l}, h{l}, m{l}, v{l})\n        d{l} = Relu(n{l})", **norms)
    coupling = couple(Graph(model))
    assert all(not linear.tail for linear in coupling.layers.values())
    result = prune(model, target="params=0.5", calibration=images())
    assert all(len(set(names)) == 1 for names in weights_of(result.model).values())
    assert sum(n.op_type == "BatchNormalization" for n in result.model.graph.node) == 3
    alike = head("n{l} = BatchNormalization(c{l}, g, h, m, v)\n        d{l} = Relu(n{l})",
                 **dict.fromkeys("ghmv", (16,)))  # fmt: skip
    coupling = couple(Graph(alike))
    assert sorted(len(several) for several in coupling.tied.values()) == [3] * 9
    assert len(coupling.layers["c0"].tail) == 1


def test_a_plan_may_give_each_use_weights_of_its_own():
    coupling, rng = couple(Graph(head())), np.random.default_rng(0)
    keep = {"a0": np.arange(7)}
    mask, weights = coupling.mask(keep), {}
    for name in ("c0", "c1"):
        linear = coupling.layers[name]
        rows = np.repeat(mask.inputs(linear), linear.taps)[None, :, None]
        weights[name] = Weights(linear.matrix * rows * rng.normal(size=linear.matrix.shape), linear.offset + 1)
    plan = Plan(keep, weights)
    model = rewrite(coupling, plan)
    assert len(set(weights_of(model)["c"])) == 3
    assert check(coupling, plan, model, images(4)).ok


def test_layers_that_differ_in_anything_else_arent_one():
    body = "a = Gemm(x, w1)\nb = Gemm<alpha=2.0>(x, w1)\nc = Add(a, b)\nr = Relu(c)\ny = Gemm(r, w2)"
    coupling = models.coupled(models.build("float[N,6] x", "float[N,3] y", body, {"w1": (6, 8), "w2": (8, 3)}))
    assert not coupling.tied


@pytest.mark.parametrize("transposed", [False, True])
def test_the_table_of_an_embedding_is_not_written_twice(transposed):
    """The last layer reads it, too, and loses no inputs: what it reads has drifted, but a table of its own is large."""
    body = """e = Gather(table, t)
        h = MatMul(e, w1) r = Relu(h) d = MatMul(r, w2) s = Add(e, d)"""
    body += "z = Transpose<perm=[1,0]>(table) y = MatMul(s, z)" if transposed else " y = Gemm<transB=1>(s, table)"
    weights = {"table": (20, 6), "w1": (6, 16), "w2": (16, 6)}
    model = Case("tied", "int64[N] t", "float[N,20] y", body, weights).model()
    tokens = [{"t": np.random.default_rng(i).integers(0, 20, 8)} for i in range(20)]
    found = prune(model, target="params=0.8", round_to=1, calibration=tokens, measure_latency=False)
    assert [g.channels > g.kept for g in found.report.groups] == [True, False]  # neurons, and the stream
    shapes = [list(t.dims) for t in found.model.graph.initializer]
    assert shapes.count([20, 6]) + shapes.count([6, 20]) == 1
