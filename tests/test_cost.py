"""Counts against counts by hand, and counts as functions of widths against models that are really cut."""

import numpy as np
import onnx
import pytest
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from onnxprune.cost import (
    COSTS,
    bytes_of_widths,
    file_bytes,
    macs,
    macs_of_widths,
    parameters,
    parameters_of_widths,
    total_macs,
)
from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite

NORM = 4  # numbers per channel of a BatchNormalization
MACS = {
    "mlp": 12 * 16 + 16 * 10 + 10 * 4,
    "convs": 8 * 3 * 9 * 64 + 12 * 8 * 9 * 16 + 5 * 12,
    "identity": 64 * 9 * (6 * 3 + 8 * 6 + 6 * 8 + 12 * 6 + 6 * 12) + 5 * 6,
    "projection": 64 * 9 * (6 * 3 + 8 * 6 + 6 * 8) + 16 * 9 * (12 * 6 + 10 * 12) + 16 * 10 * 6 + 5 * 10,
    "option_a": 64 * 9 * (6 * 3 + 8 * 6 + 6 * 8) + 16 * 9 * (12 * 6 + 10 * 12) + 5 * 10,
    "dense": 36 * (9 * (6 * 3 + 8 * 6) + 10 * 17) + 4 * 10,
    "grouped": 25 * (12 * 3 + 8 * 9 * 6 + 3 * 8),
    "depthwise": 36 * (12 * 4 + 12 * 9 + 4 * 12),
    "tokens": 7 * (6 * 14 + 14 * 5),
    "transposed": 25 * 9 * 10 * 3 + 25 * 9 * 10 * 8 + 100 * 2 * 8,
    "lstm": 4 * (20 * 6 + 20 * 5) + 5 * 8 + 8 * 3,
    "heads": 8 * 12 + 12 * 3 + 12 * 14 + 14 * 10 + 10 * 4,
}
PARAMETERS = {
    "mlp": MACS["mlp"] + 16 + 10 + 4,
    "convs": 8 * 27 + 12 * 72 + 5 * 12 + 5 + NORM * 20,
    "identity": 9 * (18 + 48 + 48 + 72 + 72) + 6 + 8 + 12 + 6 + NORM * 6 + 35,
    "projection": 9 * (18 + 48 + 48 + 72 + 120) + 6 + 8 + 12 + 10 + NORM * 6 + 70 + 55,
    "option_a": 9 * (18 + 48 + 48 + 72 + 120) + 6 + 8 + 12 + 10 + NORM * 6 + 55,
    "dense": 9 * (18 + 48) + 170 + 40 + 6 + 8 + 10 + 4,
    "grouped": 36 + 8 * 54 + 24 + 12 + 8 + 3,
    "depthwise": 48 + 108 + 48 + NORM * 28 + 2,
    "tokens": 84 + 70 + 14 + 5,
    "transposed": 270 + 720 + 16 + 10 + 2,
    "lstm": 20 * 11 + 40 + 8 + 24,
    "heads": MACS["heads"] + 12 + 3 + 14 + 10 + 4,
}


@pytest.mark.parametrize("name", models.ALL)
def test_counts_are_those_by_hand(name):
    graph = Graph(models.ALL[name]())
    assert total_macs(graph) == MACS[name]
    assert parameters(graph) == PARAMETERS[name]


def test_the_batch_does_not_count():
    text = "h = Gemm<transB=1>(x, w)\ny = Relu(h)"
    for batch in ("N", "1"):
        model = models.build(f"float[{batch},5] x", f"float[{batch},7] y", text, {"w": (7, 5)})
        assert total_macs(Graph(model)) == 35


