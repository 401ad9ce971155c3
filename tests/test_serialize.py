"""Residual blocks in serial form compute the same, and everything in them can be pruned."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from onnx import ModelProto

import models
from onnxprune import files, methods, oracle, pipeline
from onnxprune.cost import total_macs
from onnxprune.coupling import Coupling, Group, couple
from onnxprune.errors import BudgetError
from onnxprune.fitting import refit
from onnxprune.graph import Graph
from onnxprune.ops.choice import fills_up
from onnxprune.ops.linear import Linear
from onnxprune.plan import Plan
from onnxprune.rewrite import pruned
from onnxprune.selection import flags_without, rank
from onnxprune.serialize import carried_out, serialize
from onnxprune.srn import positive
from onnxprune.statistics import Moments

TAIL = "p = GlobalAveragePool(z)\nf = Flatten(p)\n[head] y = Gemm<transB=1>(f, wy, by)"
X, Y = "float[N,3,8,8] x", "float[N,4] y"


def block(body: str, width: int = 6, **weights: object) -> ModelProto:
    """A stem that makes r [N, 6, 8, 8], some block that makes z of as many or `width` channels, and a head."""
    stem = "[stem] o = Conv<pads=[1,1,1,1]>(x, wx, bx)\nr = Relu(o)\n"
    fixed = {"wx": (6, 3, 3, 3), "bx": (6,), "wy": (4, width), "by": (4,)}
    return models.build(X, Y, stem + body + TAIL, fixed | weights)


def bottleneck() -> ModelProto:
    """1×1, 3×3 of stride 2, 1×1; the shortcut is a convolution with BatchNormalization; then one of stride 1."""
    body = """
        [a] a1 = Conv(r, wa, ba)
        a2 = Relu(a1)
        [b] b1 = Conv<pads=[1,1,1,1], strides=[2,2]>(a2, wb)
        b2 = BatchNormalization(b1, ns, nb, nm, nv)
        b3 = Relu(b2)
        [c] c1 = Conv(b3, wc)
        c2 = BatchNormalization(c1, os, ob, om, ov)
        [s] s1 = Conv<strides=[2,2]>(r, ws)
        s2 = BatchNormalization(s1, ps, pb, pm, pv)
        t = Add(s2, c2)
        u = Relu(t)
        [d] d1 = Conv(u, wd, bd)
        d2 = Relu(d1)
        [e] e1 = Conv<pads=[2,2,2,2], dilations=[2,2]>(d2, we, be)
        e2 = Relu(e1)
        [g] g1 = Conv(e2, wg, bg)
        v = Add(g1, u)
        z = Relu(v)
    """
    weights = {"wa": (4, 6, 1, 1), "ba": (4,), "wb": (4, 4, 3, 3), "wc": (10, 4, 1, 1), "ws": (10, 6, 1, 1)}
    weights |= {"wd": (4, 10, 1, 1), "bd": (4,), "we": (4, 4, 3, 3), "be": (4,), "wg": (10, 4, 1, 1), "bg": (10,)}
    return block(body, 10, **weights, **models.norm("n", 4), **models.norm("o", 10), **models.norm("p", 10))


def pre_activation() -> ModelProto:
    """BatchNormalization and activation in front of each layer; what is added can be negative."""
    body = """
        [t] t = Conv<pads=[1,1,1,1]>(r, wt, bt)
        a1 = BatchNormalization(t, ns, nb, nm, nv)
        a2 = Relu(a1)
        [a] a3 = Conv<pads=[1,1,1,1]>(a2, wa)
        b1 = BatchNormalization(a3, os, ob, om, ov)
        b2 = Relu(b1)
        [b] b3 = Conv<pads=[1,1,1,1]>(b2, wb, bb)
        u = Add(b3, t)
        d1 = BatchNormalization(u, ps, pb, pm, pv)
        d2 = LeakyRelu(d1)
        [d] d3 = Conv<pads=[1,1,1,1]>(d2, wd)
        e2 = PRelu(d3, slope)
        [e] e3 = Conv<auto_pad="SAME_UPPER">(e2, we, be)
        z = Add(e3, u)
    """
    weights = {"wt": (6, 6, 3, 3), "bt": (6,), "wa": (8, 6, 3, 3), "wb": (6, 8, 3, 3), "bb": (6,)}
    weights |= {"wd": (8, 6, 3, 3), "slope": (8, 1, 1), "we": (6, 8, 3, 3), "be": (6,)}
    return block(body, **weights, **models.norm("n", 6), **models.norm("o", 8), **models.norm("p", 6))


def linear_bottleneck(opset: int = 17) -> ModelProto:
    """Expand, depthwise, project as in MobileNetV2: cut off at 0 and 6, and nothing behind the sum."""
    clip = "Clip({}, zero, six)" if opset >= 11 else "Clip<min=0.0, max=6.0>({})"
    body = f"""
        [t] t = Conv(x, wt, bt)
        [a] a1 = Conv(t, wa, ba)
        a2 = {clip.format("a1")}
        [b] b1 = Conv<group=12, pads=[1,1,1,1]>(a2, wb)
        b2 = {clip.format("b1")}
        [c] c1 = Conv(b2, wc)
        u = Add(t, c1)
        [d] d1 = Conv(u, wd, bd)
        d2 = {clip.format("d1")}
        [e] e1 = Conv<group=12, pads=[1,1,1,1]>(d2, we, be)
        e2 = {clip.format("e1")}
        [g] g1 = Conv(e2, wg)
        z = Add(u, g1)
    """
    weights: dict[str, object] = {"wt": (4, 3, 1, 1), "bt": (4,), "wa": (12, 4, 1, 1), "ba": (12,), "bd": (12,)}
    weights |= {"wb": (12, 1, 3, 3), "wc": (4, 12, 1, 1), "wd": (12, 4, 1, 1), "we": (12, 1, 3, 3), "be": (12,)}
    weights |= {"wg": (4, 12, 1, 1), "wy": (4, 4), "by": (4,)}
    if opset >= 11:
        weights |= {"zero": np.float32(0), "six": np.float32(6)}
    return models.build(X, Y, body + TAIL, weights, opset=opset)


def one_layer() -> ModelProto:
    """A single convolution beside its own input, and the same along one axis of space only."""
    body = """
        [a] a = Conv<pads=[1,1,1,1]>(r, wa, ba)
        u = Add(r, a)
        s = Relu(u)
        q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
        [b] b = Conv<pads=[1,0,1,0]>(q, wb)
        v = Add(b, q)
        w = Mul(v, scale)
        z = Tanh(w)
    """
    return block(body, wa=(6, 6, 3, 3), ba=(6,), wb=(6, 6, 3, 1), scale=(6, 1, 1))


BLOCKS = {
    "identity": lambda: models.residual("identity"),
    "projection": lambda: models.residual("projection"),
    "option_a": lambda: models.residual("option_a"),
    "bottleneck": bottleneck,
    "pre_activation": pre_activation,
    "linear_bottleneck": linear_bottleneck,
    "linear_bottleneck_of_opset_9": lambda: linear_bottleneck(9),
    "one_layer": one_layer,
}


@cache
def made(name: str, mode: str) -> tuple[ModelProto, Coupling]:
    """A network, and the coupling of its other form."""
    model = BLOCKS[name]()
    serial = serialize(Graph(model), mode)
    assert not serial.left
    return model, couple(serial.graph)


def difference(model: ModelProto, other: ModelProto) -> float:
    """Of the outputs, relative to their size."""
    feed = models.feeds(model, 9, 8)[0]
    one, two = (models.values(m, feed)["y"].astype(float) for m in (model, other))
    return float(np.abs(one - two).max() / np.sqrt(np.square(one).mean()))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_the_other_form_computes_the_same(name, mode):
    model, coupling = made(name, mode)
    assert difference(model, coupling.graph.model) < 1e-5
    sums = [n for n in coupling.graph.nodes if n.op_type == "Add"]
    assert bool(sums) == (mode == "auto")


@pytest.mark.parametrize("name", BLOCKS)
def test_every_layer_of_a_serial_network_is_prunable(name):
    _, coupling = made(name, "always")
    assert not any(g.stream for g in coupling.groups)
    assert [coupling.layer(i) for i in coupling.left_alone] == ["head"]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_surgery_on_the_other_form_is_exact(name, mode):
    model, coupling = made(name, mode)
    feeds = models.feeds(model, 17, 8)[:2]
    for seed in range(3):
        plan = Plan(dict(models.random_widths(coupling, np.random.default_rng(seed))), serialize=mode)
        verdict = oracle.check(coupling, plan, carried_out(coupling, plan), feeds)
        assert verdict.ok, verdict


@pytest.mark.parametrize("name", BLOCKS)
def test_every_convolution_chooses_what_it_reads_of_the_stream(name):
    model, coupling = made(name, "auto")
    chosen = {g.name.removeprefix("input of ") for g in coupling.groups if g.name.startswith("input of ")}
    streams = {i for g in couple(Graph(model)).groups if g.stream for i in g.reads}
    expected = {n.name for i, n in enumerate(Graph(model).nodes) if i in streams and n.op_type == "Conv"}
    assert chosen == expected
    assert expected
    assert not any(g.stream and g.writers and len(g.reads) > 1 for g in coupling.groups if "input of" in g.name)


WRITERS = {
    "identity": {"one_b", "two_b"},
    "projection": {"one_b", "two_b", "short"},
    "option_a": {"one_b", "two_b"},
    "bottleneck": {"c", "s", "g"},
    "pre_activation": {"b", "e"},
    "linear_bottleneck": {"c", "g"},
    "linear_bottleneck_of_opset_9": {"c", "g"},
    "one_layer": {"a", "b"},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_convolution_chooses_what_it_adds_to_the_stream(name):
    _, coupling = made(name, "auto")
    fills = {
        i for i, node in enumerate(coupling.graph.nodes) if node.op_type == "Gather" and fills_up(coupling.graph, i)
    }
    assert {group.name for group in coupling.groups if fills & group.reads.keys()} == WRITERS[name]
    assert not any(fills & group.reads.keys() and len(group.reads) > 1 for group in coupling.groups)
    assert not any(coupling.layer(i).startswith("fill") for i in coupling.left_alone)


def writer(name: str = "two_b") -> tuple[Coupling, Group, Linear]:
    """A group of channels that are added to a stream, and what fills up those that are left out."""
    _, coupling = made("identity", "auto")
    group = coupling.by_name[name]
    (index,) = group.reads
    linear = coupling.linear(index)
    assert linear is not None
    return coupling, group, linear


def rows(count: int = 300) -> np.ndarray:
    """What a writer makes, correlated and of unequal variance, behind the padding."""
    rng = np.random.default_rng(5)
    made = rng.normal(size=(count, 6)) @ rng.normal(size=(6, 6)) * [3, 1, 5, 2, 6, 4] + rng.normal(size=6)
    return np.column_stack([np.zeros(count), made]).astype(np.float32)


def test_what_a_writer_leaves_out_is_the_mean_of_what_is_missing():
    _, group, linear = writer()
    x = rows()
    for target in (None, x[:, 1:] + np.arange(6, dtype=np.float32)):
        moments = Moments.starting_with(x, target)
        moments.add(x, target)
        flags = flags_without(linear, group, np.asarray([1, 4]))
        found = refit(linear, flags, moments, None)
        kept = np.asarray([1, 0, 1, 1, 0, 1])
        assert (found.weights.matrix[0] == np.eye(7, 6, -1) * kept).all()
        wanted = x[:, 1:].mean(0) * (1 - kept) + (0 if target is None else np.arange(6))
        assert found.weights.offset == pytest.approx(wanted, abs=1e-5)
        variance = x[:, 1:].var(0, dtype=float)
        assert found.error == pytest.approx(variance[[1, 4]].sum() / variance.sum(), rel=1e-4)


def test_the_error_of_leaving_out_is_the_variance_of_what_is_left_out():
    coupling, group, linear = writer()
    x = rows()
    moments = Moments.starting_with(x)
    moments.add(x)
    method, rng = methods.find("reap"), np.random.default_rng(0)
    assert isinstance(method, methods.Method)
    ranking = rank(coupling, group, {linear.key: [moments]}, method, np.arange(1, 7), rng)
    variance = x[:, 1:].var(0, dtype=float)
    assert ranking.order.tolist() == np.argsort(variance)[:5].tolist()
    expected = np.cumsum(np.sort(variance))[::-1] / variance.sum()
    assert ranking.errors == pytest.approx([*expected[1:], 0.0], rel=1e-3)


def test_only_zeros_in_front_let_a_writer_choose():
    def filling(body: str, **weights: object) -> bool:
        text = f"[a] a = Conv(x, w, b)\n{body}\ny = Relu(g)"
        fixed = {"w": (4, 3, 1, 1), "b": (4,), "front": [0, 1, 0, 0] + 4 * [0], "rest": np.arange(1, 5)}
        used = {k: v for k, v in (fixed | weights).items() if f"{k}" in text}
        graph = Graph(models.build(X, "float[N,4,8,8] y", text, used))
        return any(node.op_type == "Gather" and fills_up(graph, i) for i, node in enumerate(graph.nodes))

    pick = "g = Gather<axis=1>(p, rest)"
    assert filling(f"p = Pad(a, front)\n{pick}")
    assert filling(f"p = Pad(a, front, none)\n{pick}", none=np.float32(0))
    assert not filling(f"p = Pad(a, front, none)\n{pick}", none=np.float32(1))
    assert not filling(f'p = Pad<mode="edge">(a, front)\n{pick}')
    assert not filling(f"p = Pad(a, behind)\n{pick}", behind=[0, 0, 0, 0, 0, 1, 0, 0])
    assert not filling(f"p = Pad(a, beside)\n{pick}", beside=[0, 1, 1, 0, 0, 0, -1, 0])
    assert not filling(f"p = Pad(a, front)\n{pick}", rest=np.asarray([1, 2, 4, 3]))
    assert not filling(f"p = Relu(a)\n{pick}", rest=np.asarray([0, 1, 2, 3]))


def test_without_choices_a_layer_is_fitted_as_ever():
    """One whose output is filled up takes up the drift of its shortcut, too. Of few samples all places are fitted."""
    _, plain = run("identity", "never", "macs=0.9", include=("one_a",), samples=6)
    _, lazy = run("identity", "auto", "macs=0.9", include=("one_a",), samples=6)
    assert [n.op_type for n in lazy.model.graph.node] == [n.op_type for n in plain.model.graph.node]
    assert {n.name for n in lazy.model.graph.initializer} == {n.name for n in plain.model.graph.initializer}
    assert difference(plain.model, lazy.model) < 1e-4


def test_channels_that_only_take_their_places_take_nothing_over():
    """Unification can't mix channels where each only takes its place."""
    _, result = run("identity", "auto", "macs=0.5", method="nu")
    _, coupling = made("identity", "auto")
    fills = [name for name, linear in coupling.layers.items() if linear.fixed and name in result.plan.weights]
    assert fills
    for name in fills:
        assert set(np.unique(result.plan.weights[name].matrix)) == {0.0, 1.0}


