"""Hidden units of recurrent layers: what goes with them, what they cost, and how the pruned network remembers."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, Case
from onnx import ModelProto, helper

from onnxprune import oracle
from onnxprune.cost import macs_of_widths, parameters, parameters_of_widths, total_macs
from onnxprune.coupling import couple
from onnxprune.graph import Graph, attributes
from onnxprune.ops.recurrent import GATES
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite, twin
from onnxprune.runtime import Runtime

LAYERS = ["lstm", "lstm_in_both_directions", "gru_to_its_last_state", "rnn_after_another", "gru_batch_first"]
BOTH = ["last_states_of_both_directions", "states_of_both_directions_go_on"]  # with units of their own
ALIKE = ["directions_that_are_added", "directions_that_are_read_apart", "directions_that_are_interleaved",
         "directions_that_are_read_alike", "parts_of_both_directions", "last_states_of_two_layers"]  # fmt: skip


def pruned(name: str) -> tuple:
    """A case with every other channel kept, of both directions not the same ones."""
    coupling = couple(Graph(CASES[name].model()))
    plan = Plan({g.name: np.flatnonzero((np.arange(g.channels) + g.cells) % 2 == 0) for g in coupling.groups})
    return coupling, plan, rewrite(coupling, plan)


@pytest.mark.parametrize("name", LAYERS)
def test_the_size_follows(name):
    _, _, model = pruned(name)
    sizes = [attributes(n)["hidden_size"] for n in model.graph.node if n.op_type in GATES]
    assert sizes == ([3, 2] if name == "lstm_in_both_directions" else [3] * len(sizes))


@pytest.mark.parametrize("name", [*LAYERS, *BOTH, "directions_that_are_added"])
def test_costs_are_exact_functions_of_the_widths(name):
    coupling, plan, model = pruned(name)
    groups = list(coupling.groups)
    widths = np.asarray([len(plan.keep[g.name]) for g in groups], float)
    assert macs_of_widths(coupling, groups).total(widths) == pytest.approx(total_macs(Graph(model)))
    assert parameters_of_widths(coupling, groups).total(widths) == pytest.approx(parameters(Graph(model)))


def test_every_gate_loses_the_rows_of_a_unit():
    coupling, _, model = pruned("lstm")
    kept = (np.arange(0, 6, 2) + 6 * np.arange(8)[:, None]).ravel()
    for name, count in (("w", 12), ("b", 24), ("p", 9)):
        np.testing.assert_array_equal(Graph(model).array(name), coupling.graph.array(name)[:, kept[:count]])
    recurrent = coupling.graph.array("r")[:, kept[:12]][:, :, ::2]
    np.testing.assert_array_equal(Graph(model).array("r"), recurrent)


@pytest.mark.parametrize("name", BOTH)
def test_each_direction_has_units_of_its_own(name):
    (group,) = couple(Graph(CASES[name].model())).groups
    assert np.bincount(group.cells).tolist() == [6, 6]


@pytest.mark.parametrize("name", ALIKE)
def test_units_of_both_directions_go_together_where_something_else_is_done_with_them(name):
    (group,) = couple(Graph(CASES[name].model())).groups
    assert np.bincount(group.cells).tolist() == [group.channels]
    assert all(member.index.shape[1] % 2 == 0 for member in group.members if member.tensor in ("w", "r", "b"))


@pytest.mark.parametrize("kept", [([0, 2, 5], [1, 2, 4]), ([0], [5]), ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])])
def test_each_direction_is_a_layer_of_its_own_units(kept):
    """The pruned layer's directions are two layers of one direction, with the weights of the units that are kept."""
    case = CASES["last_states_of_both_directions"]
    coupling, feed = couple(Graph(case.model())), case.feed()
    model = rewrite(coupling, Plan({"a": np.concatenate([kept[0], np.asarray(kept[1]) + 6])}))
    found = Runtime().session(shown(model, ["a", "h", "c"])).run(feed)
    for d, (direction, units) in enumerate(zip(["forward", "reverse"], kept, strict=True)):
        rows = (np.asarray(units) + 6 * np.arange(8)[:, None]).ravel()
        arrays = {name: coupling.graph.array(name)[d : d + 1] for name in ("w", "r", "b", "h0", "c0", "p")}
        some = len(units)
        alone = {"w": arrays["w"][:, rows[: 4 * some]], "r": arrays["r"][:, rows[: 4 * some]][:, :, units]}
        alone |= {"b": arrays["b"][:, rows], "p": arrays["p"][:, rows[: 3 * some]]}
        alone |= {name: arrays[name][:, :, units] for name in ("h0", "c0")}
        body = f'a, h, c = LSTM<hidden_size={some}, direction="{direction}">(x, w, r, b, "", h0, c0, p)'
        outputs = f"float[S,1,2,{some}] a, float[1,2,{some}] h, float[1,2,{some}] c"
        expected = Runtime().session(Case("alone", case.inputs, outputs, body, alone).model()).run(feed)
        np.testing.assert_allclose(found["a"][:, d], expected["a"][:, 0], atol=1e-6)
        np.testing.assert_allclose(found["h"][d], expected["h"][0], atol=1e-6)
        np.testing.assert_allclose(found["c"][d], expected["c"][0], atol=1e-6)


def shown(model: ModelProto, names: list[str]) -> ModelProto:
    """The model with more outputs."""
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    return model


def test_an_initial_state_of_zeros_goes():
    coupling, _, model = pruned("lstm_in_both_directions")
    assert "ConstantOfShape" in {n.op_type for n in coupling.graph.nodes}
    assert "ConstantOfShape" not in {n.op_type for n in model.graph.node}


@pytest.mark.parametrize("name", ["lstm", "lstm_in_both_directions"])
def test_the_twin_forgets_what_removed_units_said(name):
    coupling, plan, model = pruned(name)
    feed = CASES[name].feed()
    assert oracle.check(coupling, plan, model, [feed]).ok
    coupling.notes.feedback.clear()
    assert not oracle.check(coupling, plan, model, [feed]).ok


def test_the_twin_of_an_empty_plan_keeps_its_constants():
    coupling = couple(Graph(CASES["lstm"].model()))
    assert twin(coupling, Plan()).graph.node == coupling.graph.model.graph.node
