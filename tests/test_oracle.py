"""The oracle notices what is wrong, and compares where comparing makes sense."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cases import CASES, Case
from onnx import helper, numpy_helper

from onnxprune import oracle
from onnxprune.coupling import couple
from onnxprune.errors import DataError, InternalError, OnnxPruneError
from onnxprune.graph import Graph
from onnxprune.ids import Ledger
from onnxprune.oracle import Verdict, check, comparable, demand
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite

X = "float[N,3,8,8] x"


def surgery(case: Case) -> Verdict:
    """The oracle on a case in which every group loses another channel than the one before."""
    coupling = couple(Graph(case.model()))
    plan = Plan({g.name: np.delete(np.arange(g.channels), i % g.channels) for i, g in enumerate(coupling.groups)})
    return check(coupling, plan, rewrite(coupling, plan), [case.feed(2)])


@pytest.mark.parametrize("name", ["residual_identity", "squeeze_excite", "arithmetic", "batchnorm_node", "split_gate"])
def test_a_missing_tie_is_noticed(name, monkeypatch):
    """Without any ties every tensor would lose channels by itself: the model breaks, or differs."""
    assert surgery(CASES[name]).ok
    tie = Ledger.tie

    def forgetful(self, a, b, reason):
        if "Add" not in reason and "Mul" not in reason and "Sub" not in reason and "BatchNorm" not in reason:
            tie(self, a, b, reason)

    monkeypatch.setattr(Ledger, "tie", forgetful)
    try:
        verdict = surgery(CASES[name])
    except OnnxPruneError:
        return  # onnxruntime refuses the model
    assert not verdict.ok


def test_a_forgotten_freeze_is_noticed(monkeypatch):
    """Channels that LRN mixes can't be removed: if nobody said so, the result would differ."""
    monkeypatch.setattr(
        Ledger, "freeze", lambda self, ids, reason: None if "LRN" in reason else FREEZE(self, ids, reason)
    )
    verdict = surgery(CASES["lrn"])
    assert not verdict.ok
    assert verdict.where == "y"
    with pytest.raises(InternalError, match="'y'"):
        demand(verdict)


FREEZE = Ledger.freeze


def test_wrong_channels_are_noticed():
    """Removing other channels than the plan says is an error of surgery, not an approximation."""
    coupling = couple(Graph(CASES["chain"].model()))
    plan, other = (Plan({"a": np.asarray(kept)}) for kept in ([0, 1, 2, 3], [0, 1, 2, 4]))
    verdict = check(coupling, plan, rewrite(coupling, other), [CASES["chain"].feed()])
    assert not verdict.ok
    assert verdict.max_abs_diff > 1e-3


def test_demand_is_silent_when_all_is_well():
    demand(Verdict(0.0, True, ""))


def test_a_network_that_nobody_can_tell_anything_of_is_no_bug():
    with pytest.raises(InternalError, match=r"makes 2e-02 of a millionth.*more or other calibration data"):
        demand(Verdict(0.15, False, "y", 0.02))
    for rounding in (1e-3, float("inf")):
        with pytest.raises(InternalError, match=r"by 1.5e-01 of its size.*it is a bug"):
            demand(Verdict(0.15, False, "y", rounding))


def points(body: str, outputs: str, **weights) -> set[str]:
    return set(comparable(Graph(Case("points", X, outputs, body, weights).model())))


def test_comparisons_are_in_front_of_jumps():
    assert points("y = Relu(x)", "float[N,3,8,8] y") == {"y"}
    assert points("a = Relu(x)\ny = ArgMax<axis=1>(a)", "int64[N,1,8,8] y") == {"a"}
    assert points("a = Relu(x)\ni = Cast<to=7>(a)\ny = Cast<to=1>(i)", "float[N,3,8,8] y") == {"a", "y"}
    assert points("a = Relu(x)\ni = Cast<to=10>(a)\ny = Cast<to=1>(i)", "float[N,3,8,8] y") == {"y"}
    assert points("a = Relu(x)\ny = Softmax(a)", "float[N,3,8,8] y") == {"a"}
    assert points("a = Relu(x)\nb = Floor(a)\ny = Neg(b)", "float[N,3,8,8] y") == {"a", "y"}
    assert points("a = Relu(x)\nb = RandomNormalLike(a)\nc = Neg(a)\ny = Add(c, b)", "float[N,3,8,8] y") == {"a", "y"}


def test_nothing_to_compare():
    assert points("y = Shape(x)", "int64[4] y") == set()
    assert points("y = Identity(k)", "float[2] y", k=(2,)) == set()
    case = Case("sizes", X, "int64[4] y", "y = Shape(x)", {})
    coupling = couple(Graph(case.model()))
    assert check(coupling, Plan(), coupling.graph.model, [case.feed()]) == Verdict(0.0, True, "")


