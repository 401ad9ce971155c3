"""Merged blocks: what they compute, what they are fitted to, and that their surgery is exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
import onnxprune
from onnxprune import files, oracle
from onnxprune.blocks import find, without
from onnxprune.calibration import load
from onnxprune.coupling import couple
from onnxprune.data import inputs_of
from onnxprune.errors import DataError
from onnxprune.graph import Graph
from onnxprune.merging import mergeable, merged, planned
from onnxprune.plan import Plan
from onnxprune.reconstruct import front_to_back
from onnxprune.repair import narrow
from onnxprune.rewrite import pruned, rewrite
from onnxprune.run import Options, prepare
from onnxprune.steps import Ranked
from onnxprune.walk import Walk, layers_in_order

STREAM, HIDDEN = 6, 8


def conv(i, x, *, act="h{0} = Relu(n{0})", bias=False, folded=False):
    """Two convolutions."""
    n = "n{0} = BatchNormalization(a{0}, n{0}s, n{0}b, n{0}m, n{0}v)" if not folded else "n{0} = Identity(a{0})"
    body = f"""
        [first{{0}}] a{{0}} = Conv<pads=[1,1,1,1]>({x}, u{{0}}{", ub{0}" if bias else ""})
        {n}
        {act}
        [last{{0}}] c{{0}} = Conv<pads=[1,1,1,1]>(h{{0}}, d{{0}}{", db{0}" if bias else ""})
        f{{0}} = Dropout(c{{0}})"""
    weights = {f"u{i}": (HIDDEN + i, STREAM, 3, 3), f"d{i}": (STREAM, HIDDEN + i, 3, 3)} | models.norm(f"n{i}", 8 + i)
    weights |= {f"ub{i}": (HIDDEN + i,), f"db{i}": (STREAM,), f"slope{i}": (HIDDEN + i, 1, 1)}
    return body.format(i), weights | {"zero": np.float32(0)}


def before(i, x):
    """Normalization and activation before each convolution; the first one is the same in all blocks."""
    body, weights = conv(i, f"r{i}")
    return f"m{i} = BatchNormalization({x}, ms, mb, mm, mv)\nr{i} = Relu(m{i})\n{body}", weights | models.norm("m", 6)


def bottleneck(i, x):
    """Three convolutions, the middle one in groups of its own channels or not."""
    body = f"""
        [first{i}] a{i} = Conv({x}, u{i})
        n{i} = BatchNormalization(a{i}, n{i}s, n{i}b, n{i}m, n{i}v)
        h{i} = Clip(n{i}, zero, six)
        [middle{i}] g{i} = Conv<pads=[1,1,1,1], group=1>(h{i}, w{i}, wb{i})
        k{i} = Clip(g{i}, zero, six)
        [last{i}] f{i} = Conv(k{i}, d{i})"""
    weights = {f"u{i}": (8, STREAM, 1, 1), f"w{i}": (8, 8, 3, 3), f"wb{i}": (8,), f"d{i}": (STREAM, 8, 1, 1)}
    constants = {"zero": np.float32(0), "half": np.float32(0.5), "six": np.float32(1)}
    return body, weights | constants | models.norm(f"n{i}", 8)


def inverted(i, x):
    """The same with a depthwise convolution in the middle."""
    body, weights = bottleneck(i, x)
    return body.replace("group=1", "group=8"), weights | {f"w{i}": (8, 1, 3, 3)}


def perceptron(i, x):
    """Matrix products behind a LayerNormalization, and a Gelu in many nodes."""
    body = f"""
        l{i} = LayerNormalization({x}, lg, lb)
        [first{i}] a{i} = MatMul(l{i}, u{i})
        b{i} = Add(ub{i}, a{i})
        p{i} = Div(b{i}, root)
        q{i} = Erf(p{i})
        s{i} = Add(q{i}, one)
        t{i} = Mul(b{i}, s{i})
        h{i} = Mul(t{i}, half)
        [last{i}] c{i} = MatMul(h{i}, d{i})
        f{i} = Add(c{i}, db{i})"""
    weights = {f"u{i}": (STREAM, 9), f"ub{i}": (9,), f"d{i}": (9, STREAM), f"db{i}": (STREAM,), "lg": (STREAM,)}
    return body, weights | {"lb": (STREAM,), "root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}


BRANCHES = {
    "conv": conv,
    "folded": lambda i, x: conv(i, x, bias=True, folded=True),
    "swish": lambda i, x: conv(i, x, act="o{0} = Sigmoid(n{0})\nh{0} = Mul(n{0}, o{0})", bias=True),
    "prelu": lambda i, x: conv(i, x, act="h{0} = PRelu(n{0}, slope{0})"),
    "before": before,
    "bottleneck": bottleneck,
    "inverted": inverted,
    "perceptron": perceptron,
}


def chain(kind="conv", count=3, *, act=True, parallel=False, edit=lambda i, text: text, seed=0):
    """A stem, `count` residual blocks and a head; `act`: a Relu behind each sum. `edit` may change a branch's text.

    In `parallel`, all branches read what the first one reads, and nothing stands between their sums.
    """
    tokens = kind == "perceptron"
    act = act and kind not in ("before", "perceptron")
    weights: dict[str, object] = {"w0": (STREAM, 3, 3, 3), "b0": (STREAM,), "we": (4, STREAM), "be": (4,)}
    stem = "[stem] x0 = MatMul(x, wt)" if tokens else "[stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)\nx0 = Relu(c0)"
    weights |= {"wt": (5, STREAM)} if tokens else {}
    body, total = stem, "x0"
    for i in range(1, count + 1):
        x = "x0" if parallel else total
        text, constants = BRANCHES[kind](i, x)
        body += f"{edit(i, text)}\nz{i} = Add(f{i}, {total})\n"
        weights |= constants
        total = f"z{i}"
        if act and (not parallel or i == count):
            body += f"x{i} = Relu(z{i})\n"
            total = f"x{i}"
    pool = "p = ReduceMean<keepdims=0>({0}, mid)\n" if tokens else "g = GlobalAveragePool({0})\np = Flatten(g)\n"
    body += pool.format(total) + "[head] y = Gemm<transB=1>(p, we, be)"
    x = "float[N,7,5] x" if tokens else "float[N,3,7,7] x"
    return models.build(x, "float[N,4] y", body, weights | {"mid": [1]}, seed=seed, opset=18)


def outputs(graph):
    return [block.output for block in find(graph)]


def wide(kind="conv", count=3, **options):
    """A chain, and its graph with all blocks as one."""
    model = chain(kind, count, **options)
    graph = Graph(model)
    return model, merged(graph, [outputs(graph)])


# ---- Form


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("act", [False, True])
def test_a_merged_block_adds_up_the_branches_of_one_shortcut(kind, act):
    model, graph = wide(kind, act=act)
    onnx.checker.check_model(graph.model, full_check=True)
    feed = models.feeds(model, 5)[0]
    expected = models.values(chain(kind, act=act, parallel=True), feed)["y"]
    np.testing.assert_allclose(models.values(graph.model, feed)["y"], expected, atol=1e-5 * np.abs(expected).max())
    assert [b.shortcut for b in find(graph)] == ["x0"]
    assert find(graph)[0].output == outputs(Graph(model))[-1]


@pytest.mark.parametrize("kind", BRANCHES)
def test_its_hidden_channels_are_one_group(kind):
    """As wide as those of all blocks together, and dense: any of them may stay."""
    model, graph = wide(kind)
    before = {g.name: g.channels for g in couple(Graph(model)).groups if not g.stream}
    after = {g.name: g.channels for g in couple(graph).groups if not g.stream}
    assert {name: sum(before[name[:-1] + i] for i in "123") for name in after} == after
    assert after
    assert all(len(set(g.cells)) == 1 for g in couple(graph).groups)


def test_no_node_of_the_other_blocks_is_left():
    model, graph = wide("conv")
    ops = [n.op_type for n in graph.nodes]
    assert ops == ["Conv", "Relu", "Conv", "Relu", "Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    idle = set(graph.initializers) - set(graph.consumers)
    assert idle.isdisjoint(Graph(model).consumers)


def test_several_runs():
    model = chain("conv", 5)
    names = outputs(Graph(model))
    graph = merged(Graph(model), [names[:2], names[3:]])
    assert [b.output for b in find(graph)] == ["x2", "x3", "x5"]
    assert merged(graph, []) is graph


def test_large_weights_stay_beside_the_message(monkeypatch):
    model, plain = wide("conv")
    monkeypatch.setattr(files, "LARGE", 1000)
    monkeypatch.setattr(files, "BIG", 1)
    beside = Graph.of(files.whole(model))
    graph = merged(beside, plain.merged)
    assert any(name.endswith("_new") for name in graph.arrays)
    assert graph.reference.arrays.keys() == beside.arrays.keys()
    found = files.embedded(pruned(couple(graph), Plan(merged=graph.merged)))
    feed = models.feeds(model, 5)[0]
    np.testing.assert_allclose(models.values(found, feed)["y"], models.values(plain.model, feed)["y"], atol=1e-6)
    parts = [models.feeds(model, 32)]
    refits = [front_to_back(couple(g), {}, parts, 32, models.RUNTIME) for g in (graph, plain)]
    for one, other in zip(refits[0].items(), refits[1].items(), strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1].weights.matrix, other[1].weights.matrix, atol=1e-3)


def test_of_a_block_that_adds_nothing_the_merged_one_is_the_other():
    model = chain("conv", 2)
    for tensor in model.graph.initializer:
        if tensor.name in ("d1",):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    feed = models.feeds(model, 5)[0]
    graph = merged(Graph(model), [outputs(Graph(model))])
    np.testing.assert_allclose(models.values(graph.model, feed)["y"], models.values(model, feed)["y"], atol=1e-5)


# ---- What it is fitted to


@pytest.mark.parametrize("kind", BRANCHES)
def test_the_standard_knows_what_each_layer_should_make(kind):
    model, graph = wide(kind)
    coupling, feed = couple(graph), models.feeds(model, 6)[0]
    hidden = {"perceptron": "b", "bottleneck": "n", "inverted": "n", "swish": "n", "folded": "a"}.get(kind, "n")
    parts = models.values(model, feed, [f"{hidden}{i}" for i in (1, 2, 3)] + ["x0", "z3"])
    axis = 2 if kind == "perceptron" else 1
    first, *_, last = [one for one in layers_in_order(coupling) if one.output.endswith("_merged")]
    with Walk(coupling, [feed], models.RUNTIME, full=True) as walk:
        for linear in layers_in_order(coupling):
            walk.advance(linear.index)
            if linear in (first, last):
                walk.recall([linear.index, *linear.tail])
                found = walk.original[0][linear.output]
                joined = np.concatenate([parts[f"{hidden}{i}"] for i in (1, 2, 3)], axis)
                expected = joined if linear is first else parts["z3"] - parts["x0"]
                np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        walk.advance()
        np.testing.assert_allclose(walk.original[0]["y"], models.values(model, feed)["y"], atol=1e-5)
        np.testing.assert_allclose(walk.value(0, "y"), models.values(graph.model, feed)["y"], atol=1e-5)


@pytest.mark.parametrize("kind", BRANCHES)
def test_fitted_it_comes_closer_than_what_is_left_without_the_blocks(kind):
    model, graph = wide(kind)
    names = outputs(Graph(model))
    parts, feed = [models.feeds(model, 192, 64, 1), models.feeds(model, 64, 64, 2)], models.feeds(model, 128, 128, 3)[0]
    expected = models.values(model, feed)["y"]
    errors = []
    for form in (graph, without(Graph(model), names[:-1])):
        coupling = couple(form)
        refits = front_to_back(coupling, {}, parts, 256, models.RUNTIME)
        for weights in ({name: found.weights for name, found in refits.items()}, {}):
            plan = Plan(weights=weights, merged=form.merged, removed=tuple(form.removed))
            found = models.values(pruned(coupling, plan).proto, feed)["y"]
            errors.append(float(np.square(found - expected).sum()))
    fitted, rough, shorter, _ = errors
    assert fitted < 0.7 * rough
    assert fitted < shorter


# ---- Pruned


def run_of(model, graph, samples=64):
    run = prepare(
        Graph(model), load(models.data(model, samples), inputs_of(Graph(model))), Options(runtime=models.RUNTIME)
    )
    run.coupling = couple(graph)
    return run


@pytest.mark.parametrize("kind", BRANCHES)
def test_narrowed_its_surgery_is_exact_and_can_be_repeated(kind, tmp_path):
    model, graph = wide(kind)
    run = run_of(model, graph)
    widths = {g.name: g.channels // 2 for g in run.coupling.groups if not g.stream}
    keep, weights, _ = narrow(run, Ranked([], [], {}), {}, widths)
    assert {name: len(kept) for name, kept in keep.items()} == widths
    plan = Plan(keep, weights, merged=graph.merged)
    found = rewrite(run.coupling, plan)
    feed = models.feeds(model, 3, seed=5)[0]
    assert oracle.check(run.coupling, plan, found, [feed]).ok
    plan.save(tmp_path / "plan.npz")
    again = onnxprune.apply(model, Plan.load(tmp_path / "plan.npz"))
    assert again.SerializeToString() == found.SerializeToString()
    hidden = {n.name: n for n in found.graph.node}[next(iter(keep))]
    shape = next(t.dims for t in found.graph.initializer if t.name == hidden.input[1])
    assert widths[next(iter(keep))] in shape


def test_channels_are_chosen_by_what_the_fitted_block_makes():
    """Of two blocks one adds nothing: its channels go first."""
    model = chain("conv", 2)
    for tensor in model.graph.initializer:
        if tensor.name == "d1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    graph = merged(Graph(model), [outputs(Graph(model))])
    keep, _, errors = narrow(run_of(model, graph, 128), Ranked([], [], {}), {}, {"first2": 10})
    assert keep["first2"].tolist() == list(range(9, 19))
    assert max(errors.values()) < 1e-3


@pytest.mark.parametrize("removed", [0, 3])
def test_other_blocks_can_be_taken_out_besides(removed, tmp_path):
    """In front of the merged ones and behind them; what is fitted comes closer than what isn't."""
    model = chain("conv", 5)
    names = outputs(Graph(model))
    runs = [names[1:3]]
    plan = Plan(merged=(tuple(runs[0]),), removed=(names[removed],))
    graph = planned(Graph(model), plan)
    run = run_of(model, graph, 192)
    widths = {g.name: g.channels // 2 for g in run.coupling.groups if "2" in g.name}
    keep, weights, _ = narrow(run, Ranked([], [], {}), {}, widths)
    fitted = Plan(keep, weights, merged=plan.merged, removed=plan.removed)
    found = rewrite(run.coupling, fitted)
    feed = models.feeds(model, 64, 64, seed=5)[0]
    assert oracle.check(run.coupling, fitted, found, [feed]).ok
    fitted.save(tmp_path / "plan.npz")
    assert onnxprune.apply(model, Plan.load(tmp_path / "plan.npz")).SerializeToString() == found.SerializeToString()
    expected = models.values(model, feed)["y"]
    rough = pruned(run.coupling, Plan(keep, merged=plan.merged, removed=plan.removed)).proto
    errors = [np.square(models.values(one, feed)["y"] - expected).sum() for one in (found, rough)]
    assert errors[0] < 0.5 * errors[1]


# ---- What can't be merged


def refused(graph, run, why):
    with pytest.raises(DataError, match=why):
        merged(graph, [run])
    known = {b.output: b for b in find(graph)}
    if set(run) <= set(known):
        assert not mergeable(graph, [known[name] for name in run])


def test_what_can_be_merged():
    graph = Graph(chain("conv"))
    assert mergeable(graph, find(graph))
    assert mergeable(graph, find(graph)[1:])


def test_blocks_that_are_not_there_or_not_in_a_row():
    graph = Graph(chain("conv"))
    refused(graph, ["x1", "q"], "'q' isn't made by a residual block")
    refused(graph, ["x1"], "only one")
    refused(graph, ["x1", "x3"], "don't follow each other")
    refused(graph, ["x2", "x1"], "don't follow each other")
    with pytest.raises(DataError, match="only once"):
        merged(graph, [["x1", "x2"], ["x2", "x3"]])


def test_a_plan_of_other_runs_is_refused():
    model, graph = wide("conv")
    with pytest.raises(DataError, match="merges other blocks"):
        rewrite(couple(graph), Plan())
    with pytest.raises(DataError, match="merges other blocks"):
        rewrite(couple(Graph(model)), Plan(merged=graph.merged))


def last(old, new):
    """Change the text of the last block."""
    return lambda i, text: text.replace(old.format(i), new.format(i)) if i == 3 else text


@pytest.mark.parametrize(
    ("kind", "edit", "why"),
    [
        ("conv", last("Relu(n{0})", "Sigmoid(n{0})"), "aren't built alike"),
        ("conv", last("Dropout(c{0})", "Relu(c{0})"), "aren't built alike"),
        ("conv", last("pads=[1,1,1,1]>(h", "pads=[2,2,2,2], dilations=[2,2]>(h"), "aren't built alike"),
        ("conv", last("Relu(n{0})", "Clip(n{0}, zero, n{0}s)"), "aren't built alike"),
        ("bottleneck", last("Clip(n{0}, zero, six)", "Clip(n{0}, zero, half)"), "constants between"),
        ("conv", lambda i, t: t.replace("Relu(n", "Softmax<axis=1>(n"), "there is a Softmax between"),
        ("conv", lambda i, t: t.replace("Relu(n", "LpNormalization<axis=1>(n"), "there is a LpNormalization between"),
        ("conv", lambda i, t: t.replace("Dropout(c", "Relu(c"), "don't end in a layer"),
    ],
)
def test_blocks_that_are_built_otherwise(kind, edit, why):
    graph = Graph(chain(kind, edit=edit))
    refused(graph, outputs(graph), why)


def test_branches_without_hidden_layers():
    body = "a = Conv(x, w)\nr = Relu(a)\nb = Conv(r, w1)\nz = Add(b, r)\nc = Conv(z, w2)\ny = Add(c, z)"
    weights = {"w": (4, 3, 1, 1), "w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1)}
    graph = Graph(models.build("float[N,3,5,5] x", "float[N,4,5,5] y", body, weights))
    refused(graph, outputs(graph), "no hidden layer")


def test_plain_layers():
    graph = Graph(models.mlp((12, 10, 10, 10, 4)))
    refused(graph, ["r1", "r2"], "isn't a residual block")


@pytest.mark.parametrize("more", ["u = Neg(x1)", "t = Neg(x1)\nu = Sigmoid(t)"])
def test_what_is_read_elsewhere(more):
    model = chain("conv")
    model.graph.node.extend(onnx.parser.parse_graph(f"g (float[N,6,7,7] x1) => (float[N,6,7,7] u) {{ {more} }}").node)
    model.graph.output.append(onnx.helper.make_tensor_value_info("u", 1, ["N", 6, 7, 7]))
    refused(Graph(model), ["x1", "x2"], "'x1' is read elsewhere")
    assert merged(Graph(model), [["x2", "x3"]])


def test_what_is_an_output():
    model = chain("conv")
    model.graph.output.append(onnx.helper.make_tensor_value_info("x1", 1, ["N", 6, 7, 7]))
    refused(Graph(model), ["x1", "x2"], "'x1' is read elsewhere")
