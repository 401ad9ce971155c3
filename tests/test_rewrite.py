"""Surgery on every case: exact by the oracle, valid, and faithful in everything that a plan doesn't name."""

from __future__ import annotations

import onnx
import pytest
from cases import CASES, Case
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import networks, random_plan

from onnxprune import oracle
from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime

PLANS = [{"seed": 0, "renewed": 0.0}, {"seed": 1, "renewed": 0.0}, {"seed": 2}, {"seed": 3, "renewed": 1.0},
         {"seed": 4, "renewed": 1.0, "pruned": 0.0}]  # fmt: skip


def surgery(case: Case, **options) -> None:
    """Prune a case at random, and check all that must hold of the result."""
    model = case.model()
    before = model.SerializeToString()
    coupling = couple(Graph(model))
    plan = random_plan(coupling, **options)
    pruned = rewrite(coupling, plan)
    assert model.SerializeToString() == before, "the model was changed"
    assert [*pruned.graph.output] == [*model.graph.output]
    constants = {t.name for t in model.graph.initializer}
    assert [i for i in pruned.graph.input if i.name not in {t.name for t in pruned.graph.initializer}] == [
        i for i in model.graph.input if i.name not in constants
    ]
    assert pruned.opset_import == model.opset_import
    assert pruned.ir_version == model.ir_version
    onnx.checker.check_model(pruned)
    if not case.runs:
        return
    feeds = [case.feed(batch, size, seed=batch) for batch, size in ((1, 8), (3, 10)) if case.symbolic or batch == 1]
    for feed in feeds:
        assert list(Runtime(threads=1).session(pruned).run(feed)) == [o.name for o in model.graph.output]
    verdict = oracle.check(coupling, plan, pruned, feeds)
    assert verdict.ok, verdict


@pytest.mark.parametrize("name", CASES)
def test_surgery_is_exact(name):
    for options in PLANS:
        surgery(CASES[name], **options)


@settings(max_examples=150)
@given(networks(), st.integers(0, 99))
def test_surgery_is_exact_on_random_networks(case, seed):
    surgery(case, seed=seed)
