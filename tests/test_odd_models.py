"""Models as they turn up: functions, bodies, sizes that data decide, and all that a file may hold beside a network."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import CASES, Case
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from strategies import random_plan

from models import FOUND, build, mlp
from onnxprune import compare, files, inspect, oracle, prune
from onnxprune.bodies import subgraphs
from onnxprune.cli import main
from onnxprune.coupling import Coupling, couple
from onnxprune.errors import BudgetError, DataError, ModelError
from onnxprune.graph import Graph
from onnxprune.pipeline import begun
from onnxprune.plan import Plan, Weights
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime
from onnxprune.search import parse_targets
from onnxprune.walk import Walk

RUNTIME = Runtime(threads=1)
X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def of(model: ModelProto) -> Coupling:
    """The coupling of a model as it is read."""
    return couple(Graph.of(files.whole(model)))


def halves(coupling: Coupling) -> Plan:
    """Every other channel goes."""
    return Plan({g.name: np.arange(0, g.channels, 2) for g in coupling.groups})


def exact(model: ModelProto, feed: dict[str, np.ndarray]) -> ModelProto:
    """The model without every other channel, after the oracle has agreed."""
    coupling = of(model)
    assert coupling.groups
    pruned = rewrite(coupling, halves(coupling))
    verdict = oracle.check(coupling, halves(coupling), pruned, [feed])
    assert verdict.ok, verdict
    assert verdict.where
    return pruned


def with_functions(text: str, weights: dict[str, tuple[int, ...]]) -> ModelProto:
    """A model from text, functions included, with random weights."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return model


# ---------------------------------------------------------------------------------------------- functions

NESTED = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[N,6] x) => (float[N,3] y) {
    a = own.Layer<slope = 0.3>(x, w1, b1)
    y = own.Dense(a, w2, b2)
}
<domain: "own", opset_import: ["" : 17, "own" : 1]>
Layer <slope> (x, w, b) => (r) {
    d = own.Dense(x, w, b)
    r = LeakyRelu<alpha: float = @slope>(d)
}
<domain: "own", opset_import: ["" : 17]>
Dense (x, w, b) => (y) {
    y = Gemm<transB = 1>(x, w, b)
}"""
WEIGHTS = {"w1": (8, 6), "b1": (8,), "w2": (3, 8), "b2": (3,)}


def test_functions_are_looked_into():
    model = with_functions(NESTED, WEIGHTS)
    before = model.SerializeToString()
    coupling = of(model)
    assert [g.channels for g in coupling.groups] == [8]
    assert [n.op_type for n in coupling.graph.nodes] == ["Gemm", "LeakyRelu", "Gemm"]
    assert coupling.graph.nodes[1].attribute[0].f == pytest.approx(0.3)
    same, original = (RUNTIME.session(m).run({"x": X})["y"] for m in (coupling.graph.model, model))
    np.testing.assert_array_equal(same, original)
    assert exact(model, {"x": X}).graph.input == model.graph.input
    assert model.SerializeToString() == before


def test_functions_in_a_file(tmp_path):
    onnx.save(with_functions(NESTED, WEIGHTS), tmp_path / "in.onnx")
    assert inspect(tmp_path / "in.onnx").groups[0].channels == 8


def test_functions_of_another_opset_are_barriers():
    model = with_functions(NESTED, WEIGHTS)
    model.functions[0].opset_import[0].version = model.functions[1].opset_import[0].version = 15
    coupling = of(model)
    assert coupling.groups == ()
    assert any("isn't a known operator" in reason for reason in coupling.left_alone.values())


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_a_standard_operator_is_what_it_is_though_a_function_is_called_like_it(domain):
    text = NESTED.replace("r = LeakyRelu<alpha: float = @slope>(d)", "r = Relu(d)")
    text += f'<domain: "{domain}", opset_import: ["" : 17]> Relu (x) => (y) {{ y = Softmax(x) }}'
    model = with_functions(text, WEIGHTS)
    assert [n.op_type for n in of(model).graph.nodes] == ["Gemm", "Relu", "Gemm"]
    before, after = (RUNTIME.session(m).run({"x": X})["y"] for m in (model, of(model).graph.model))
    np.testing.assert_array_equal(before, after)
    exact(model, {"x": X})


def test_a_function_of_its_own_domain_is_looked_into_though_it_is_called_like_an_operator():
    text = NESTED.replace("own.Dense", "own.Conv").replace("Dense (x", "Conv (x")
    assert [n.op_type for n in of(with_functions(text, WEIGHTS)).graph.nodes] == ["Gemm", "LeakyRelu", "Gemm"]
    exact(with_functions(text, WEIGHTS), {"x": X})


def test_an_operator_of_the_runtime_stays_one_though_a_function_describes_it():
    text = NESTED.replace("LeakyRelu<alpha: float = @slope>(d)", "com.microsoft.QuickGelu(d)")
    text = text.replace('"own" : 1]', '"own" : 1, "com.microsoft" : 1]')
    text += '<domain: "com.microsoft", opset_import: ["" : 17]> QuickGelu (x) => (y) { s = Sigmoid(x)\ny = Mul(x, s) }'
    coupling = of(with_functions(text, WEIGHTS))
    assert [n.op_type for n in coupling.graph.nodes] == ["Gemm", "QuickGelu", "Gemm"]
    assert [g.channels for g in coupling.groups] == [8]
    assert [f.name for f in coupling.graph.model.functions] == ["QuickGelu"]


# ---------------------------------------------------------------------------------------------- order


def reverse(graph) -> None:
    """Put the nodes of a graph, and of all bodies in it, the wrong way round."""
    nodes = list(graph.node)[::-1]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for body in subgraphs(node):
            reverse(body)


@pytest.mark.parametrize("name", ["chain", "lstm", "if_that_is_decided", "loop_of_a_constant_number", "loop_body"])
def test_nodes_in_the_wrong_order(name):
    """onnxruntime takes them in any order, and so do we; what is written is in the right one."""
    model = CASES[name].model()
    sizes = [g.channels for g in of(model).groups]
    reverse(model.graph)
    before = model.SerializeToString()
    assert [g.channels for g in of(model).groups] == sizes
    onnx.checker.check_model(exact(model, CASES[name].feed()), full_check=True)
    assert model.SerializeToString() == before


def test_nodes_that_go_in_circles(tmp_path):
    model = build("float[N,6] x", "float[N,6] y", "a = Add(x, b)\nb = Relu(a)\ny = Neg(b)", {})
    onnx.save(model, tmp_path / "in.onnx")
    found = CliRunner().invoke(main, [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")])
    assert found.exit_code == 1
    assert "onnxruntime can't load the model" in found.stderr


# ---------------------------------------------------------------------------------------------- bodies


def test_an_if_of_a_constant_condition_is_looked_through():
    model = CASES["if_that_is_decided"].model()
    pruned = exact(model, CASES["if_that_is_decided"].feed())
    assert not any(n.op_type == "If" for n in pruned.graph.node)
    assert rewrite(of(model), Plan()) == model


def test_layers_that_are_all_in_bodies_are_named():
    """A decoder with and without earlier keys, merged: an input chooses, and the weights are the outer graph's."""
    body = """
        y = If (first) <
            then_branch = a () => (ya) { h = MatMul(x, w1) r = Relu(h) ya = MatMul(r, w2) },
            else_branch = b () => (yb) { h2 = MatMul(x, w1) r2 = Sigmoid(h2) yb = MatMul(r2, w2) }
        >
    """
    coupling = of(
        Case("merged", "float[N,4] x, bool first", "float[N,3] y", body, {"w1": (4, 6), "w2": (6, 3)}).model()
    )
    assert coupling.left_alone == {0: "If 'y' has a body that isn't looked into"}