def test_gathers_that_lost_nothing_are_dropped():
    model, coupling = made("identity", "auto")
    everything = carried_out(coupling, Plan(serialize="auto")).proto
    assert [n.op_type for n in everything.graph.node] == [n.op_type for n in model.graph.node]
    assert {t.name for t in everything.graph.initializer} == {t.name for t in model.graph.initializer}
    assert difference(model, everything) == 0.0
    keep = {"input of two_a": np.asarray([0, 2, 5])}
    some = carried_out(coupling, Plan(keep, serialize="auto")).proto
    assert [n.op_type for n in some.graph.node].count("Gather") == 1
    assert [n.op_type for n in pruned(coupling, Plan(keep)).proto.graph.node].count("Gather") == 4
    keep = {"one_b": np.arange(5)}  # the padding takes the place of the last channel, of which there are five then
    some = carried_out(coupling, Plan(keep, serialize="auto")).proto
    counts = Counter(n.op_type for n in some.graph.node)
    assert (counts["Pad"], counts["Gather"]) == (1, 1)


def test_a_gather_that_is_an_output_stays():
    body = "[a] a = Conv(x, w, b)\nr = Relu(a)\ny = Gather<axis=1>(r, all)"
    weights = {"w": (4, 3, 1, 1), "b": (4,), "all": np.arange(4)}
    coupling = couple(Graph(models.build(X, "float[N,4,8,8] y", body, weights)))
    kept = carried_out(coupling, Plan(serialize="auto")).proto
    assert [n.op_type for n in kept.graph.node] == ["Conv", "Relu", "Gather"]


