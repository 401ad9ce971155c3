"""Hidden units of recurrent layers: what goes with them, what they cost, and how the pruned network remembers."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES

from onnxprune import oracle
from onnxprune.cost import macs_of_widths, parameters, parameters_of_widths, total_macs
from onnxprune.coupling import couple
from onnxprune.graph import Graph, attributes
from onnxprune.ops.recurrent import GATES
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite, twin

LAYERS = ["lstm", "lstm_in_both_directions", "gru_to_its_last_state", "rnn_after_another", "gru_batch_first"]


def pruned(name: str) -> tuple:
    """A case with every other channel kept."""
    coupling = couple(Graph(CASES[name].model()))
    plan = Plan({g.name: np.arange(0, g.channels, 2) for g in coupling.groups})
    return coupling, plan, rewrite(coupling, plan)


@pytest.mark.parametrize("name", LAYERS)
def test_the_size_follows(name):
    _, _, model = pruned(name)
    sizes = [attributes(n)["hidden_size"] for n in model.graph.node if n.op_type in GATES]
    assert sizes == ([3, 2] if name == "lstm_in_both_directions" else [3] * len(sizes))


@pytest.mark.parametrize("name", LAYERS)
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


def test_an_initial_state_of_zeros_goes():
    coupling, _, model = pruned("lstm_in_both_directions")
    assert "ConstantOfShape" in {n.op_type for n in coupling.graph.nodes}
    assert "ConstantOfShape" not in {n.op_type for n in model.graph.node}


def test_the_twin_forgets_what_removed_units_said():
    coupling, plan, model = pruned("lstm")
    feed = CASES["lstm"].feed()
    assert oracle.check(coupling, plan, model, [feed]).ok
    coupling.notes.feedback.clear()
    assert not oracle.check(coupling, plan, model, [feed]).ok


def test_the_twin_of_an_empty_plan_keeps_its_constants():
    coupling = couple(Graph(CASES["lstm"].model()))
    assert twin(coupling, Plan()).graph.node == coupling.graph.model.graph.node