def test_an_if_that_fixed_sizes_decide_is_looked_through():
    """A batch of seven isn't among the sizes that are tried, and a comparison hides in what is made of it."""
    case = CASES["if_that_a_size_decides"]
    assert not any(n.op_type == "If" for n in exact(case.model(), case.feed()).graph.node)
    for test in ("c = Equal(n, seven)", "e = Equal(n, seven)  f = Cast<to = 7>(e)  c = Equal(f, one)"):
        body = case.body.replace("Gather<axis=0>(s, one)", "Gather<axis=0>(s, zero)").replace("c = Equal(n, one)", test)
        model = Case("batch", case.inputs, case.outputs, body, {**case.weights, "zero": [0], "seven": [7]}).model()
        assert "If 'b' has a body that isn't looked into" in of(model).left_alone[0]


def test_names_of_a_chosen_body_are_new():
    text = """
        a = Conv(x, w1)
        b = If(yes) <then_branch = t () => (float[N,6,8,8] q) { q = Relu(a) },
                     else_branch = e () => (float[N,6,8,8] q) { q = Neg(a) }>
        d = If(no) <then_branch = t () => (float[N,6,8,8] q) { q = Relu(b) },
                    else_branch = e () => (float[N,6,8,8] q) {
                        p = Abs(b)
                        q = If(c) <then_branch = tt () => (float[N,6,8,8] r) { r = Neg(p) },
                                   else_branch = te () => (float[N,6,8,8] s) { s = Abs(p) }> }>
        y = Conv(d, w2)"""
    case = Case("names", "float[N,3,8,8] x, bool c", "float[N,2,8,8] y", text,
                {"yes": np.asarray(True), "no": np.asarray(False), "w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)})  # fmt: skip
    coupling = of(case.model())
    made = [name for node in coupling.graph.nodes for name in node.output]
    assert len(made) == len(set(made))
    assert "If 'q" in coupling.left_alone[0]
    model = rewrite(coupling, random_plan(coupling, seed=0, renewed=1.0))
    onnx.checker.check_model(model, full_check=True)
    assert list(RUNTIME.session(model).run(case.feed())) == ["y"]


def test_an_if_with_a_sparse_constant_stays():
    model = CASES["if_that_is_decided"].model()
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("z", 1, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [0]), [6]
    )
    body = next(a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    body.sparse_initializer.append(sparse)
    assert "has a body that isn't looked into" in of(model).left_alone[0]


LOOP = """
    a = MatMul(x, w1)
    l, r = Loop(times, go, a) <body = g (int64 i, bool on, float[N,8] s) => (bool still, float[N,8] t, float[N,8] u) {
        still = Identity(on)
        f = Cast<to = 1>(i)
        p = Mul(s, k)
        q = Relu(p)
        t = Add(q, f)
        u = Neg(t) }>
    m = ReduceSum<keepdims = 0>(r, first)
    d = Add(l, m)
    y = MatMul(d, w2)"""


def looping(times: int, body: str = LOOP, **weights: np.ndarray) -> ModelProto:
    constants = {"w1": (6, 8), "k": (8,), "w2": (8, 3), "first": [0], "go": np.asarray(True)}
    return build("float[N,6] x", "float[N,3] y", body, constants | {"times": np.asarray(times)} | weights)


@pytest.mark.parametrize("times", [1, 3])
def test_iterations_of_a_constant_number_are_looked_through(times):
    model = looping(times)
    coupling = of(model)
    assert [g.channels for g in coupling.groups] == [8]
    assert sum(n.op_type == "Relu" for n in coupling.graph.nodes) == times
    pruned = exact(model, {"x": X})
    assert not any(n.op_type == "Loop" for n in pruned.graph.node)
    assert "Loop" in {n.op_type for n in rewrite(coupling, Plan()).graph.node}
    whole = rewrite(coupling, random_plan(coupling, seed=0, renewed=1.0, pruned=0.0))
    onnx.checker.check_model(whole, full_check=True)


def same_apart(model: ModelProto) -> None:
    """Check that the nodes that a graph lists compute what the model's own do."""
    apart = ModelProto()
    apart.CopyFrom(model)
    del apart.graph.node[:]
    apart.graph.node.extend(Graph(model).nodes)
    before, after = (RUNTIME.session(m).run({"x": X}) for m in (model, apart))
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13])
def test_iterations_compute_what_the_loop_does(opset):
    body = LOOP.replace("ReduceSum<keepdims = 0>(r, first)", "ReduceMean<axes = [0], keepdims = 0>(r)")
    weights = {"w1": (6, 8), "k": (8,), "w2": (8, 3), "go": np.asarray(True), "times": np.asarray(4)}
    model = Case("loop", "float[N,6] x", "float[N,3] y, float[N,8] l", body, weights, opset=opset).model()
    same_apart(model)