def test_inner_values_are_compared_on_the_channels_that_are_left():
    body = "a = Conv(x, w1)\nf = Floor(a)\ny = Conv(f, w2)"
    case = Case("jump", X, "float[N,2,8,8] y", body, {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)})
    coupling = couple(Graph(case.model()))
    assert set(comparable(coupling.graph)) == {"a", "y"}
    plan = Plan({"a": np.asarray([1, 4])})
    assert check(coupling, plan, rewrite(coupling, plan), [case.feed()]).ok


@pytest.mark.parametrize(
    ("expected", "found", "ok"),
    [([1.0, 2.0], [1.0, 2.0], True), ([1.0, 2.0], [1.0, 2.1], False), ([1.0, np.inf], [1.0, np.inf], True),
     ([1.0, np.inf], [1.0, 5.0], False), ([1.0, 2.0], [1.0, np.nan], False), ([0.0, 0.0], [0.0, 0.0], True),
     ([1.0], [1.0, 1.0], False), ([np.nan], [np.nan], True), ([1000.0, 0.0], [1000.0, 0.01], True)],
)  # fmt: skip
def test_differences_are_relative(expected, found, ok):
    assert oracle._compare(np.asarray(expected), np.asarray(found), "v", 1e-4).ok is ok


def test_an_infinity_of_the_other_sign_is_a_difference():
    assert not oracle._compare(np.asarray([1.0, np.inf]), np.asarray([1.0, -np.inf]), "v", 1e-4).ok


def test_a_model_that_fails_says_so():
    case = CASES["chain"]
    coupling = couple(Graph(case.model()))
    with pytest.raises(DataError, match="fails on this input"):
        check(coupling, Plan(), coupling.graph.model, [{"x": np.zeros((1, 2, 8, 8), np.float32)}])


def test_verdicts_are_values():
    assert dataclasses.replace(Verdict(0.0, True, "y"), ok=False) == Verdict(0.0, False, "y")


def amplified(mistake: float, differences: float) -> Verdict:
    """A network that lives on the difference of nearly equal numbers, with a mistake in one pruned weight."""
    rng = np.random.default_rng(0)
    w1 = np.abs(rng.standard_normal((4, 6))).astype(np.float32)
    w2 = rng.standard_normal((6, 2)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Sub", ["r", "centre"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]
    x = (100 + differences * rng.standard_normal((8, 4))).astype(np.float32)
    weights = {"w1": w1, "w2": w2, "centre": (x @ w1).mean(0)}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["N", 4])], [helper.make_tensor_value_info("y", 1, ["N", 2])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    coupling = couple(Graph(model))
    plan = Plan({coupling.groups[0].name: np.array([0, 2, 3, 5])}, {})
    pruned = rewrite(coupling, plan)
    for tensor in pruned.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1 + mistake), "w1"))
    return check(coupling, plan, pruned, [{"x": x}])


def test_rounding_that_the_network_amplifies_is_no_mistake():
    verdict = amplified(mistake=2e-7, differences=0.1)
    assert 1e-4 < verdict.max_abs_diff < 0.1
    assert verdict.ok
    assert verdict.max_abs_diff <= 10 * verdict.rounding


@pytest.mark.parametrize(("large", "ok"), [(1.0, False), (300.0, True)])
def test_weights_that_cancel_each_other_out_amplify_rounding(large, ok):
    """A change of the inputs changes both channels alike, and rounding doesn't."""
    first = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    first[1] = first[0]
    last = np.ones((6, 2), np.float32)
    last[:2] = [[large], [-large]]
    body = "a = Gemm<transB=1>(x, w)\ny = MatMul(a, v)"
    case = Case("cancel", "float[N,4] x", "float[N,2] y", body, {"w": first, "v": last})
    coupling = couple(Graph(case.model()))
    plan = Plan({coupling.groups[0].name: np.arange(5)})
    off = rewrite(coupling, plan)
    for tensor in off.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1 + 2e-4), "v"))
    verdict = check(coupling, plan, off, [case.feed(8)])
    assert 1e-4 < verdict.max_abs_diff < 1e-3
    assert verdict.ok is ok


@pytest.mark.parametrize(("mistake", "differences"), [(1e-4, 0.1), (1e-3, 10.0), (0.3, 0.1)])
def test_a_mistake_is_more_than_amplified_rounding(mistake, differences):
    assert not amplified(mistake, differences).ok


def test_without_a_measure_nothing_is_excused():
    small = Verdict(1e-3, False, "y")
    assert oracle._excused(small, 1e-3).ok
    assert not oracle._excused(small, 1e-5).ok
    assert not oracle._excused(small, float("inf")).ok  # what the network makes of a rounding has another shape
    assert not oracle._excused(Verdict(0.5, False, "y"), 1.0).ok
