"""Blocks: what is found, what is left, and that taking them out is exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cases import CASES
from test_walk import close

import models
from onnxprune import oracle
from onnxprune.blocks import find, outermost, without
from onnxprune.coupling import couple
from onnxprune.errors import DataError
from onnxprune.graph import Graph
from onnxprune.plan import Plan
from onnxprune.reconstruct import front_to_back
from onnxprune.rewrite import pruned, rewrite, twin


def transformer(*, seed: int = 0):
    """One block, attention and then a perceptron, each before a LayerNormalization, with a mask from outside."""
    body = """
        [embed] e = MatMul(x, we)
        m = Cast<to=1>(mask)
        far = Mul(m, big)
        wide = Unsqueeze(far, two)
        n = LayerNormalization(e, g1, c1)
        [q] q = MatMul(n, wq)
        [k] k = MatMul(n, wk)
        kt = Transpose<perm=[0,2,1]>(k)
        [v] v = MatMul(n, wv)
        s = MatMul(q, kt)
        sm = Add(s, wide)
        p = Softmax(sm)
        a = MatMul(p, v)
        [out] o = MatMul(a, wo)
        h = Add(e, o)
        n2 = LayerNormalization(h, g2, c2)
        [up] u = MatMul(n2, wu)
        t = Gelu(u)
        [down] d = MatMul(t, wd)
        db = Add(d, bd)
        h2 = Add(db, h)
        f = ReduceMean<keepdims=0>(h2, two)
        [head] y = MatMul(f, wh)"""
    weights: dict[str, object] = dict.fromkeys(("wq", "wk", "wv", "wo", "we"), (6, 6))
    weights |= {"big": np.float32(-1), "two": [1], "wu": (6, 9), "wd": (9, 6), "bd": (6,), "wh": (6, 3)}
    weights |= dict.fromkeys(("g1", "c1", "g2", "c2"), (6,))
    return models.build("float[N,5,6] x, int64[N,5] mask", "float[N,3] y", body, weights, seed=seed, opset=20)


MADE = {
    "residual": models.residual,
    "projection": lambda: models.residual("projection"),
    "option_a": lambda: models.residual("option_a"),
    "transformer": transformer,
    "mlp": lambda: models.mlp((12, 10, 10, 10, 4)),
    "convs": lambda: models.convs((8, 8)),
    "depthwise": models.depthwise,
    "dense": models.dense,
}


def feed(model, count=4, seed=0):
    """Inputs of any kind; what is an integer is 0 or 1."""
    rng = np.random.default_rng(seed)
    shapes = Graph(model).input_shapes(count)
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        n: rng.normal(size=s).astype(np.float32) if types[n] == 1 else rng.integers(0, 2, s) for n, s in shapes.items()
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", [("r0", "r"), ("r", "r2")]),
        ("projection", [("r0", "r")]),
        ("option_a", [("r0", "r")]),
        ("transformer", [("e", "h"), ("h", "h2")]),
        ("mlp", [("r0", "r1"), ("r1", "r2")]),
        ("convs", []),
        ("depthwise", [("r0", "r1")]),
        ("dense", []),
    ],
)
def test_what_is_found(name, expected):
    found = find(Graph(MADE[name]()))
    assert [(b.shortcut, b.output) for b in found] == expected


def test_the_mask_of_attention_is_read_from_outside():
    attention, perceptron = find(Graph(transformer()))
    assert attention.reads == ("e", "mask")
    assert perceptron.reads == ("h",)


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w)\nr = Relu(a)\nb = MatMul(r, w2)\nz = Add(b, x)\nq = MatMul(r, w2)\ny = Sub(z, q)",  # outside
        "a = MatMul(x, w)\nr = Relu(a)\nt = Mul(z0, r)\nb = MatMul(t, w2)\ny = Add(b, x)",  # a layer on another input
        "a = MatMul(x, w)\nr = Relu(a)\nb = MatMul(x, w)\nc = Add(r, b)\ny = MatMul(c, w2)",  # side by side
        "a = Relu(x)\ny = Add(a, x)",  # no layer
        "a = MatMul(x, w)\nr = Relu(a)\nm = ReduceMean<axes=[1], keepdims=1>(r)\ny = Add(x, m)",  # broadcast
        "a = MatMul(x, w6)\ny = Relu(a)",  # the model's output
        "a = MatMul(x, w6)\nr = Relu(a)\ny = Mul(r, a)",  # the layer is read in front of the activation
        "a = MatMul(x, w6)\nb = Mul(a, x)\nr = Relu(b)\ny = Neg(r)",  # meets another value in front of it
    ],
)
def test_what_is_no_block(body):
    head = "z0 = MatMul(u, w)\n" if "z0" in body else ""
    inputs = "float[N,6] x" + (", float[N,6] u" if head else "")
    model = models.build(inputs, "float[N,6] y", head + body, {"w": (6, 5), "w2": (5, 6), "w6": (6, 6)})
    assert find(Graph(model)) == []


def test_sizes_that_agree_by_chance_make_no_block():
    body = "a = Conv<pads=[1,0,1,0]>(x, w)\nr = Relu(a)\ny = Neg(r)"
    model = models.build("float[N,3,H,8] x", "float[N,3,H,8] y", body, {"w": (3, 3, 3, 1)})
    assert [b.output for b in find(Graph(model))] == ["r"]
    body = "a = Conv<pads=[8,0,8,0], strides=[2,1]>(x, w)\nr = Relu(a)\ny = Neg(r)"
    model = models.build("float[N,3,H,8] x", "float[N,3,K,8] y", body, {"w": (3, 3, 1, 1)})
    graph = Graph(model, {"x": [1, 3, 16, 8]})
    assert graph.shapes["r"] == graph.shapes["x"]
    assert find(graph) == []


def narrowed(coupling, number):
    """Every group but streams without one channel of each cell."""
    keep = {}
    for group in coupling.groups:
        kept = [np.flatnonzero(group.cells == c) for c in np.unique(group.cells)]
        keep[group.name] = np.sort(np.concatenate([np.delete(k, number % len(k)) for k in kept]))
    return keep


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("cut", [False, True])
def test_surgery_is_exact(name, cut):
    model = MADE[name]()
    graph = Graph(model)
    for gone in [[b.output] for b in find(graph)] + [[b.output for b in find(graph)]]:
        if gone:
            _exact(without(graph, gone), feed(model), cut)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.runs])
def test_surgery_on_every_case_is_exact(name):
    model = CASES[name].model()
    graph = Graph(model)
    if gone := [b.output for b in find(graph)]:
        for cut in (False, True):
            _exact(without(graph, gone), CASES[name].feed(2), cut)


def _exact(shallow, inputs, cut):
    coupling = couple(shallow)
    plan = Plan(narrowed(coupling, 1) if cut else {}, {}, (), tuple(shallow.removed))
    found = rewrite(coupling, plan)
    onnx.checker.check_model(found)
    assert not {n.name for n in found.graph.node if n.op_type == "Identity"} - {
        n.name for n in shallow.original.nodes if n.op_type == "Identity"
    } or any(name in shallow.outputs for name in shallow.removed)
    verdict = oracle.check(coupling, plan, found, [inputs])
    assert verdict.ok, verdict
    kept = {o for n in found.graph.node for o in n.output}
    for block in shallow.removed.values():
        lost = {o for i in block.nodes for o in shallow.original.nodes[i].output if o} - {block.output}
        assert lost.isdisjoint(kept)


def test_a_wrong_shortcut_is_noticed():
    graph = Graph(models.residual())
    shallow = without(graph, ["r"])
    coupling, plan = couple(shallow), Plan(removed=("r",))
    right = rewrite(coupling, plan)
    for node in right.graph.node:
        if node.name == "two_a":
            node.input[0] = "c0"
    assert not oracle.check(coupling, plan, right, [feed(models.residual())]).ok


def test_a_removed_branch_counts_as_zero():
    """What is left is the original with the weights of the branch set to zero."""
    model = models.residual()
    expected = models.residual()
    for t in expected.graph.initializer:
        if t.name in ("w4", "b4"):
            t.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(t)), t.name))
    graph = without(Graph(model), ["r2"])
    inputs = feed(model)
    found = rewrite(couple(graph), Plan(removed=("r2",)))
    close(models.values(found, inputs)["y"], models.values(expected, inputs)["y"])
    close(models.values(twin(couple(graph), Plan(removed=("r2",))), inputs)["y"], models.values(expected, inputs)["y"])


def test_an_output_keeps_its_name():
    model = models.build(
        "float[N,6] x", "float[N,6] y", "a = MatMul(x, w)\nr = Relu(a)\nb = MatMul(r, w2)\ny = Add(b, a)",
        {"w": (6, 6), "w2": (6, 6)},
    )  # fmt: skip
    shallow = without(Graph(model), ["y"])
    found = rewrite(couple(shallow), Plan(removed=("y",)))
    assert [(n.op_type, n.output[0]) for n in found.graph.node] == [("MatMul", "a"), ("Identity", "y")]
    assert [t.name for t in found.graph.initializer] == ["w"]


def test_of_nested_blocks_the_outer_one_goes():
    body = """
        a = MatMul(x, w)
        r = Relu(a)
        b = MatMul(r, w2)
        c = Add(b, a)
        d = MatMul(c, w3)
        e = Add(d, x)
        y = Neg(e)"""
    model = models.build("float[N,6] x", "float[N,6] y", body, dict.fromkeys(("w", "w2", "w3"), (6, 6)))
    graph = Graph(model)
    found = find(graph)
    assert [b.output for b in found] == ["c", "e"]
    assert [b.output for b in outermost(found)] == ["e"]
    both = without(graph, ["c", "e"])
    assert set(both.removed) == {"e"}
    _exact(both, feed(model), False)


def test_files_that_list_constants_as_inputs():
    model = models.convs((8, 12), ir=3)
    assert find(Graph(model)) == []
    body = "a = MatMul(x, w)\nr = Relu(a)\nb = MatMul(r, w2)\ny = Softmax(b)"
    model = models.build("float[N,6] x", "float[N,6] y", body, {"w": (6, 6), "w2": (6, 6)}, ir=3)
    shallow = without(Graph(model), ["r"])
    assert [i.name for i in shallow.model.graph.input] == ["x", "w2"]
    _exact(shallow, feed(model), True)


def test_blocks_that_are_not_there():
    with pytest.raises(DataError, match=r"'r1' isn't made by a block"):
        without(Graph(models.residual()), ["r1"])
    with pytest.raises(DataError, match="other blocks"):
        rewrite(couple(Graph(models.residual())), Plan(removed=("r",)))


# ---- Repair


@pytest.mark.parametrize("name", ["residual", "transformer", "mlp", "depthwise"])
def test_the_layers_behind_make_up_for_what_went(name):
    """Least squares front to back lowers the error of the answer, and its targets are those of the whole network."""
    model = MADE[name]()
    graph = Graph(model)
    shallow = without(graph, [find(graph)[0].output])
    coupling = couple(shallow)
    parts = [[feed(model, 64, seed) for seed in range(3)], [feed(model, 64, 9)]]
    refits = front_to_back(coupling, {}, parts, 256, models.RUNTIME)
    assert refits
    plain = Plan(removed=tuple(shallow.removed))
    repaired = Plan({}, {k: r.weights for k, r in refits.items()}, (), tuple(shallow.removed))
    new = feed(model, 128, 11)
    expected = models.values(model, new)["y"]
    errors = [np.square(models.values(pruned(coupling, p).proto, new)["y"] - expected).sum() for p in (plain, repaired)]
    assert errors[1] < 0.8 * errors[0]


def test_a_layer_whose_input_has_not_drifted_stays():
    model = models.residual()
    shallow = without(Graph(model), ["r2"])
    refits = front_to_back(couple(shallow), {}, [[feed(model, 32)]], 32, models.RUNTIME)
    assert set(refits) == {"y"}