@pytest.mark.parametrize("times", [1, 3])
def test_layers_inside_of_a_loop(times):
    """Those of all iterations are one: they lose the same channels, and share their weights."""
    body = LOOP.replace("p = Mul(s, k)", "o = MatMul(s, wa)  p = MatMul(o, wb)")
    model = looping(times, body, wa=(8, 12), wb=(12, 8))
    groups = {g.channels: g for g in of(model).groups}
    assert len(groups[12].writers) == len(groups[12].reads) == times
    exact(model, {"x": X})
    calibration = [{"x": np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)}]
    result = prune(model, target="params=0.7", calibration=calibration)
    assert result.report.after.params <= 0.7 * result.report.before.params
    layers = [n for n in result.model.graph.node if n.op_type == "MatMul"]
    assert len(layers) == 2 + 2 * times
    assert len({n.input[1] for n in layers}) == 4


def test_too_many_nodes_of_a_loop():
    body = LOOP.replace("q = Relu(p)", "q0 = Relu(p)  " + "  ".join(f"q{i + 1} = Neg(q{i})" for i in range(40))
                        + "  q = Neg(q40)")  # fmt: skip
    assert "Loop" not in {n.op_type for n in of(looping(40, body)).graph.nodes}
    assert "Loop" in {n.op_type for n in of(looping(50, body)).graph.nodes}


def test_a_loop_that_never_runs_hands_on_what_it_was_given():
    body = LOOP.replace("l, r = Loop", "l = Loop").replace(", float[N,8] u)", ")").replace("u = Neg(t) }>", "}>")
    body = body.replace("m = ReduceSum<keepdims = 0>(r, first)\n", "").replace("Add(l, m)", "Relu(l)")
    model = looping(5, body, go=np.asarray(False))
    assert [n.op_type for n in of(model).graph.nodes] == ["MatMul", "Constant", "Identity", "Relu", "MatMul"]
    exact(model, {"x": X})


@pytest.mark.parametrize(
    ("times", "old", "new"),
    [
        (65, "", ""),
        (3, "still = Identity(on)", "e = ReduceSum<keepdims = 0>(s)  still = Less(e, limit)"),
        (3, "still = Identity(on)", "still = Bernoulli(on)"),
        (0, "", ""),
    ],
    ids=["too many", "that may stop", "that stops by chance", "without rows"],
)
def test_other_loops_stay(times, old, new):
    model = looping(times, LOOP.replace(old, new), limit=np.asarray(9, np.float32))
    assert "Loop" in {n.op_type for n in of(model).graph.nodes}
    assert "Loop 'l' has a body that isn't looked into" in of(model).left_alone[0]


