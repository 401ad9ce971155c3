"""Surgery on every case: exact by the oracle, valid, and faithful in everything that a plan doesn't name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cases import CASES, Case, with_everything_kept
from strategies import random_plan

from onnxprune import oracle
from onnxprune.assembly import Draft
from onnxprune.coupling import couple
from onnxprune.errors import DataError
from onnxprune.graph import Graph
from onnxprune.heads import attend
from onnxprune.plan import Plan, Weights
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime

PLANS = [{"seed": 0, "renewed": 0.0}, {"seed": 1, "renewed": 0.0}, {"seed": 2}, {"seed": 3, "renewed": 1.0},
         {"seed": 4, "renewed": 1.0, "pruned": 0.0}]  # fmt: skip


def valid(model: onnx.ModelProto) -> bool:
    """Whether the checker accepts a model, which it doesn't where only onnxruntime knows an operator."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def surgery(case: Case, heads: str = "heads", **options) -> None:
    """Prune a case at random, attention by whole heads or by their dims, and check all that must hold of the result."""
    model = case.model()
    before = model.SerializeToString()
    coupling = attend(Graph(model), heads)
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
    if valid(model):
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


def pruned_half(case: Case, **weights) -> tuple:
    """A case with the first half of every cell kept."""
    coupling = couple(Graph(case.model()))
    keep = {}
    for group in coupling.groups:
        cells = [np.flatnonzero(group.cells == cell) for cell in range(group.cells.max() + 1)]
        keep[group.name] = np.sort(np.concatenate([cell[: (len(cell) + 1) // 2] for cell in cells]))
    plan = Plan(keep, weights)
    return coupling, plan, rewrite(coupling, plan)


def constants(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {t.name: tuple(t.dims) for t in model.graph.initializer}


@pytest.mark.parametrize("name", CASES)
def test_an_empty_plan_gives_an_equal_model(name):
    model = CASES[name].model()
    result = rewrite(couple(Graph(model)), Plan())
    assert result == model
    assert result is not model


def test_a_plan_that_keeps_everything_gives_an_equal_model():
    model = CASES["chain"].model()
    coupling = couple(Graph(model))
    assert rewrite(coupling, Plan({g.name: np.arange(g.channels) for g in coupling.groups})) == model


def test_everything_that_is_not_cut_survives():
    model = with_everything_kept()
    coupling = couple(Graph(model))
    name = coupling.groups[1].name
    pruned = rewrite(coupling, Plan({name: np.asarray([0, 3])}))
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        assert getattr(pruned, field) == getattr(model, field)
    for field in ("name", "doc_string", "metadata_props", "quantization_annotation", "input", "output"):
        assert getattr(pruned.graph, field) == getattr(model.graph, field)
    assert pruned.graph.node[:2] == model.graph.node[:2]
    sizes = constants(pruned)
    assert list(sizes) == list(constants(model))
    assert sizes["w2"] == (2, 8, 1, 1)
    assert sizes["w3"] == (4, 2, 3, 3)
    assert sizes["unused"] == (3,)


def test_names_stay_where_one_node_reads_a_constant():
    _, _, pruned = pruned_half(CASES["resnext"])
    assert {n.split("_cut")[0] for n in constants(pruned)} == {"ws", "w1", "w2", "w3", "w4"}
    assert constants(pruned)["w1"] == (8, 3, 1, 1)


def test_merged_constants_part_only_where_they_must():
    model = CASES["merged_constants"].model()
    coupling = couple(Graph(model))
    a, a2 = (g.name for g in coupling.groups[:2])
    same = rewrite(coupling, Plan({a: np.asarray([0, 1]), a2: np.asarray([0, 1])}))
    assert constants(same)["k"] == (2, 1, 1)
    assert len(constants(same)) == len(constants(model))
    other = rewrite(coupling, Plan({a: np.asarray([0, 1])}))
    assert constants(other)["k"] == (6, 1, 1)
    assert constants(other)["k_cut"] == (2, 1, 1)


def test_weights_of_several_steps_stay_one():
    """They are cut alike wherever something comes of it, and what is added is added once."""
    model = CASES["steps_of_a_recurrent_layer"].model()
    model.graph.node.append(onnx.helper.make_node("Identity", ["u"], ["unread"]))
    kept = np.asarray([0, 2, 3, 7])
    pruned = rewrite(couple(Graph(model)), Plan({"a1": kept}))
    shapes = {t.name: tuple(t.dims) for t in pruned.graph.initializer}
    assert len(shapes) == len(model.graph.initializer)
    assert shapes["u"] == (4, 4)
    draft = Draft(Graph(model))
    one, same, other = (draft.constant(np.full(3, 2, kind), "one") for kind in (np.float32, np.float32, np.int32))
    assert one == same != other
    assert [t.name for t in draft.added] == [one, other]


def test_a_constant_that_a_body_reads_stays_whole():
    _, _, pruned = pruned_half(CASES["constant_read_by_a_body"])
    assert constants(pruned)["k"] == (6, 1, 1)
    assert constants(pruned)["k_cut"] == (3, 1, 1)


def test_constants_that_are_outputs_stay_whole():
    case = CASES["chain"]
    model = case.model()
    model.graph.output.append(onnx.helper.make_tensor_value_info("b1", 1, [8]))
    coupling = couple(Graph(model))
    pruned = rewrite(coupling, Plan({"a": np.asarray([1, 2])}))
    assert constants(pruned)["b1"] == (8,)
    assert constants(pruned)["b1_cut"] == (2,)
    onnx.checker.check_model(pruned)
    assert oracle.check(coupling, Plan({"a": np.asarray([1, 2])}), pruned, [case.feed()]).ok


def test_inputs_with_a_default_state_their_new_shape():
    _, _, pruned = pruned_half(CASES["initializers_that_are_inputs"])
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in pruned.graph.input}
    assert {n: list(s) for n, s in constants(pruned).items()} == {n: s for n, s in shapes.items() if n != "x"}


def test_new_constants_of_an_old_file_are_inputs():
    case = CASES["initializers_that_are_inputs"]
    coupling = couple(Graph(case.model()))
    linear = coupling.linear(2)
    plan = Plan({}, {linear.key: Weights(linear.matrix, linear.offset + 1)})
    pruned = rewrite(coupling, plan)
    assert {i.name for i in pruned.graph.input} == {"x", *constants(pruned)}
    assert len(constants(pruned)) == 4
    assert oracle.check(coupling, plan, pruned, [case.feed()]).ok


def test_a_folded_batch_normalization_goes_with_its_constants():
    case = CASES["batchnorm_node"]
    coupling = couple(Graph(case.model()))
    linear = coupling.linear(3)
    pruned = rewrite(coupling, Plan({}, {linear.key: Weights(linear.matrix, linear.offset)}))
    assert [n.op_type for n in pruned.graph.node] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert set(constants(pruned)) == {"w1", "gamma", "beta", "mean", "var", "w2", "w2_bias"}


def test_value_info_tells_the_new_shapes_of_what_it_told_before():
    assert not pruned_half(CASES["chain"])[2].graph.value_info
    model = CASES["chain"].model()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["N", 8, 8, 8]))
    coupling = couple(Graph(model))
    pruned = rewrite(coupling, Plan({"a": np.arange(4)}))
    assert [v.name for v in pruned.graph.value_info] == ["a"]
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in pruned.graph.value_info
    }
    assert shapes["a"] == ["N", 4, 8, 8]


def test_a_model_beyond_shape_inference_is_written_all_the_same(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("too large")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    model = CASES["chain"].model()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["N", 8, 8, 8]))
    pruned = rewrite(couple(Graph(model)), Plan({"a": np.arange(4)}))
    assert not pruned.graph.value_info


