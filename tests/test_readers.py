"""Every kind of layer that reads channels: least squares makes up for what is gone, from calibration to the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

import models
from onnxprune import fitting, repair, selection, steps
from onnxprune.calibration import load
from onnxprune.coupling import Coupling, couple
from onnxprune.data import inputs_of
from onnxprune.graph import Graph
from onnxprune.ops.linear import describe, loop
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite
from onnxprune.run import Options, prepare
from onnxprune.scope import why_left_out

STEM = "[stem] a = Conv<pads=[1,1,1,1]>(x, w0, b0)\nr = Relu(a)\n"
HEAD = "p = GlobalAveragePool({})\nf = Flatten(p)\ny = Gemm(f, v)"
WIDE = {"w0": (16, 3, 3, 3), "b0": (16,)}
IMAGE, FIVE = "float[N,3,8,8] x", "float[N,5] y"
WORDS = "[up] a = MatMul(x, w0)\nr = Relu(a)\n"
STATES = "t = Transpose<perm=[1,0,2]>(x)\n"

BODIES = {
    "conv": (IMAGE, FIVE, STEM + "c = Conv<strides=[2,2]>(r, w1)\nq = Relu(c)\n" + HEAD.format("q"),
             WIDE | {"w1": (10, 16, 3, 3), "v": (10, 5)}),
    "conv of one axis": ("float[N,3,20] x", FIVE, "a = Conv<pads=[1,1]>(x, w0, b0)\nr = Relu(a)\nc = Conv(r, w1)\n"
                         "q = Relu(c)\n" + HEAD.format("q"),
                         {"w0": (16, 3, 3), "b0": (16,), "w1": (10, 16, 3), "v": (10, 5)}),
    "conv of three axes": ("float[N,2,5,4,6] x", FIVE, "a = Conv<pads=[1,1,1,1,1,1]>(x, w0, b0)\nr = Relu(a)\n"
                           "c = Conv(r, w1)\nq = Relu(c)\n" + HEAD.format("q"),
                           {"w0": (12, 2, 3, 3, 3), "b0": (12,), "w1": (8, 12, 2, 2, 2), "v": (8, 5)}),
    "conv in groups": (IMAGE, FIVE, STEM + "c = Conv<group=2>(r, w1, b1)\nq = Relu(c)\n" + HEAD.format("q"),
                       WIDE | {"w1": (12, 8, 3, 3), "b1": (12,), "v": (12, 5)}),
    "behind a depthwise conv": (IMAGE, FIVE, STEM + "d = Conv<group=16, pads=[1,1,1,1]>(r, wd)\ne = Relu(d)\n"
                                "c = Conv(e, w1)\nq = Relu(c)\n" + HEAD.format("q"),
                                WIDE | {"wd": (16, 1, 3, 3), "w1": (10, 16, 1, 1), "v": (10, 5)}),
    "transposed conv": (IMAGE, FIVE, STEM + "c = ConvTranspose<strides=[2,2]>(r, w1)\nq = Relu(c)\n" + HEAD.format("q"),
                        WIDE | {"w1": (16, 10, 3, 3), "v": (10, 5)}),
    "channels last": ("float[N,8,8,3] x", FIVE, "h = Transpose<perm=[0,3,1,2]>(x)\n"
                      "a = Conv<pads=[1,1,1,1]>(h, w0, b0)\n"
                      "i = Transpose<perm=[0,2,3,1]>(a)\nr = Relu(i)\nj = Transpose<perm=[0,3,1,2]>(r)\n"
                      "c = Conv(j, w1)\nk = Transpose<perm=[0,2,3,1]>(c)\nq = Relu(k)\n"
                      "s = ReduceMean<axes=[1,2], keepdims=0>(q)\ny = MatMul(s, v)",
                      WIDE | {"w1": (10, 16, 3, 3), "v": (10, 5)}),
    "behind a concat": (IMAGE, FIVE, STEM + "a2 = Conv(x, w2, b2)\nr2 = Sigmoid(a2)\nz = Concat<axis=1>(r, x, r2)\n"
                        "c = Conv(z, w1)\nq = Relu(c)\n" + HEAD.format("q"),
                        WIDE | {"w2": (8, 3, 1, 1), "b2": (8,), "w1": (10, 27, 1, 1), "v": (10, 5)}),
    "behind flatten": (IMAGE, FIVE, STEM + "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\nf = Flatten(m)\n"
                       "y = Gemm(f, v)", WIDE | {"v": (256, 5)}),
    "behind pooling": (IMAGE, FIVE, STEM + "m = AveragePool<kernel_shape=[3,3], strides=[2,2]>(r)\nc = Conv(m, w1)\n"
                       "q = Relu(c)\n" + HEAD.format("q"), WIDE | {"w1": (10, 16, 2, 2), "v": (10, 5)}),
    "matrix on the right": ("float[N,7,6] x", "float[N,7,5] y", WORDS + "y = MatMul(r, w1)",
                            {"w0": (6, 16), "w1": (16, 5)}),
    "matrix on the left": ("float[N,6,7] x", "float[N,5,7] y", "a = MatMul(w0, x)\nr = Relu(a)\ny = MatMul(w1, r)",
                           {"w0": (16, 6), "w1": (5, 16)}),
    "gemm, both transposed": ("float[N,6] x", "float[N,5] y", "t = Transpose(x)\na = Gemm<transA=1>(t, w0)\n"
                              "r = Relu(a)\nu = Transpose(r)\ny = Gemm<transA=1, transB=1>(u, w1)",
                              {"w0": (6, 16), "w1": (5, 16)}),
    "gemm, matrix on the left": ("float[N,6] x", "float[5,N] y", "a = Gemm<transB=1>(w0, x)\nr = Relu(a)\n"
                                 "y = Gemm(w1, r)", {"w0": (16, 6), "w1": (5, 16)}),
    "lstm": ("float[N,9,6] x", "float[9,1,N,4] y", STATES + "a = MatMul(t, w0)\nr = Relu(a)\n"
             "y = LSTM<hidden_size=4>(r, w, q, b)",
             {"w0": (6, 16), "w": (1, 16, 16), "q": (1, 16, 4), "b": (1, 32)}),
    "stacked lstm": ("float[N,9,6] x", "float[9,N,5] y", STATES + "a = LSTM<hidden_size=12>(t, w, q, b)\n"
                     "s = Squeeze(a, one)\nc = LSTM<hidden_size=10>(s, w2, q2)\nd = Squeeze(c, one)\ny = MatMul(d, v)",
                     {"w": (1, 48, 6), "q": (1, 48, 12), "b": (1, 96), "w2": (1, 40, 12), "q2": (1, 40, 10),
                      "one": [1], "v": (10, 5)}),
    "gru in both directions": ("float[N,9,6] x", "float[9,N,5] y", STATES
                               + 'a = GRU<hidden_size=12, direction="bidirectional", '
                               "linear_before_reset=1>(t, w, q, b)\n"
                               "s = Transpose<perm=[0,2,1,3]>(a)\nd = Reshape(s, shape)\ny = MatMul(d, v)",
                               {"w": (2, 36, 6), "q": (2, 36, 12), "b": (2, 72), "shape": [0, 0, -1], "v": (24, 5)}),
    "rnn": ("float[N,9,6] x", "float[N,5] y", STATES + ", h = RNN<hidden_size=12>(t, w, q)\ns = Squeeze(h, zero)\n"
            "y = Gemm(s, v)", {"w": (1, 12, 6), "q": (1, 12, 12), "zero": [0], "v": (12, 5)}),
}  # fmt: skip
BY_CHANNEL = ["conv", "conv in groups", "transposed conv", "behind flatten", "behind a concat"]
READERS = [(name, "auto") for name in BODIES] + [(name, "channel") for name in BY_CHANNEL]


def built(name: str) -> ModelProto:
    inputs, outputs, body, weights = BODIES[name]
    return models.build(inputs, outputs, body, weights)


def halved(model: ModelProto, mode: str, granularity: str, width=lambda n: n - n // 2) -> tuple[Coupling, ModelProto]:
    """Every group at half its width, chosen by REAP, as the steps of a run do it."""
    graph = Graph(model)
    found = load(models.data(model, 200), inputs_of(graph))
    options = Options(reconstruct=mode, granularity=granularity, round_to=1, runtime=models.RUNTIME)
    run = prepare(graph, found, options)
    ranked = steps.rank(run)
    keep = {r.group.name: r.kept(width(r.group.channels)) for r in ranked.rankings}
    weights, _ = repair.reconstruct(run, ranked, keep)
    return run.coupling, rewrite(run.coupling, Plan(keep, weights))


def error(model: ModelProto, pruned: ModelProto) -> float:
    """Relative error of the output on samples of its own."""
    feed = models.feeds(model, 100, 100, seed=9)[0]
    before, after = models.values(model, feed)["y"], models.values(pruned, feed)["y"]
    return float(np.sqrt(np.square(before - after).sum() / np.square(before - before.mean()).sum()))


@pytest.mark.parametrize(("name", "granularity"), READERS)
def test_least_squares_makes_up_for_most_of_what_is_gone(name, granularity):
    model = built(name)
    none, mean, ls = (error(model, halved(model, mode, granularity)[1]) for mode in ("none", "mean", "ls"))
    assert ls < 0.5 * none
    assert ls < (0.9 if granularity == "channel" else 0.6) * mean


@pytest.mark.parametrize(("name", "granularity"), READERS)
def test_copies_go_without_a_loss(name, granularity, monkeypatch):
    """REAP finds them, and what stays takes over for them."""
    monkeypatch.setattr(fitting, "DAMPINGS", (1e-9,) * 6)
    model, keep = models.doubled(built(name))
    coupling, pruned = halved(model, "ls", granularity)
    assert set(keep) == {g.name for g in coupling.groups if not why_left_out(coupling, g)}
    assert error(model, pruned) < 1e-3


def test_the_taps_of_a_wide_layer_share_a_coefficient(monkeypatch):
    """What is too wide otherwise is fitted at channel level; what can't be stays whole, and says so."""
    model = built("behind flatten")
    wide = couple(Graph(model)).linear(4)
    assert (wide.size, wide.shared) == (256, None)
    monkeypatch.setattr("onnxprune.ops.linear.WIDEST", 100)
    coupling = couple(Graph(model))
    linear = coupling.linear(4)
    assert linear.size == 16
    np.testing.assert_array_equal(linear.shared, np.arange(256).reshape(16, 16))
    assert [why_left_out(coupling, g) for g in coupling.groups] == [""]
    monkeypatch.setattr("onnxprune.ops.linear.WIDEST", 10)
    coupling = couple(Graph(model))
    assert [why_left_out(coupling, g) for g in coupling.groups] == [
        "y reads 256 values, too many to refit: they go without repair alone, by weights (as with --method l1)"
    ]