@pytest.mark.parametrize(
    ("still", "times"),
    [("no = Constant<value = bool {0}>()  still = Identity(no)", 1), ("still = Less(i, limit)", 4),
     ("still = Less(m, limit)", 3), ("c = Less(n, limit)  still = And(c, on)", 4)],
    ids=["at once", "by the number of the iteration", "by a counter", "by the counter before it"],
)  # fmt: skip
def test_iterations_until_the_body_stops(still, times):
    """As TensorFlow counts the steps of a GRU."""
    body = LOOP.replace("l, r = Loop(times, go, a)", "l, last, r = Loop(times, go, a, zero)")
    body = body.replace("float[N,8] s)", "float[N,8] s, int64 n)").replace("float[N,8] t,", "float[N,8] t, int64 m,")
    body = body.replace("still = Identity(on)", f"m = Add(n, one)  {still}")
    model = looping(60, body, limit=np.asarray(3), zero=np.asarray(0), one=np.asarray(1))
    assert sum(n.op_type == "Relu" for n in of(model).graph.nodes) == times
    same_apart(model)


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_what_the_body_of_a_loop_reads_stays(op):
    state, scalar = (
        [helper.make_tensor_value_info(n, 1, None) for n in ("s", "u")],
        lambda n, t: helper.make_tensor_value_info(n, t, []),
    )
    add = helper.make_node("Add", ["s", "a"], ["u"])
    if op == "Loop":
        keep = helper.make_node("Identity", ["go"], ["on"])
        body = helper.make_graph([add, keep], "b", [scalar("i", 7), scalar("go", 9), state[0]],
                                 [scalar("on", 9), state[1]])  # fmt: skip
        node = helper.make_node("Loop", ["times", "", "c"], ["l"], body=body)
    else:
        one, two = (helper.make_tensor_value_info(n, 1, [6]) for n in ("v", "o"))
        body = helper.make_graph([add, helper.make_node("Identity", ["v"], ["o"])], "b", [state[0], one],
                                 [state[1], two])  # fmt: skip
        node = helper.make_node("Scan", ["c", "x"], ["l", "seen"], body=body, num_scan_inputs=1)
    text = (
        "a = MatMul(x, w1)\nc = MatMul(x, w2)\nl = Identity(c)\nr = Reshape(l, s)\nd = MatMul(r, w3)\ny = MatMul(d, w4)"
    )
    weights = {"w1": (6, 4), "w2": (6, 4), "w3": (4, 8), "w4": (8, 2), "s": [-1, 4]}
    model = build("float[N,6] x, int64 times", "float[N,2] y", text, weights)
    model.graph.node[2].CopyFrom(node)
    model.graph.value_info.append(helper.make_tensor_value_info("l", 1, ["N", 4]))
    coupling = of(model)
    assert [g.channels for g in coupling.groups] == [8]
    assert all(f"{op} 'l' has a body that isn't looked into" in coupling.left_alone[i] for i in (0, 1))
    written = exact(model, {"x": X, "times": np.asarray(3)}).graph.node[2]
    assert written.input == node.input
    assert [next(subgraphs(n)).node for n in (written, node)] == [body.node] * 2


# ---------------------------------------------------------------------------------------------- sizes that data decide


def finder():
    """A detector, which fails when it finds nothing, and samples in which it finds something."""
    text = f"a = MatMul(x, w1) r = Relu(a) h = MatMul(r, w2) c = Greater(h, edge) {FOUND}"
    constants = {"w1": (6, 32), "w2": (32, 8), "edge": np.float32([2]), "zero": [0], "minus": [-1]}
    model, rng = Case("finds", "float[1,6] x", "float[K,2] f", text, constants).model(), np.random.default_rng(0)
    session, feeds = RUNTIME.session(model), list[dict[str, np.ndarray]]()
    while len(feeds) < 24:
        feed = {"x": rng.normal(size=(1, 6)).astype(np.float32)}
        with contextlib.suppress(DataError):
            feeds += [feed] if session.run(feed) else []
    return model, feeds


def test_a_pruned_model_that_finds_nothing_is_judged_all_the_same():
    """It is asked what it makes of what the original finds."""
    model, feeds = finder()
    report = prune(model, target="params=0.2", calibration=feeds, reconstruct="none", method="l1").report
    assert report.surgery_check["ok"]
    assert 0 < report.fidelity.relative_error < 1
    report = prune(model, target="drop=0.4", calibration=feeds, reconstruct="none", method="l1").report
    assert 0 < report.fidelity.relative_error <= 0.4


def test_the_original_chooses_once_for_all_models_that_are_judged(monkeypatch):
    model, feeds = finder()
    search, _ = begun(model, parse_targets(["macs=0.5"]), feeds, runtime=RUNTIME)
    judge, original = search.judge, files.read(model)
    monkeypatch.setattr(judge.guide.session, "run", None)  # it has been asked when the judge was made
    for _ in range(2):
        assert judge.judgement(original).fidelity.relative_error == 0


# ---------------------------------------------------------------------------------------------- other operators


def test_custom_operators_are_barriers_with_a_reason():
    coupling = of(CASES["unknown_operator"].model())
    assert [g.name for g in coupling.groups] == ["a"]
    assert any("Frobnicate 'u' isn't a known operator" in reason for reason in coupling.left_alone.values())


def test_an_attribute_that_holds_no_text():
    """As the settings that TensorFlow serializes, of an operator that its converter leaves in the file."""
    model = CASES["unknown_operator"].model()
    (custom,) = (n for n in model.graph.node if n.op_type == "Frobnicate")
    custom.attribute.append(helper.make_attribute("config", b"\n\x07\x82\x01\x00"))
    assert [g.name for g in of(model).groups] == ["a"]


