"""The numbers of a report, and that it leaves no layer out."""

import json

import numpy as np
import pytest

import models
from onnxprune.coupling import Coupling
from onnxprune.plan import Plan
from onnxprune.report import (
    Comparison,
    Fidelity,
    GroupReport,
    Inspection,
    Loss,
    Report,
    Size,
    Target,
    group_reports,
    left_alone,
)
from onnxprune.scope import why_left_out

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}


@pytest.mark.parametrize(
    ("agreement", "error", "loss"), [(0.95, 0.3, 0.05), (None, 0.3, 0.3), (1.0, 0.0, 0.0), (0.99, 0.5, 0.01)]
)
def test_the_loss_is_what_changed(agreement, error, loss):
    """1 - 0.95 is 0.05, not a bit more: a loss of what is allowed is allowed."""
    assert Fidelity(agreement, error, 20, "given").loss == loss


def test_groups_tell_their_channels_layers_and_costs():
    coupling = models.coupled(models.mlp())
    fc0, fc1 = group_reports(coupling, Plan({"fc0": np.arange(4)}), {"h1": 0.25, "y": 0.5})
    expected = GroupReport("fc0", 16, 4, ["fc0"], ["fc1"], False, 0.25, 12 * 16 + 160, 12 * 16 + 16 + 160)
    assert fc0 == expected
    assert (fc1.kept, fc1.error) == (10, None)  # it stays whole
    assert (fc1.macs, fc1.params) == (160 + 40, 160 + 10 + 40)


def test_the_error_of_a_group_is_the_largest_of_its_readers():
    coupling = models.coupled(models.heads())
    plan = Plan({"a": np.arange(5)})
    found = {g.name: g for g in group_reports(coupling, plan, {"first": 0.1, "h1": 0.3})}
    assert found["a"].error == 0.3
    assert found["a"].readers == ["early", "b"]
    assert {g.name: g.error for g in group_reports(coupling, plan, {})} == {"a": None, "b": None, "c": None}


def test_streams_are_marked():
    coupling = models.coupled(models.residual("projection"))
    assert {g.name: g.stream for g in group_reports(coupling, Plan(), {})} == {
        "stem": True, "one_a": False, "two_a": False, "two_b": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "stream"),
    [
        ("q = Gemm(x, w1)\ns = Add(p, q)", False),  # side by side, as in RepVGG
        ("q = Gemm(u, w1)\ns = Add(p, q)", False),  # two towers
        ("q = Gemm(p, w3)\ns = Add(p, q)", True),  # x + f(x)
        ("h = Gemm(p, w3)\nr = Relu(h)\nq = Gemm(r, w3)\ns = Add(p, q)", True),
        ("h = Gemm(x, w1)\nr = Relu(h)\nq = Gemm(r, w3)\ns = Add(p, q)", True),  # p is the projection of a shortcut
    ],
)
def test_a_stream_is_a_sum_of_ways_of_different_length(body, stream):
    text = f"p = Gemm(x, w1)\n{body}\nt = Relu(s)\ny = Gemm(t, w2)"
    weights = {"w1": (3, 4), "w2": (4, 2), "w3": (4, 4)}
    inputs = "float[N,3] x, float[N,3] u" if "u," in body else "float[N,3] x"
    coupling = models.coupled(models.build(inputs, "float[N,2] y", text, {n: weights[n] for n in weights if n in text}))
    assert [g.stream for g in coupling.groups if len(g.writers) > 1] == [stream]


def test_a_model_without_groups_has_no_reports():
    coupling = models.coupled(models.build("float[N,3] x", "float[N,2] y", "y = Gemm(x, w)", {"w": (3, 2)}))
    assert group_reports(coupling, Plan(), {}) == []


def dynamic():
    """Weights that aren't constants, and a product of two activations."""
    body = """
        [a] h = Gemm(x, w)
        r = Relu(h)
        t = Transpose<perm=[1,0]>(r)
        [b] m = MatMul(r, t)
        k = Conv(image, filter)
        p = ReduceMean(k)
        y = Add(m, p)"""
    return models.build(
        "float[4,3] x, float[1,2,5,5] image, float[3,2,2,2] filter", "float[4,4] y", body, {"w": (3, 6)}
    )


@pytest.mark.parametrize("made", [*models.ALL.values(), dynamic])
def test_every_layer_is_in_a_group_that_may_go_or_has_a_reason(made):
    coupling: Coupling = models.coupled(made())
    alone = left_alone(coupling, lambda group: why_left_out(coupling, group))
    reasons = {one["layer"]: one["reason"] for one in alone}
    assert len(reasons) == len(alone)
    assert all(reasons.values())
    prunable = {i for g in coupling.groups if not why_left_out(coupling, g) for i in g.writers}
    for index, node in enumerate(coupling.graph.nodes):
        if node.op_type in LAYERS and any(name in coupling.graph.static for name in node.input):
            assert index in prunable or coupling.layer(index) in reasons
    if made is not dynamic:
        nodes = {coupling.layer(i) for i in prunable} | set(reasons)
        assert nodes >= {n.name for n in coupling.graph.nodes if n.op_type in LAYERS and n.name}


def test_a_reason_of_a_group_goes_to_all_that_write_it():
    coupling = models.coupled(models.residual("projection"))
    alone = left_alone(coupling, lambda group: "kept" if group.name == "stem" else "")
    reasons = {one["layer"]: one["reason"] for one in alone}
    assert {layer for layer, reason in reasons.items() if reason == "kept"} == {"stem", "one_b"}
    assert "is an output of the model" in reasons["head"]


def test_everything_is_plain_data():
    size, fidelity = Size(1, 2, 3), Fidelity(None, 0.5, 4, "given")
    loss = Loss("outputs", 0.5, 0.4, 0.6, 4)
    group = GroupReport("g", 4, 2, ["a"], ["b"], False, None)
    report = Report(
        method="reap", allocate="dp", reconstruct="ls", targets=[Target("macs", 0.5, True)], before=size, after=size,
        fidelity=fidelity, accuracy=None, loss=loss, surgery_check={"max_abs_diff": 0.0, "ok": True}, groups=[group],
        left_alone=[{"layer": "c", "reason": "-"}], seconds={"total": 1.0},
    )  # fmt: skip
    for one in (
        report,
        Inspection(size, [group], [], {"x": [1, "N"]}, {}),
        Comparison(size, size, fidelity, None, loss),
    ):
        assert json.loads(json.dumps(one.json())) == one.json()
    assert report.json()["targets"] == [{"kind": "macs", "value": 0.5, "reached": True}]
    assert report.json()["warnings"] == []
    assert report.json()["before"] == {"params": 1, "macs": 2, "bytes": 3, "latency_ms": None}
