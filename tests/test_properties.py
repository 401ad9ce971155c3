"""What holds of any graph: the pruned model is its full-size twin, and whatever nobody asked for is as it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BLOCKS, NEWEST, OLD, OLDER, Step, network, networks, operators
from test_rewrite import surgery

from onnxprune.contrib import APART, DOMAIN
from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.ops import RULES
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite

VERSIONS = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
OLD_ENOUGH = {s.name for s in VERSIONS if s.since_version <= NEWEST[0]}
TOO_NEW = {("", s.name) for s in VERSIONS if s.name not in OLD_ENOUGH}  # for onnxruntime


ON_GPUS = {(DOMAIN, op) for op in ("BiasAdd", "BiasSplitGelu", "GroupNorm", "SkipGroupNorm", "NhwcConv")}
ON_GPUS |= {(DOMAIN, "NhwcFusedConv")}  # onnxruntime can't run them on CPUs; see test_contrib


def test_every_operator_is_in_a_block():
    """To mend this, add a line with the operator to BLOCKS in strategies.py."""
    known = set().union(*(operators(block) for block in BLOCKS), TOO_NEW, ON_GPUS)
    assert sorted({*RULES, *((DOMAIN, op) for op in APART if op != "Gemm")} - known) == []


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_exact(block):
    opset = next(o for o in (NEWEST, OLDER, OLD) if block.since <= o[0] <= block.until)
    case = network([Step(block)], opset)
    assert operators(block) <= {(n.domain, n.op_type) for n in case.model().graph.node}
    surgery(case, seed=0)
    surgery(case, "rank", seed=1, renewed=1.0)


@settings(max_examples=250)
@given(networks(), st.sampled_from(["heads", "rank"]), st.integers(0, 99))
def test_surgery_is_exact_on_random_networks(case, heads, seed):
    surgery(case, heads, seed=seed)


@settings(max_examples=50)
@given(networks())
def test_an_empty_plan_gives_an_equal_network(case):
    model = case.model()
    coupling = couple(Graph(model))
    whole = {group.name: np.arange(group.channels) for group in coupling.groups}
    assert rewrite(coupling, Plan()) == rewrite(coupling, Plan(whole)) == model


@settings(max_examples=50)
@given(networks(), st.integers(0, 99))
def test_an_operator_without_a_rule_keeps_all_that_it_touches(case, number):
    model = case.model()
    graph, node = Graph(model), model.graph.node[number % len(model.graph.node)]
    for name in node.output:
        if name in graph.shapes:
            pairs = zip(*(probe.shapes[name] for probe in graph.probes), strict=True)
            shape = [first if first == second else "N" for first, second in pairs]
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, graph.types[name], shape))
    node.domain = "custom"
    coupling = couple(Graph(model))
    for name in (*node.input, *node.output):
        ids = coupling.notes.ids.get(name, np.zeros(1, np.int64))
        assert (coupling.components.free(ids) == -1).all()