PAIR = "[a] a = Conv<pads=[1,1,1,1]>(r, wa)\nb = Relu(a)\n[c] c = Conv<pads=[1,1,1,1]>(b, wc)\n"
TWO = {"wa": (8, 6, 3, 3), "wc": (6, 8, 3, 3)}


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        (PAIR + "z = Add(c, c)\n", TWO, "by two ways"),
        (PAIR + "s = Sigmoid(r)\nt = Mul(s, r)\nz = Add(c, t)\n", TWO, "by two ways"),
        ("a = Relu(r)\nz = Add(a, r)\n", {}, "no convolution"),
        (PAIR + "d = Relu(c)\nz = Add(d, r)\n", TWO, "doesn't end in a convolution"),
        (PAIR + "[e] e = Conv(b, we)\nu = Add(c, r)\nz = Add(u, e)\n", {**TWO, "we": (6, 8, 1, 1)}, "read elsewhere"),
        (PAIR + "s = Relu(r)\nz = Add(c, s)\n", TWO, "holds a Relu that can't be carried"),
        (PAIR + "s = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)\nz = Add(c, s)\n", TWO, "a AveragePool"),
        ("[a] a = Conv<pads=[1,1,1,1], group=2>(r, wa)\nz = Add(a, r)\n", {"wa": (6, 3, 3, 3)}, "in groups"),
        (
            "[a] a = Conv<pads=[1,1,1,1]>(r, wa)\nb = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)\n"
            "[c] c = Conv<pads=[1,1,1,1]>(b, wc)\nz = Add(c, r)\n",
            TWO,
            "holds a MaxPool",
        ),
        (
            "[a] a = Conv<pads=[0,0,1,1]>(r, wa)\nz = Add(a, r)\n",
            {"wa": (6, 6, 2, 2)},
            "",
        ),
        (
            "[a] a = Conv<pads=[1,1,1,1], dilations=[2,2]>(r, wa)\nz = Add(a, r)\n",
            {"wa": (6, 6, 2, 2)},
            "doesn't read the place",
        ),
    ],
)
def test_what_is_no_residual_block_stays_and_says_why(body, weights, reason):
    model = block(body, **weights)
    serial = serialize(Graph(model), "always")
    assert difference(model, serial.graph.model) < 1e-5
    if reason:
        assert any(reason in said for said in serial.left.values()), serial.left
    else:
        assert not serial.left