def test_names_in_another_encoding_than_onnx_has(tmp_path):
    """Protobuf hands such names out as bytes; onnxruntime runs the model."""
    body = """a = Gemm<transB=1>(x, kernel)
        r = If(c) <then_branch = t () => (float[N,6] p) { p = Relu(a) },
                   else_branch = e () => (float[N,6] q) { q = Neg(a) }>
        hidden = Gemm<transB=1>(r, v) s = Relu(hidden) y = Gemm<transB=1>(s, u)"""
    case = Case("text", "float[N,4] x, bool c", "float[N,2] y", body, {"kernel": (6, 4), "v": (8, 6), "u": (2, 8)})
    model, odd = case.model(), "卷积".encode("gbk")
    plain = model.SerializeToString()
    for name in (b"kernel", b"hidden"):  # as long as these
        plain = plain.replace(name, odd + name[4:])
    (tmp_path / "m.onnx").write_bytes(plain)
    for given in (tmp_path / "m.onnx", onnx.load(tmp_path / "m.onnx")):
        found = prune(given, target="macs=0.8", method="l1", measure_latency=False)
        assert len(found.report.groups) == 1
        assert Runtime().session(found.model).run(case.feed(3))["y"].shape == (3, 2)
    assert given.SerializeToString() == plain


@pytest.mark.parametrize(
    "op", ["Scaler<offset=[0.5], scale=[2.0]>", 'Normalizer<norm="L2">', "Imputer<imputed_value_floats=[0.0]>"]
)
def test_what_prepares_data_has_the_shape_of_its_input(op):
    header = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
    body = f"s = ai.onnx.ml.{op}(x)\na = MatMul(s, w1)\nr = Relu(a)\ny = MatMul(r, w2)"
    model = with_functions(f"{header} g (float[N,6] x) => (float[N,3] y) {{ {body} }}", {"w1": (6, 8), "w2": (8, 3)})
    assert [g.channels for g in of(model).groups] == [8]
    exact(model, {"x": X})


# ---------------------------------------------------------------------------------------------- sizes


def test_symbolic_sizes_stay_symbolic():
    body = """
        a = Conv<pads=[1,1,1,1]>(image, w1)
        b = MatMul(words, w2)
        r = Relu(a)
        q = Relu(b)
        out = Conv(r, w3)
        scores = MatMul(q, w4)"""
    weights = {"w1": (8, 3, 3, 3), "w2": (6, 8), "w3": (2, 8, 1, 1), "w4": (8, 3)}
    inputs, outputs = (
        "float[batch,3,height,width] image, float[B,T,6] words",
        "float[batch,2,height,width] out, float[B,T,3] scores",
    )
    model = build(inputs, outputs, body, weights)
    feed = {"image": np.ones((2, 3, 5, 7), np.float32), "words": np.ones((3, 4, 6), np.float32)}
    pruned = exact(model, feed)
    assert [*pruned.graph.input] == [*model.graph.input]
    assert [*pruned.graph.output] == [*model.graph.output]
    answers = RUNTIME.session(pruned).run(feed)
    assert [a.shape for a in answers.values()] == [(2, 2, 5, 7), (3, 4, 3)]


def test_a_negative_size_is_symbolic(tmp_path):
    """As some exporters write it, and onnxruntime reads it."""
    model = mlp((6, 8, 3))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    pruned = exact(model, {"x": X})
    assert [*pruned.graph.input] == [*model.graph.input]
    result = prune(model, target="macs=0.5", round_to=1)
    assert result.report.surgery_check["ok"]
    assert inspect(model).inputs["x"] == ["?", 6]


def test_unnamed_sizes_behind_an_unknown_operator_stay_unknown():
    """They aren't taken for those of the input, whose axes have no names either."""
    model = build("float[1,6] x", "float[1,3] y", "a = MatMul(x, w1)\nu = custom.Op(a)\ny = MatMul(u, w2)",
                  {"w1": (6, 8), "w2": (8, 3)})  # fmt: skip
    stated = helper.make_tensor_value_info("u", TensorProto.FLOAT, [None, 8])
    model.graph.value_info.append(stated)
    assert "u" not in Graph(model).shapes


TWO_STAGES = """
    a = MatMul(x, w1)
    f = Relu(a)
    s = MatMul(f, w2)
    c = Greater(s, edge)
    n = NonZero(c)
    t = Transpose(n)
    i = Gather<axis=1>(t, zero)
    p = Gather(f, i)
    b = MatMul(p, w3)
    k = Relu(b)
    y = MatMul(k, w4)"""


def two_stages(copies: bool, edge: float = 0.0) -> ModelProto:
    """A layer, a score, and layers that go on with the rows of a good score; with `copies` half of the channels are."""
    rng = np.random.default_rng(0)
    w1, w3 = (rng.normal(size=(n, 12)) for n in (6, 12))
    if copies:
        w1[:, 6:], w3[:, 6:] = w1[:, :6], w3[:, :6]
    weights = {"w1": w1, "w2": rng.normal(size=(12, 1)), "w3": w3, "w4": rng.normal(size=(12, 3))}
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    return build("float[N,6] x", "float[K,3] y", TWO_STAGES, {**constants, "edge": np.float32([edge]), "zero": 0})


def test_layers_behind_a_choice_are_refitted():
    """Copies can go without loss: in the layer that is chosen by, and in the one that reads what is chosen."""
    model = two_stages(copies=True, edge=0.5)
    feed = {"x": np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)}
    options = {"target": "params=0.41", "allocate": "uniform", "round_to": 1, "measure_latency": False}
    result = prune(model, calibration=feed, **options)
    assert {g.name: (g.channels, g.kept) for g in result.report.groups} == {"a": (12, 6), "b": (12, 6)}
    before, after = (RUNTIME.session(m).run(feed)["y"] for m in (model, result.model))
    assert 0 < len(before) < 200
    np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-3)