@pytest.mark.parametrize(
    ("signature", "text", "weights", "expected"),
    [
        ("float[5,3] x", "y = Gemm<transA=1>(x, w)", {"w": (5, 2)}, 3 * 5 * 2),
        ("float[2,3,5] x", "y = MatMul(w, x)", {"w": (4, 3)}, 2 * 4 * 3 * 5),
        ("float[3,5] x", "t = Transpose(x)\ny = MatMul(x, t)", {}, 3 * 5 * 3),
        ("float[1,4,9] x", "y = Conv<group=2, strides=[2]>(x, w)", {"w": (6, 2, 3)}, 4 * 6 * 2 * 3),
        ("float[1,4,3,3] x", "y = ConvTranspose<group=2, strides=[2,2]>(x, w)", {"w": (4, 5, 2, 2)}, 9 * 4 * 5 * 4),
        ("float[6,1,3] x", "s, y = GRU<hidden_size=2>(x, w, r)", {"w": (1, 6, 3), "r": (1, 6, 2)}, 6 * (18 + 12)),
        (
            "float[6,1,3] x",
            'y, h = RNN<hidden_size=2, direction="bidirectional">(x, w, r)',
            {"w": (2, 2, 3), "r": (2, 2, 2)},
            6 * (12 + 8),
        ),
        ("float[1,3] x", "y = Relu(x)", {}, 0),
        ("float[1,3] x", "y = custom.Unknown(x)\nz = MatMul(y, w)", {"w": (3, 3)}, 0),  # shapes aren't known
    ],
)
def test_macs_of_one_layer(signature, text, weights, expected):
    model = models.build(signature, "float[K] y", text, weights)
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    graph = Graph(model)
    assert sum(macs(graph, i) for i in range(len(graph.nodes))) == total_macs(graph) == expected


def test_parameters_are_floats_in_initializers_and_constants():
    text = """
        c = Constant<value = float[2,3] {1,2,3,4,5,6}>()
        i = Constant<value = int64[2] {1,2}>()
        f = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
        g = Constant<value_float = 1.0>()
        n = Constant<value_ints = [1, 2, 3]>()
        y = Relu(x)"""
    weights = {"a": (5, 2), "b": np.zeros(3, np.float16), "c2": np.zeros(4, np.int64), "d": np.zeros((), np.float32)}
    assert parameters(Graph(models.build("float[1] x", "float[1] y", text, weights))) == 6 + 4 + 1 + 10 + 3 + 1


# ---- As functions of widths


def counted(name, seed, share):
    """A model that is really cut at random, and the widths of its groups."""
    coupling = models.coupled(models.ALL[name]())
    rng = np.random.default_rng(seed)
    keep = {n: kept for n, kept in models.random_widths(coupling, rng) if rng.random() < share}
    widths = np.array([len(keep.get(g.name, np.arange(g.channels))) for g in coupling.groups])
    return coupling, keep, widths, Graph(rewrite(coupling, Plan(keep)))


@pytest.mark.parametrize("name", models.ALL)
@settings(max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0]))
def test_counts_of_widths_are_those_of_the_model_that_is_written(name, seed, share):
    coupling, _, widths, pruned = counted(name, seed, share)
    groups = list(coupling.groups)
    assert macs_of_widths(coupling, groups).total(widths) == pytest.approx(total_macs(pruned), abs=1e-6)
    assert parameters_of_widths(coupling, groups).total(widths) == pytest.approx(parameters(pruned), abs=1e-6)
    lengths = 8 * len(pruned.model.graph.initializer)  # which are written as numbers of 1 to 5 bytes
    assert bytes_of_widths(coupling, groups).total(widths) == pytest.approx(file_bytes(pruned), abs=lengths)


def test_bytes_are_those_of_each_type():
    text = "h = MatMul(x, w0)\nr = Relu(h)\nc = Cast<to=10>(r)\ny = MatMul(c, w1)"
    weights = {"w0": (8, 12), "w1": np.ones((12, 4), np.float16)}
    model = models.build("float[N,8] x", "float16[N,4] y", text, weights)
    coupling = models.coupled(model)
    cost = bytes_of_widths(coupling, list(coupling.groups))
    assert cost.total(np.array([12])) == pytest.approx(model.ByteSize())
    assert cost.slope(np.array([12])) == pytest.approx([8 * 4 + 4 * 2])