def test_without_residual_blocks_nothing_changes():
    model = models.convs()
    for mode in ("never", "auto", "always"):
        assert serialize(Graph(model), mode).graph.model.graph.node == model.graph.node


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(x)", True),
        ("y = Clip(x, low)", True),
        ("y = Clip(x, minus)", False),
        ("a = Relu(x)\ny = MaxPool<kernel_shape=[2,2]>(a)", True),
        ("y = MaxPool<kernel_shape=[2,2]>(x)", False),
        ("a = Relu(x)\ny = Neg(a)", False),
    ],
)
def test_what_cannot_be_negative(body, expected):
    weights = {"low": np.float32(0), "minus": np.float32(-1)}
    used = {k: v for k, v in weights.items() if k in body}
    assert positive(Graph(models.build(X, "float[N,C,H,W] y", body, used)), "y") == expected


# ---- In a run


def run(name, mode, target, **options):
    model = BLOCKS[name]()
    given = {"calibration": models.data(model, 80), "runtime": models.RUNTIME, "measure_latency": False, "round_to": 1}
    return model, pipeline.prune(model, target=target, serialize=mode, **given, **options)


@pytest.mark.parametrize("name", ["projection", "linear_bottleneck", "pre_activation"])
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_the_target_is_a_share_of_the_original(name, mode):
    model, result = run(name, mode, "macs=0.7")
    share = total_macs(Graph(result.model)) / total_macs(Graph(model))
    assert 0.6 < share <= 0.7
    assert result.report.before.macs == total_macs(Graph(model))
    assert result.report.targets[0].reached


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_a_plan_names_the_form_it_is_for(mode, tmp_path):
    model, result = run("identity", mode, "macs=0.6")
    result.plan.save(tmp_path / "plan.npz")
    plan = Plan.load(tmp_path / "plan.npz")
    assert plan.serialize == mode
    again = pipeline.apply(model, plan)
    assert again.graph.node == result.model.graph.node
    assert again.graph.initializer == result.model.graph.initializer
    _, other = run("identity", "never", (), plan=plan)
    assert other.model.graph.node == result.model.graph.node