def test_what_the_original_chooses_is_what_the_pruned_network_goes_on_with():
    model = two_stages(copies=False)
    coupling, x = of(model), np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    found = RUNTIME.session(model).run({"x": x})["y"]
    layer = coupling.layers["a"]
    with Walk(coupling, [{"x": x}], RUNTIME) as walk:
        walk.advance(layer.index)
        walk.renew(layer, Weights(-layer.matrix, layer.offset))
        walk.advance(coupling.layers["b"].index)
        assert "p" in walk.drifted
        assert 0 < len(found) == len(walk.original[0]["p"]) == len(walk.value(0, "p")) < 50


@pytest.mark.parametrize("method", ["reap", "nu", "l1", "apoz"])
def test_a_model_that_finds_nothing_is_pruned_all_the_same(method):
    """Nothing is known of the layers that read what is found, so they keep the weights that are left."""
    feed = {"x": np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)}
    result = prune(two_stages(copies=False, edge=1e9), target="params=0.6", calibration=feed, method=method)
    assert result.report.surgery_check["ok"]
    assert np.isfinite(RUNTIME.session(result.model).run(feed)["y"]).all()


def test_a_model_that_finds_as_much_as_it_finds_is_judged_by_what_the_original_chooses(tmp_path):
    """Without a target as much goes as may; another number of rows is no reason to call all of them changed."""
    rng = np.random.default_rng(1)
    feed = {"x": rng.normal(size=(400, 6)).astype(np.float32)}
    model = two_stages(copies=True, edge=0.5)
    kept = prune(model, calibration=feed, round_to=1, measure_latency=False).report
    assert 0 < kept.fidelity.relative_error <= 0.01
    assert kept.after.params < 0.65 * kept.before.params
    lossy = prune(model, target="params=0.3", calibration=feed, round_to=1, measure_latency=False)
    assert 0.01 < lossy.report.fidelity.relative_error < 1
    rows = [len(RUNTIME.session(m).run(feed)["y"]) for m in (model, lossy.model)]
    assert rows[0] != rows[1]
    found = compare(model, lossy.model, feed).fidelity
    assert found.top1_agreement is None
    assert 0.01 < found.relative_error < 1
    assert compare(model, model, feed).fidelity.relative_error == 0


@pytest.mark.parametrize("edge", [1e9, 0.0])
def test_convolutions_behind_a_choice_of_maps(edge):
    body = """
        a = Conv(x, w1)
        f = Relu(a)
        g = GlobalAveragePool(f)
        v = Flatten(g)
        s = MatMul(v, w2)
        c = Greater(s, edge)
        n = NonZero(c)
        t = Transpose(n)
        i = Gather<axis=1>(t, zero)
        p = Gather(f, i)
        b = Conv<pads=[1, 1, 1, 1]>(p, w3)
        k = Relu(b)
        y = Conv(k, w4)"""
    shapes = {"w1": (8, 3, 1, 1), "w2": (8, 1), "w3": (8, 8, 3, 3), "w4": (2, 8, 1, 1)}
    model = build("float[N,3,5,5] x", "float[K,2,5,5] y", body, {**shapes, "edge": np.float32([edge]), "zero": 0})
    feed = {"x": np.random.default_rng(1).normal(size=(40, 3, 5, 5)).astype(np.float32)}
    result = prune(model, target="params=0.3", calibration=feed, measure_latency=False)
    assert result.report.surgery_check["ok"]
    assert {g.name for g in result.report.groups if g.kept < g.channels} == {"a", "b"}
    assert np.isfinite(RUNTIME.session(result.model).run(feed)["y"]).all()


def test_data_decide_how_many_rows_there_are():
    case = CASES["rows_that_data_choose"]
    coupling = of(case.model())
    assert coupling.graph.shapes["r"] != coupling.graph.probes[1].shapes["r"]
    assert {"r", "d"} <= coupling.graph.uncounted
    assert coupling.graph.uncounted.isdisjoint({"a", "chosen"})
    pruned = rewrite(coupling, halves(coupling))
    for count in (0, 1, 7):
        feed = {"x": np.ones((7, 6), np.float32), "chosen": (np.arange(7) < count).astype(np.int64)}
        assert oracle.check(coupling, halves(coupling), pruned, [feed]).ok
        assert RUNTIME.session(pruned).run(feed)["y"].shape == (count, 3)


@pytest.mark.parametrize(("op", "shape"), [("Conv", (3, 6, 1)), ("ConvTranspose", (6, 3, 1))])
def test_channels_that_data_count_stay(op, shape):
    body = f"""
        a = MatMul(x, w1)
        n = NonZero(chosen)
        i = Squeeze(n, zero)
        r = Gather<axis=1>(a, i)
        u = Unsqueeze(r, last)
        c = {op}(u, w2)
        d = Relu(c)
        y = Conv(d, w3)"""
    weights = {"w1": (6, 8), "w2": shape, "w3": (2, 3, 1), "zero": [0], "last": [2]}
    model = build("float[N,6] x, int64[8] chosen", "float[N,2,1] y", body, weights)
    coupling = of(model)
    assert "data decide, and that doesn't fit" in coupling.left_alone[5]
    plan = halves(coupling)
    feed = {"x": X, "chosen": np.asarray([1, 1, 1, 0, 1, 1, 1, 0])}
    assert oracle.check(coupling, plan, rewrite(coupling, plan), [feed]).ok