BAD = {
    "another group": Plan({"nobody": np.asarray([0])}),
    "no channels": Plan({"a": np.zeros(0, np.int64)}),
    "too large": Plan({"a": np.asarray([0, 8])}),
    "negative": Plan({"a": np.asarray([-1, 2])}),
    "twice": Plan({"a": np.asarray([1, 1])}),
    "another layer": Plan({}, {"nobody": Weights(np.zeros((1, 1, 1)), np.zeros(1))}),
    "another shape": Plan({}, {"c": Weights(np.zeros((1, 7, 6)), np.zeros(6))}),
    "another offset": Plan({}, {"c": Weights(np.zeros((1, 8, 6)), np.zeros(5))}),
}


@pytest.mark.parametrize("name", BAD)
def test_plans_that_do_not_fit(name):
    with pytest.raises(DataError, match="plan"):
        rewrite(couple(Graph(CASES["chain"].model())), BAD[name])


def test_conv_groups_must_keep_equal_counts():
    coupling = couple(Graph(CASES["conv_grouped"].model()))
    rewrite(coupling, Plan({"a": np.asarray([0, 1, 6, 7])}))
    with pytest.raises(DataError, match="'a'"):
        rewrite(coupling, Plan({"a": np.asarray([0, 1, 2, 7])}))


def test_samples_may_lie_in_front_of_channels_along_one_axis():
    """As those of PyTorch's attention, whose heads are merged with the batch; its masks are told apart by hand."""
    coupling = couple(Graph(CASES["mlp_matmul"].model()))
    group = coupling.groups[0]
    mask = coupling.mask({group.name: np.array([0, 2, 3])})
    name = next(iter(coupling.graph.nodes[group.writers[0]].output))
    x = np.arange(3.0 * group.channels).reshape(3, group.channels)
    one = mask.kept(name, x)
    assert one.shape == (3, 3)
    np.testing.assert_array_equal(mask.kept(name, np.concatenate([x, -x], 1)), np.concatenate([one, -one], 1))
