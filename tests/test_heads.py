"""Dims of attention heads as channels: where they may be turned, why not elsewhere, and that turning is exact."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES
from test_coupling import listing

from onnxprune import factorize
from onnxprune.coupling import Coupling, couple
from onnxprune.errors import DataError
from onnxprune.graph import Graph
from onnxprune.heads import attend, names, restored
from onnxprune.oracle import check
from onnxprune.plan import Plan, Weights
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments

ATTENTION = [name for name in CASES if couple(Graph(CASES[name].model())).notes.heads]
TURNED = ["attention", "attention_packed", "attention_packed_by_split", "attention_unbound", "attention_over_space",
          "attention_with_heads_in_the_batch", "attention_across", "attention_of_one_head", "attention_of_shared_keys",
          "attention_scaled_by_a_size", "attention_in_one_node", "attention_in_one_node_by_heads",
          "attention_of_grouped_queries"]  # fmt: skip


def by_rank(name: str) -> Coupling:
    return attend(Graph(CASES[name].model()), "rank")


def turned(coupling: Coupling, seed: int = 0) -> dict[str, Weights]:
    """Weights of layers amid heads that are turned by what random rows of their inputs suggest."""
    rng, turns = np.random.default_rng(seed), []
    for group in coupling.groups:
        if group.heads:
            moments = {}
            for linear in factorize.measured(coupling, group):
                rows = rng.normal(1, 1, (50, linear.channels * linear.taps)).astype(np.float32)
                moments[linear.key] = Moments.starting_with(rows)
                moments[linear.key].add(rows)
            turns.append(factorize.turn(coupling, group, moments))
    found = factorize.layers(coupling, turns)
    return {one.after.key: Weights(one.after.matrix, one.after.offset) for one in found.values()}


@pytest.mark.parametrize("name", ATTENTION)
def test_listing(name, golden):
    golden(f"{name}_by_rank", listing(by_rank(name)))


@pytest.mark.parametrize("name", TURNED)
def test_turning_changes_nothing(name):
    """With all dims kept, the turned weights give the original's outputs, though they differ from its weights."""
    coupling, feed = by_rank(name), CASES[name].feed(2)
    weights = turned(coupling)
    for key, new in weights.items():
        linear = coupling.linear(coupling.graph.producer[key])
        assert np.abs(linear.matrix - new.matrix).max() > 1e-2
    model = rewrite(coupling, Plan({}, weights))
    before, after = (Runtime().session(m).run(feed) for m in (coupling.graph.model, model))
    for output, expected in before.items():
        np.testing.assert_allclose(after[output], expected, atol=1e-5)


@pytest.mark.parametrize("name", TURNED)
def test_surgery_of_turned_heads_is_exact(name):
    coupling = by_rank(name)
    keep = {g.name: np.arange(g.channels - 1) for g in coupling.groups if g.heads}
    plan = Plan(keep, turned(coupling), names(coupling))
    model = rewrite(coupling, plan)
    assert check(coupling, plan, model, [CASES[name].feed(2)]).ok
    again = rewrite(restored(coupling.graph, plan.by_rank), plan)
    assert again == model


@pytest.mark.parametrize(
    "name", ["attention_of_what_was_rectified", "attention_of_one_head_with_filters", "attention_of_one_head"]
)
def test_surgery_of_dims_that_go_as_they_are_is_exact(name):
    coupling = attend(Graph(CASES[name].model()), "rank", turn=name != "attention_of_one_head")
    groups = [group for group in coupling.groups if group.unturned]
    assert groups
    plan = Plan({g.name: np.arange(1, g.channels) for g in groups}, {}, names(coupling))
    model = rewrite(coupling, plan)
    assert check(coupling, plan, model, [CASES[name].feed(2)]).ok
    assert rewrite(restored(coupling.graph, plan.by_rank), plan) == model


def test_what_can_lose_more_decides():
    """Rotary positions keep the dims of queries and keys, but not heads; one head keeps itself, but not its dims."""
    rotary = Graph(CASES["attention_of_grouped_queries"].model())
    assert attend(rotary, "rank").by_rank
    assert listing(attend(rotary, "auto")) == listing(couple(rotary))
    assert attend(Graph(CASES["attention"].model()), "auto").by_rank
    assert not attend(Graph(CASES["attention"].model()), "auto", turn=False).by_rank
    one = attend(Graph(CASES["attention_of_one_head"].model()), "auto", turn=False)
    assert [(g.name, g.channels, g.unturned) for g in one.groups] == [("q", 5, True), ("v", 8, True)]


def test_other_dims_than_the_plan_says_are_noticed():
    coupling = by_rank("attention")
    plan, other = (Plan({"q0": np.asarray(kept)}) for kept in ([0, 1], [0, 2]))
    assert not check(coupling, plan, rewrite(coupling, other), [CASES["attention"].feed()]).ok


def test_the_scale_stays_that_of_all_dims():
    coupling = by_rank("attention_in_one_node")
    plan = Plan({"q": np.asarray([0])})
    (node,) = (n for n in rewrite(coupling, plan).graph.node if n.op_type == "Attention")
    scale = next(a.f for a in node.attribute if a.name == "scale")
    assert scale == pytest.approx(2**-0.5)
    (node,) = (n for n in rewrite(coupling, Plan({"v": np.asarray([0])})).graph.node if n.op_type == "Attention")
    assert not any(a.name == "scale" for a in node.attribute)


def test_query_heads_that_share_a_key_are_turned_alike():
    group = by_rank("attention_of_shared_keys").by_name["q0"]
    (head,) = group.heads
    assert sorted((part.layer, part.side) for part in head) == [(0, 0), (0, 0), (0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "attention_of_grouped_queries",
            "multiplies heads whose dims something before it treats one by one",
        ),
    ],
)
def test_reasons(name, reason):
    assert any(reason in found for found in by_rank(name).left_alone.values())


@pytest.mark.parametrize(
    "name", ["attention_with_a_key_of_its_own", "attention_of_normalized_queries", "attention_of_channels"]
)
def test_heads_go_whole_where_nothing_can_be_turned(name):
    coupling = by_rank(name)
    assert not coupling.by_rank
    assert listing(coupling) == listing(couple(coupling.graph))


def test_heads_are_asked_for():
    coupling = attend(Graph(CASES["attention"].model()), "heads")
    assert not any(group.heads for group in coupling.groups)


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(DataError, match="names a node 'elsewhere'"):
        restored(Graph(CASES["attention"].model()), ["elsewhere"])


@pytest.mark.parametrize(
    ("output", "place", "name"),
    [("k0", 1, "wq"), ("k1", 0, "q0")],
)
def test_queries_that_are_keys_too_go_as_they_are(output, place, name):
    model = CASES["attention"].model()
    next(n for n in model.graph.node if n.output[0] == output).input[place] = name
    group = attend(Graph(model), "rank").by_name["q0"]
    assert group.unturned
    assert not group.heads