def test_comparisons_of_such_sizes_are_no_constants():
    body = """
        n = NonZero(chosen)
        s = Shape(n)
        g = Gather(s, one)
        m = Min(g, five)
        t = Concat<axis=0>(m, m)
        y = ConstantOfShape(t)"""
    model = build("int64[7] chosen", "float[A,B] y", body, {"one": [1], "five": [5]})
    probe = Graph(model).probes[0]
    assert probe.values["g"].tolist() == [60]
    assert "m" not in probe.values
    assert "y" not in probe.shapes


def test_sizes_of_nothing():
    body = "e = Concat<axis=0>(x, nothing)\na = MatMul(e, w1)\nr = Relu(a)\ny = MatMul(r, w2)"
    weights = {"nothing": np.zeros((0, 6), np.float32), "w1": (6, 8), "w2": (8, 3)}
    exact(build("float[N,6] x", "float[N,3] y", body, weights), {"x": X})


# ---------------------------------------------------------------------------------------------- constants


def optional(model: ModelProto, *names: str) -> ModelProto:
    """The model with some initializers as inputs that a caller may give."""
    for t in model.graph.initializer:
        if t.name in names:
            model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return model


def test_weights_that_a_caller_may_give_are_constants():
    model = optional(mlp((6, 8, 3)), "w0", "b0")
    pruned = exact(model, {"x": X})
    assert [i.name for i in pruned.graph.input] == ["x", "w0", "b0"]
    assert [d.dim_value for d in pruned.graph.input[1].type.tensor_type.shape.dim] == [4, 6]
    given = {"x": X, "w0": np.ones((4, 6), np.float32)}
    assert RUNTIME.session(pruned).run(given)["y"].shape == (5, 3)
    result = prune(model, calibration=np.repeat(X, 8, 0), target="params=0.9", round_to=1)
    assert result.report.surgery_check["ok"]


def test_a_sparse_constant_is_kept():
    model = build("float[N,6] x", "float[N,6] y", "a = MatMul(x, w1)\nr = Relu(a)\nm = MatMul(r, w2)\ny = Add(m, z)",
                  {"w1": (6, 8), "w2": (8, 6)})  # fmt: skip
    values = helper.make_tensor("z", 1, [1], [2.0])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("", TensorProto.INT64, [1], [3]), [6])
    )
    pruned = exact(model, {"x": X})
    assert [*pruned.graph.sparse_initializer] == [*model.graph.sparse_initializer]


def test_a_tied_weight_is_cut_once():
    model = CASES["tied_branches"].model()
    pruned = exact(model, CASES["tied_branches"].feed())
    assert len(pruned.graph.initializer) == len(model.graph.initializer)


def test_what_belongs_to_training_and_viewers_is_kept():
    model = mlp((6, 8, 3))
    model.metadata_props.add(key="names", value="cat,dog")
    model.training_info.add().algorithm.name = "sgd"
    model.graph.quantization_annotation.add(tensor_name="x")
    model.graph.metadata_props.add(key="graph", value="g")
    pruned = exact(model, {"x": X})
    for one in (pruned, model):
        del one.graph.initializer[:]
    assert pruned == model


# ---------------------------------------------------------------------------------------------- other types


def test_strings_pass_by():
    body = "a = MatMul(x, w1)\nr = Relu(a)\ny = MatMul(r, w2)\nt = Identity(s)"
    model = build("float[N,6] x, string[N] s", "float[N,3] y, string[N] t", body, {"w1": (6, 8), "w2": (8, 3)})
    pruned = exact(model, {"x": X, "s": np.asarray(list("abcde"), object)})
    assert [*pruned.graph.output] == [*model.graph.output]


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_inputs_that_are_no_tensors(kind):
    body = "a = MatMul(x, w1)\nr = Relu(a)\ny = MatMul(r, w2)\nt = Identity(x)"
    model = build("float[N,6] x", "float[N,3] y, float[N,6] t", body, {"w1": (6, 8), "w2": (8, 3)}, opset=18)
    tensor = helper.make_tensor_type_proto(1, [None, 6])
    make = {"sequence": helper.make_sequence_type_proto, "optional": helper.make_optional_type_proto}[kind]
    model.graph.input.append(helper.make_value_info("others", make(tensor)))
    op = {"sequence": "ConcatFromSequence", "optional": "OptionalGetElement"}[kind]
    node = helper.make_node(op, ["others"], ["o"], **({"axis": 0} if kind == "sequence" else {}))
    model.graph.node.insert(3, node)
    model.graph.node[4].input[0] = "o"
    coupling = of(model)
    assert [g.channels for g in coupling.groups] == [8]
    pruned = rewrite(coupling, halves(coupling))
    assert [*pruned.graph.input] == [*model.graph.input]
    onnx.checker.check_model(pruned)


