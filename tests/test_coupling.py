"""What is prunable in every case: golden listings, and the rules that no listing can state."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, quantized

from onnxprune.coupling import Coupling, Group, couple
from onnxprune.errors import ModelError
from onnxprune.graph import Graph


def listing(coupling: Coupling) -> str:
    """Groups with their members and readers, then the layers left alone."""
    lines = []
    for group in coupling.groups:
        cells = np.bincount(group.cells)
        kinds = [f"{len(cells)} cells of {cells[0]}"] if len(cells) > 1 else []
        kinds += ["stream"] if group.stream else []
        kinds += [f"dims of heads: {len(group.heads)}"] if group.heads else []
        kinds += ["dims of heads, unturned"] if group.unturned else []
        lines.append(", ".join([f"{group.name}: {group.channels} channels", *kinds]))
        lines += sorted(f"    {_member(group, i)}" for i in range(len(group.members)))
        lines += [f"    read by {coupling.layer(i)}{_rows(index)}" for i, index in group.reads.items()]
    for index, reason in coupling.left_alone.items():
        lines.append(f"{coupling.layer(index)} stays: {reason}")
    return "".join(f"{line}\n" for line in lines)


def _member(group: Group, i: int) -> str:
    member = group.members[i]
    return f"{member.role} {member.tensor} axis {member.axis}{_rows(member.index)}"


def _rows(index: np.ndarray) -> str:
    return f", {index.shape[1]} rows each" if index.shape[1] > 1 else ""


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("opset")])
def test_listing(name, golden):
    golden(name, listing(couple(Graph(CASES[name].model()))))


def test_all_opsets_are_alike(golden):
    listings = {listing(couple(Graph(c.model()))) for n, c in CASES.items() if n.startswith("opset")}
    assert len(listings) == 1
    golden("opsets", listings.pop())


def test_a_quantized_model_is_refused_in_one_sentence():
    with pytest.raises(ModelError, match="prune the floating-point model, then quantize"):
        couple(Graph(quantized()))


def test_old_operators_are_refused_in_one_sentence():
    model = CASES["chain"].model()
    model.opset_import[0].version = 6
    with pytest.raises(ModelError, match=r"opset 6.*version_converter"):
        couple(Graph(model))


def test_an_input_of_unknown_rank_keeps_what_it_reaches():
    model = CASES["two_inputs"].model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    coupling = couple(Graph(model))
    assert "unknown shape ('x')" in coupling.left_alone[0]
    assert [g.channels for g in couple(Graph(model, {"x": [1, 3, 8, 8]})).groups] == [6, 4]


def test_the_mask_of_values():
    coupling = couple(Graph(CASES["lenet_flatten"].model()))
    mask = coupling.mask({"a": np.asarray([0, 5])})
    assert mask("a", 1).tolist() == [True, False, False, False, False, True]
    assert mask("a", 2).all()
    assert mask("f", 1).sum() == 2 * 16
    assert mask("g", 1).all()
    assert mask("w1", 0).all()


def test_every_layer_is_pruned_or_named():
    for case in CASES.values():
        coupling = couple(Graph(case.model()))
        pruned = {i for g in coupling.groups for i in g.writers}
        for index, node in enumerate(coupling.graph.nodes):
            layer = node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.input[1] in coupling.graph.static
            if layer and index not in pruned:
                assert coupling.left_alone[index], f"{case.name}: {node.output[0]}"


def test_names():
    coupling = couple(Graph(CASES["chain"].model()))
    assert coupling.by_name["a"] is coupling.groups[0]
    assert coupling.layer(0) == "a"
    coupling.graph.nodes[0].name = "first"
    assert coupling.layer(0) == "first"