def test_channels_of_unequal_size_share_nothing():
    """Part of the rows belongs to the input, which is no channel that could be told from others."""
    body = STEM + "f = Flatten(r)\ng = Flatten(x)\nz = Concat<axis=1>(f, g)\ny = Gemm(z, v)"
    model = models.build(IMAGE, FIVE, body, WIDE | {"v": (19 * 64, 5)})
    assert replace(couple(Graph(model)), granularity="channel").linear(5).shared is None


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_weights_spread_from_what_the_fit_sees_are_the_layers_own(name):
    coupling = replace(couple(Graph(built(name))), granularity="channel")
    for linear in coupling.layers.values():
        fit = linear.fit
        matrix, offset = linear.spread(fit.matrix, fit.offset)
        np.testing.assert_allclose(matrix, linear.matrix, atol=1e-9)
        np.testing.assert_allclose(offset, linear.offset, atol=1e-9)
        rows = np.random.default_rng(0).normal(size=(7, linear.channels * linear.taps))
        assert linear.stacked(rows).shape == (7 * linear.repeats, linear.size)


def test_at_channel_level_every_tap_is_read_by_the_weights_of_all():
    linear = replace(couple(Graph(built("behind flatten"))), granularity="channel").linear(4)
    x = np.random.default_rng(1).normal(size=(30, 256))
    taps = [x[:, rows] @ linear.matrix[0][weights] for rows in linear.shared.T for weights in linear.shared.T]
    seen = linear.fit.apply(linear.stacked(x))
    assert np.square(seen).sum() == pytest.approx(sum(np.square(tap).sum() for tap in taps))