FLOAT = helper.make_tensor_type_proto(1, [])
ODD_OUTPUTS = {  # what is made of the scores of three classes, and its type
    "numbers": ("ArgMax", {"axis": 1}, helper.make_tensor_type_proto(7, [None, 1])),
    "names": ("LabelEncoder", {"keys_int64s": [0, 1, 2], "values_strings": [*"abc"]}, None),
    "map": (
        "ZipMap",
        {"classlabels_strings": [*"abc"]},
        helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, FLOAT)),
    ),
    "sequence": ("SplitToSequence", {"axis": 1}, helper.make_sequence_type_proto(FLOAT)),
}


@pytest.mark.parametrize("kind", ODD_OUTPUTS)
def test_answers_of_other_types_are_judged(kind):
    """As many answers change as a look at the outputs themselves tells, and a loss is heeded."""
    op, attributes, made = ODD_OUTPUTS[kind]
    body = "a = MatMul(x, w1)\nr = Relu(a)\nz = MatMul(r, w2)\nk = ArgMax<axis=1>(z)"
    model = build("float[N,6] x", "float[N,3] z", body, {"w1": (6, 24), "w2": (24, 3)})
    domain = "ai.onnx.ml" if kind in ("names", "map") else ""
    reads = "k" if kind == "names" else "z"
    if kind == "names":
        made = helper.make_tensor_type_proto(TensorProto.STRING, [None, 1])
    model.graph.node.append(helper.make_node(op, [reads], ["y"], domain=domain, **attributes))
    model.graph.output[0].CopyFrom(helper.make_value_info("y", made))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    x = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    options = {"calibration": {"x": x}, "eval": None, "round_to": 1, "runtime": RUNTIME, "measure_latency": False}
    with contextlib.suppress(BudgetError):
        best = prune(model, target="drop=0.1", **options).report
        assert 0 < best.loss.value <= 0.1
    lost = prune(model, target="macs=0.3", **options).report
    assert lost.fidelity.top1_agreement < 1
    assert lost.loss.value > 0.03


def test_accuracy_is_that_of_the_scores_beside_names():
    body = "k = ArgMax<axis=1>(x)"
    model = build("float[N,3] x", "string[N,1] y, float[N,3] z", body, {})
    names = {"keys_int64s": [0, 1, 2], "values_strings": [*"abc"]}
    model.graph.node.append(helper.make_node("LabelEncoder", ["k"], ["y"], domain="ai.onnx.ml", **names))
    model.graph.node.append(helper.make_node("Identity", ["x"], ["z"]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    x = np.eye(3, dtype=np.float32)
    assert compare(model, model, eval=(x, np.array([0, 1, 0])), runtime=RUNTIME).accuracy["after"] == pytest.approx(
        2 / 3
    )
    del model.graph.output[1]
    with pytest.raises(DataError, match="accuracy needs class scores"):
        compare(model, model, eval=(x, np.array([0, 1, 0])), runtime=RUNTIME)


# ---------------------------------------------------------------------------------------------- nothing to do


@pytest.mark.parametrize("name", ["empty", "no_layers", "nothing_prunable"])
def test_a_model_in_which_nothing_can_go(name, tmp_path: Path):
    onnx.save(CASES[name].model(), tmp_path / "in.onnx")
    result = CliRunner().invoke(main, [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")])
    assert result.exit_code == 3, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "nothing in this model can be pruned" in said[0]
    assert not (tmp_path / "out.onnx").exists()


NAMED = Case("named", "float[N,4,6] x", "float[M,4,3] y", """
    a = MatMul(x, w1)
    r = Reshape(a, one)
    t = Transpose<perm=[0,2,1,3]>(r)
    u = Relu(t)
    v = Transpose<perm=[0,2,1,3]>(u)
    f = Reshape(v, flat)
    y = MatMul(f, w2)
""", {"w1": (6, 8), "one": [1, 4, 2, 4], "flat": [1, 4, 8], "w2": (8, 3)})  # fmt: skip


def test_a_batch_that_is_named_but_fixed_further_on():
    """Such a model takes one sample at a time, and so it is calibrated, checked and judged."""
    model = NAMED.model()
    assert not Graph(model).batched
    x = np.random.default_rng(0).normal(size=(40, 4, 6)).astype(np.float32)
    report = prune(model, target="params=0.8", calibration={"x": x}, round_to=1, measure_latency=False).report
    assert report.surgery_check["ok"]
    assert report.after.params <= 0.8 * report.before.params


def test_sizes_that_fit_no_batch_are_refused():
    model = Case("twice", NAMED.inputs, NAMED.outputs, NAMED.body, NAMED.weights | {"one": [2, 4, 2, 4]}).model()
    with pytest.raises(ModelError, match=r"shapes don't fit at node 'r' .*can't become"):
        couple(Graph(model))


def test_a_batch_that_is_fixed_by_a_convolution():
    """Samples that are compared with one another lie along the channels: their number is that of the groups."""
    model = Case("compared", "float[N,3,4,4] x", "float[M,1,2,2] y", """
        a = Conv(x, w1)
        r = Relu(a)
        b = Conv(r, w2)
        all = Reshape(b, row)
        y = Conv<group=1>(all, w3)
    """, {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), "row": [1, -1, 4, 4], "w3": (1, 4, 3, 3)}).model()  # fmt: skip
    assert not Graph(model).batched
    assert [g.channels for g in couple(Graph(model)).groups] == [6, 4]