def test_sums_that_stay_are_listed():
    model = block(PAIR + "d = Relu(c)\n[sum] z = Add(d, r)\n", **TWO)
    given = {"calibration": models.data(model, 40), "runtime": models.RUNTIME, "measure_latency": False}
    report = pipeline.prune(model, target="macs=0.7", serialize="always", **given).report
    assert {"layer": "sum", "reason": "it stays a sum: its branch doesn't end in a convolution"} in report.left_alone


def test_what_cannot_be_reached_is_said_as_a_share_of_the_original():
    with pytest.raises(BudgetError, match=r"the target is 0\.1% of the original") as caught:
        run("identity", "always", "macs=0.001")
    model = models.residual("identity")
    smallest = total_macs(Graph(caught.value.result.model)) / total_macs(Graph(model))
    assert caught.value.reachable == pytest.approx(smallest, rel=0.02)


def test_the_form_is_checked_against_the_original(monkeypatch):
    """A serial form that computes something else is an error, not a pruned model."""
    from onnxprune import srn as module
    from onnxprune.errors import InternalError

    monkeypatch.setattr(
        module, "_beside", lambda linear, state, tap, way, old=module._beside: _spoiled(old(linear, state, tap, way))
    )
    with pytest.raises(InternalError, match="differs"):
        run("identity", "always", "macs=0.7")


def _spoiled(found):
    matrix, offset = found
    return matrix, offset + 0.5


def test_weights_in_other_files_stay_there(tmp_path):
    model = models.residual("identity")
    files.save(model, tmp_path / "m.onnx", external=True)
    graph = Graph.of(files.load(tmp_path / "m.onnx"))
    assert difference(model, files.embedded(files.Model(serialize(graph, "always").graph.model))) < 1e-5


def test_names_stay_unique():
    for mode in ("auto", "always"):
        _, coupling = made("bottleneck", mode)
        outputs = [o for n in coupling.graph.nodes for o in n.output]
        assert len(set(outputs)) == len(outputs)
        named = [n.name for n in coupling.graph.nodes if n.name]
        assert len(set(named)) == len(named)
