"""Attention heads are removed whole, and all that states their number follows."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, Case
from onnx import numpy_helper

from onnxprune import prune
from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite
from onnxprune.selection import widths

HEADS = ["attention_packed", "attention_packed_by_split", "attention_unbound", "attention_with_heads_in_the_batch",
         "attention_across", "attention_of_many_queries", "attention_of_normalized_queries",
         "attention_without_softmax", "attention_of_channels"]  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_the_rows_of_a_head_lie_together(name):
    (group,) = couple(Graph(CASES[name].model())).groups
    (read,) = group.reads.values()
    head = read.shape[1]
    np.testing.assert_array_equal(read, np.arange(group.channels * head).reshape(-1, head))
    for member in group.members:
        if member.role == "writer":
            blocks = member.index.reshape(group.channels, -1, group.rows)
            assert (blocks[:, :, 0] % group.rows == 0).all()
            assert (np.diff(blocks, axis=2) == 1).all()


@pytest.mark.parametrize("method", ["reap", "nu", "apoz"])
def test_a_projection_that_reads_heads_and_dims_apart(method):
    """As Keras writes it; it is pruned and refitted as one that reads them along one axis."""
    case = CASES["einsum_attention"]
    body = case.body.replace('z = Einsum<equation="abcd,cde->abe">(o, wo)', "u = Reshape(o, join)\nz = MatMul(u, wm)")
    wo = next(numpy_helper.to_array(t) for t in case.model().graph.initializer if t.name == "wo")
    joined = Case(
        "joined", case.inputs, case.outputs, body, case.weights | {"join": [0, 0, 12], "wm": wo.reshape(12, 5)}
    )
    x = np.random.default_rng(0).normal(size=(60, 4, 6)).astype(np.float32)
    options = {"calibration": {"x": x}, "target": "macs=0.8", "method": method, "attention": "heads", "round_to": 1}
    apart, together = (prune(c.model(), **options) for c in (case, joined))
    assert apart.report.after.macs < 0.8 * apart.report.before.macs
    np.testing.assert_array_equal(apart.plan.keep["q0"], together.plan.keep["q0"])
    expected = together.report.fidelity.relative_error
    np.testing.assert_allclose(apart.report.fidelity.relative_error, expected, rtol=1e-3)


def test_grouped_queries_go_with_their_keys():
    case = CASES["attention_of_grouped_queries"]
    coupling = couple(Graph(case.model()))
    pruned = Graph(rewrite(coupling, Plan({"q_": np.asarray([0, 2])})))
    assert pruned.shapes["q"] == (1, 4, 4, 4)
    assert pruned.shapes["ku"] == (1, 2, 1, 4, 4)
    assert pruned.shapes["ke"] == (1, 2, 2, 4, 4)
    wk, old = (pruned.array("wk"), coupling.graph.array("wk"))
    np.testing.assert_array_equal(wk, old[:, [0, 1, 2, 3, 8, 9, 10, 11]])


def test_a_head_is_a_step_of_many_rows():
    (heads,) = couple(Graph(CASES["attention_of_grouped_queries"].model())).groups
    assert heads.rows == 4
    assert widths(heads, 4, 1).tolist() == [1, 2, 3]
    (neurons,) = couple(Graph(CASES["gated_ffn"].model())).groups
    assert neurons.rows == 1


def test_heads_are_no_stream():
    for name in ("attention_across", "attention_of_grouped_queries"):
        assert not any(group.stream for group in couple(Graph(CASES[name].model())).groups)