@pytest.mark.parametrize("name", ["lstm", "stacked lstm", "gru in both directions", "rnn"])
def test_recurrent_layers_are_two_products(name):
    """Of the input, and of their own units, as far as these are a value of the graph."""
    graph = Graph(built(name))
    for index, node in enumerate(graph.nodes):
        if node.op_type in ("LSTM", "GRU", "RNN"):
            w, r = (graph.array(node.input[i]).astype(float) for i in (1, 2))
            b = graph.array(node.input[3]) if len(node.input) > 3 else np.zeros((len(w), 2 * w.shape[1]))
            for linear, weight, bias in ((describe(graph, index), w, b[:, : w.shape[1]]),
                                         (loop(graph, index), r, b[:, w.shape[1] :])):  # fmt: skip
                x = np.random.default_rng(2).normal(size=(5, linear.channels))
                each = np.split(x, linear.conv_group, axis=1) * (len(weight) // linear.conv_group)
                expected = [own @ one.T + add for own, one, add in zip(each, weight, bias, strict=True)]
                np.testing.assert_allclose(linear.apply(x), np.concatenate(expected, axis=1), atol=1e-6)
                tensor, biases = linear.tensors(linear)
                np.testing.assert_array_equal(tensor, weight)
                np.testing.assert_allclose(biases, b)
            states = loop(graph, index)
            assert states.input == next(output for output in node.output if output)
            if node.output[0]:  # a row for each step and sample: the units of all directions
                value = np.arange(3 * len(w) * 4 * r.shape[2]).reshape(3, len(w), 4, -1)
                rows = states.sample(value, states.output_shape(value.shape), np.arange(12))
                np.testing.assert_array_equal(rows, value.swapaxes(1, 2).reshape(12, -1))


def test_cells_alone_do_not_tell_the_units():
    body = STATES + ", , c = LSTM<hidden_size=12>(t, w, q)\ns = Squeeze(c, zero)\ny = Gemm(s, v)"
    weights = {"w": (1, 48, 6), "q": (1, 48, 12), "zero": [0], "v": (12, 5)}
    coupling = couple(Graph(models.build("float[N,9,6] x", "float[N,5] y", body, weights)))
    assert coupling.loop(1) is None
    assert [why_left_out(coupling, g) for g in coupling.groups] == [""]
    assert [selection.readers(coupling, g) for g in coupling.groups] == [[]]
