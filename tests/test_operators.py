"""Every operator of ONNX: it has a rule, or it stands among those through which channels aren't followed on purpose."""

from __future__ import annotations

import onnx.defs
import pytest
from cases import CASES, Case

from onnxprune.coupling import QUANTIZED, couple
from onnxprune.graph import Graph
from onnxprune.ops import RULES, find
from onnxprune.ops.unfollowed import BODIES, REASONS

STANDARDIZED = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
RULED = {name for domain, name in RULES if domain == ""}
DYNAMIC = {"DynamicQuantizeLinear"}  # quantizes the inputs of integer layers, which are refused
EXTERNAL = {"SimplifiedLayerNormalization"}  # onnxruntime puts it into the domain of ONNX
EXTERNAL |= {"Affine", "ParametricSoftplus", "Scale", "ScaledTanh"}  # experiments of the oldest versions that it knows


def test_every_operator_of_onnx_is_decided():
    """A new version of onnx may bring operators: each needs a rule, or a reason for having none."""
    assert STANDARDIZED - RULED - set(REASONS) - BODIES - QUANTIZED - DYNAMIC - {"Constant"} == set()


def test_no_operator_is_decided_twice():
    assert set(REASONS) & RULED == set()
    assert (set(REASONS) | BODIES | RULED) - EXTERNAL <= STANDARDIZED


def test_every_rule_has_a_case():
    nodes = [node for case in CASES.values() for node in case.model().graph.node]
    seen = {known.couple for node in nodes if (known := find(node)) is not None}
    assert {
        rule.couple.__name__ for (domain, _), rule in RULES.items() if domain == "" and rule.couple not in seen
    } == set()


REFUSE = {"Det", "ImageDecoder", "Multinomial", "StringNormalizer"}  # aren't defined for four axes


@pytest.mark.parametrize("name", sorted(set(REASONS) - REFUSE))
def test_what_is_not_followed_keeps_its_channels(name):
    """They aren't element-wise, whatever shape their output has: the reason names the operator."""
    body = f"a = Conv(x, w1)\nu = {name}(a)\nr = Relu(u)\ny = Conv(r, w2)"
    weights = {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)}
    model = Case("unfollowed", "float[N,3,8,8] x", "float[N,2,8,8] y", body, weights, opset=26, ir=10).model()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("u", 1, ["N", 6, 8, 8]))
    coupling = couple(Graph(model))
    assert coupling.groups == ()
    assert coupling.left_alone[0] == f"{name} 'u' {REASONS[name]}"