@pytest.mark.parametrize("name", models.ALL)
def test_groups_that_are_not_asked_for_stay_whole(name):
    coupling = models.coupled(models.ALL[name]())
    for group in coupling.groups:
        macs_of, params_of = macs_of_widths(coupling, [group]), parameters_of_widths(coupling, [group])
        assert macs_of.total(np.array([group.channels])) == pytest.approx(MACS[name])
        assert params_of.total(np.array([group.channels])) == pytest.approx(PARAMETERS[name])
        keep = {group.name: np.sort(models.halves(group)[0])}
        pruned, width = Graph(rewrite(coupling, Plan(keep))), np.array([len(keep[group.name])])
        assert macs_of.total(width) == pytest.approx(total_macs(pruned))
        assert params_of.total(width) == pytest.approx(parameters(pruned))


@pytest.mark.parametrize("name", models.ALL)
def test_wider_never_costs_less(name):
    coupling = models.coupled(models.ALL[name]())
    groups = list(coupling.groups)
    for cost in (kind.of_widths(coupling, groups) for kind in COSTS.values()):
        for part in (cost.scale, cost.ins, cost.in_fixed, cost.outs, cost.out_fixed):
            assert (part >= 0).all()


@pytest.mark.parametrize(
    "name",
    [
        *("conv_transpose_grouped", "grouped_after_concat", "grouped_twice_out_of_step", "einsum_as_a_layer"),
        *("einsum_attention", "einsum_of_split_heads", "mixer_without_normalization", "deformed"),
        *("attention_of_one_key_expanded", "concat_of_nothing", "vectors", "stack_of_matrices_for_heads"),
    ],
)
def test_layers_of_other_forms_are_counted_as_written(name):
    coupling = couple(Graph(CASES[name].model()))
    groups = list(coupling.groups)
    firsts = {g.name: np.unique(g.cells, return_index=True)[1] for g in groups}
    keep = {name: np.sort(first) for name, first in firsts.items()}
    widths, pruned = np.array([len(keep[g.name]) for g in groups]), Graph(rewrite(coupling, Plan(keep)))
    assert macs_of_widths(coupling, groups).total(widths) == pytest.approx(total_macs(pruned))
    assert parameters_of_widths(coupling, groups).total(widths) == pytest.approx(parameters(pruned))


def test_without_groups_the_cost_is_constant():
    coupling = models.coupled(models.build("float[1,3] x", "float[1,2] y", "y = MatMul(x, w)", {"w": (3, 2)}))
    assert macs_of_widths(coupling, []).total(np.zeros(0)) == 6
    assert parameters_of_widths(coupling, []).total(np.zeros(0)) == 6


def test_a_weight_that_two_layers_share_counts_once():
    text = "h = MatMul(x, w)\nr = Relu(h)\ng = MatMul(r, w)\nq = Relu(g)\ny = MatMul(q, v)"
    coupling = models.coupled(models.build("float[N,4] x", "float[N,2] y", text, {"w": (4, 4), "v": (4, 2)}))
    groups = list(coupling.groups)
    full = np.array([g.channels for g in groups])
    assert macs_of_widths(coupling, groups).total(full) == 16 + 16 + 8
    assert parameters_of_widths(coupling, groups).total(full) == 16 + 8


def test_a_product_of_constants_costs_what_no_width_changes():
    body = """
        c = MatMul(u, v)
        h = MatMul(x, w0)
        s = Mul(h, c)
        r = Relu(s)
        y = MatMul(r, w1)"""
    weights = {"u": (1, 7), "v": (7, 12), "w0": (8, 12), "w1": (12, 4)}
    coupling = models.coupled(models.build("float[N,8] x", "float[N,4] y", body, weights))
    cost = macs_of_widths(coupling, list(coupling.groups))
    assert [cost.total(np.array([width])) for width in (12, 6)] == [84 + 96 + 48, 84 + 48 + 24]
