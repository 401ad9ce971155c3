"""How often channels are off, against counts of what onnxruntime computes."""

import numpy as np
import pytest
from cases import CASES, Case

import models
from onnxprune.activity import FAINT, activations, collect_activity


def counted(model, names, feeds):
    """Shares of zeros and of faint values per channel (axis 1), averaged over batches and values."""
    zeros, faint = [], []
    for name in names:
        for feed in feeds:
            value = models.values(model, feed, [name])[name].astype(np.float64)
            value = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            zeros.append((value == 0).mean(1))
            faint.append((np.abs(value) < FAINT * np.sqrt(np.mean(value**2))).mean(1))
    return np.mean(zeros, 0), np.mean(faint, 0)


@pytest.mark.parametrize(
    ("name", "group", "values"),
    [
        ("mlp", "fc0", ["r0"]),
        ("convs", "conv1", ["r1"]),
        ("convs", "conv2", ["r2"]),
        ("depthwise", "expand", ["r0", "r1"]),
        ("grouped", "b", ["r1"]),
        ("identity", "one_a", ["q1"]),
        ("dense", "a", ["r0"]),
    ],
)
def test_shares_are_those_of_the_activation(name, group, values):
    model = models.ALL[name]()
    coupling = models.coupled(model)
    group = coupling.by_name[group]
    assert activations(coupling, group) == values
    feeds = models.feeds(model, 32, 16)
    found = collect_activity(coupling, coupling.groups, feeds, models.RUNTIME)[group.name]
    zeros, faint = counted(model, values, feeds)
    np.testing.assert_allclose(found.zeros, zeros, atol=1e-6)
    np.testing.assert_allclose(found.faint, faint, atol=1e-6)
    assert 0 < found.zeros.max() <= 1


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_batches_count_by_their_size_in_every_opset(opset):
    body = "h = Gemm(x, w0)\ns = Sigmoid(h)\nr = Mul(s, h)\ny = Gemm(r, w1)"
    model = models.build("float[N,6] x", "float[N,3] y", body, {"w0": (6, 6), "w1": (6, 3)}, opset=opset)
    coupling = models.coupled(model)
    assert activations(coupling, coupling.groups[0]) == ["r"]
    feeds = models.feeds(model, 30, 20)
    found = collect_activity(coupling, coupling.groups, feeds, models.RUNTIME)[coupling.groups[0].name]
    assert not found.zeros.any()
    parts = [counted(model, ["r"], [feed])[1] for feed in feeds]
    np.testing.assert_allclose(found.faint, (20 * parts[0] + 10 * parts[1]) / 30, atol=1e-6)


def test_units_of_both_directions():
    case = CASES["lstm_in_both_directions"]
    coupling, feed = models.coupled(case.model()), case.feed(4)
    assert activations(coupling, coupling.groups[0]) == ["a"]
    found = collect_activity(coupling, coupling.groups, [feed], models.RUNTIME)["a"]
    size = np.abs(models.values(case.model(), feed, ["a"])["a"])
    faint = size < FAINT * np.sqrt(np.mean(size**2))
    np.testing.assert_allclose(found.faint, faint.mean((0, 2)).ravel(), atol=1e-6)


def test_values_within_a_body_that_is_chosen():
    inside = """a = Conv(x, w1)
    y = If(yes) <then_branch = t () => (float[N,2,8,8] q) { m = Relu(a)
                                                           q = Conv(m, w2) },
                 else_branch = e () => (float[N,2,8,8] k) { k = Conv(a, w2) }>"""
    weights = {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)}
    found = []
    for body, more in ((inside, {"yes": np.asarray(True)}), ("a = Conv(x, w1)\nm = Relu(a)\ny = Conv(m, w2)", {})):
        case = Case("body", "float[N,3,8,8] x", "float[N,2,8,8] y", body, weights | more)
        coupling = models.coupled(case.model())
        found.append(collect_activity(coupling, coupling.groups, [case.feed(8)], models.RUNTIME)["a"])
    np.testing.assert_array_equal(found[0].zeros, found[1].zeros)
    np.testing.assert_array_equal(found[0].faint, found[1].faint)
    assert found[0].zeros.any()


def test_channels_last_and_streams():
    model = models.tokens()
    coupling = models.coupled(model)
    assert activations(coupling, coupling.groups[0]) == ["r"]
    feed = models.feeds(model, 8, 8)[0]
    found = collect_activity(coupling, coupling.groups, [feed], models.RUNTIME)[coupling.groups[0].name]
    value = models.values(model, feed, ["r"])["r"]
    np.testing.assert_allclose(found.zeros, (value == 0).mean((0, 1)), atol=1e-6)
    block = models.coupled(models.residual("identity"))
    assert activations(block, block.by_name["stem"]) == ["r0", "r", "f"]  # behind the sums


def test_nothing_to_count():
    """Heads have no activation of their own, so there may be none at all."""
    coupling = models.coupled(models.mlp())
    feeds = models.feeds(models.mlp(), 8)
    assert collect_activity(coupling, [], feeds, models.RUNTIME) == {}


@pytest.mark.parametrize("opset", [17, 18])
def test_values_of_one_axis(opset):
    case = CASES["vectors"]
    model = Case("vectors", case.inputs, case.outputs, case.body, case.weights, opset=opset).model()
    coupling, feed = models.coupled(model), case.feed()
    activity = collect_activity(coupling, coupling.groups, [feed], models.RUNTIME)["a"]
    np.testing.assert_array_equal(activity.zeros, models.values(model, feed, ["r"])["r"] == 0)
