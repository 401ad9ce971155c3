"""Whole runs through the Python interface."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import models
import onnxprune
from onnxprune import oracle, pipeline
from onnxprune.calibration import Preprocessing
from onnxprune.cost import parameters, total_macs
from onnxprune.errors import BudgetError, DataError, InternalError, ModelError, UsageError
from onnxprune.graph import Graph
from onnxprune.plan import Plan
from onnxprune.report import Report

GOAL = dict.fromkeys(models.ALL, "macs=0.6") | {"lstm": "macs=0.96"}  # most of it is the recurrent layer
SHIPPED = Path(__file__).parent.parent / "models"


def prune(model, count=80, **options):
    given = {"round_to": 1, "runtime": models.RUNTIME, "measure_latency": False, "target": "macs=0.6"} | options
    return onnxprune.prune(model, **({"calibration": models.data(model, count)} | given))


@pytest.fixture(scope="module")
def results():
    made = {name: model() for name, model in models.ALL.items()}
    return {name: (model, model.SerializeToString(), prune(model, target=GOAL[name])) for name, model in made.items()}


NAMES = pytest.mark.parametrize("name", models.ALL)


# ---- What comes out


@NAMES
def test_the_target_is_met_and_the_callers_model_is_as_it_was(results, name):
    model, before, result = results[name]
    assert model.SerializeToString() == before
    after = Graph(result.model)
    report: Report = result.report
    assert (report.after.macs, report.after.params) == (total_macs(after), parameters(after))
    assert (report.before.macs, report.before.params) == (total_macs(Graph(model)), parameters(Graph(model)))
    assert report.after.macs <= report.targets[0].value * report.before.macs
    assert report.targets[0].reached
    assert report.before.bytes == len(before)
    assert report.surgery_check["ok"]


@NAMES
def test_the_model_answers_like_before_on_samples_of_its_own(results, name):
    model, _, result = results[name]
    onnx.checker.check_model(result.model)
    feed = models.feeds(model, 200, 200, seed=9)[0]
    before, after = models.values(model, feed), models.values(result.model, feed)
    assert [o.SerializeToString() for o in result.model.graph.output] == [
        o.SerializeToString() for o in model.graph.output
    ]
    assert [i.SerializeToString() for i in result.model.graph.input] == [
        i.SerializeToString() for i in model.graph.input
    ]
    change = sum(np.square(before[o] - after[o]).sum() for o in before)
    error = np.sqrt(change / sum(np.square(v).sum() for v in before.values()))
    assert error < 0.5
    assert error == pytest.approx(result.report.fidelity.relative_error, rel=1.0)


@NAMES
def test_the_written_model_equals_its_twin(results, name):
    model, _, result = results[name]
    coupling = models.coupled(model)
    verdict = oracle.check(coupling, result.plan, result.model, models.feeds(model, 6, batch=3, seed=4))
    assert verdict.ok
    assert 0 <= result.report.surgery_check["max_abs_diff"] <= 1e-4


@NAMES
def test_no_layer_is_left_unexplained(results, name):
    model, _, result = results[name]
    coupling = models.coupled(model)
    told = {layer for g in result.report.groups if g.name in result.plan.keep for layer in g.layers}
    told |= {one["layer"] for one in result.report.left_alone}
    assert told >= {n.name for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    for g in result.report.groups:
        assert g.kept == len(result.plan.keep.get(g.name, range(g.channels)))
        assert g.channels == coupling.by_name[g.name].channels
        assert (g.error is not None) == (g.kept < g.channels)


def test_the_report_has_the_fields_that_are_promised(results):
    found = json.loads(json.dumps(results["mlp"][2].report.json()))
    assert found["method"] == "reap"
    assert found["targets"] == [{"kind": "macs", "value": 0.6, "reached": True}]
    for side in ("before", "after"):
        assert found[side].keys() >= {"params", "macs", "bytes", "latency_ms"}
    assert found["fidelity"].keys() >= {"top1_agreement", "relative_error", "samples", "data"}
    assert (found["fidelity"]["samples"], found["fidelity"]["data"]) == (8, "given")
    assert found["accuracy"] is None
    assert found["surgery_check"].keys() == {"max_abs_diff", "ok"}
    assert all(g.keys() >= {"name", "channels", "kept", "layers", "error"} for g in found["groups"])
    assert all(one.keys() == {"layer", "reason"} for one in found["left_alone"])
    assert found["seconds"].keys() >= {"calibrate", "select", "reconstruct", "total"}
    parts = sum(v for k, v in found["seconds"].items() if k != "total")
    assert found["seconds"]["total"] == pytest.approx(parts, abs=0.01)
    assert (found["allocate"], found["reconstruct"]) == ("dp", "ls")


def test_what_was_done_stands_in_the_metadata():
    model = models.mlp()
    helper.set_model_props(model, {"classes": "a,b", "onnxprune.method": "older"})
    result = prune(model, target=["macs=0.6", "params=0.9"])
    found = {p.key: p.value for p in result.model.metadata_props}
    assert found == {
        "classes": "a,b", "onnxprune.method": "reap", "onnxprune.version": onnxprune.__version__,
        "onnxprune.targets": "macs=0.6,params=0.9",
    }  # fmt: skip
    assert {p.key: p.value for p in model.metadata_props} == {"classes": "a,b", "onnxprune.method": "older"}


def test_a_seed_makes_a_run_reproducible(results):
    model, _, first = results["convs"]
    again, other = prune(model), prune(model, seed=1)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert other.model.SerializeToString() != first.model.SerializeToString()


def test_progress_goes_from_nothing_to_everything():
    seen = {}
    prune(models.convs(), progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)))
    assert seen.keys() >= {"calibrate", "select", "reconstruct"}
    for steps in seen.values():
        assert steps[-1][0] == steps[-1][1]
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@pytest.mark.parametrize("name", ["convs", "dense"])
def test_the_size_is_that_of_the_file(name, tmp_path):
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    model = models.ALL[name]()
    model.doc_string = "of the file, too " * 20
    onnx.save(model, source)
    given = {"calibration": models.data(model, 80), "runtime": models.RUNTIME, "round_to": 1}
    result = onnxprune.prune(source, target="size=0.7", **given)
    result.save(out)
    sizes = result.report.before.bytes, result.report.after.bytes
    assert sizes == (source.stat().st_size, out.stat().st_size)
    assert 0.6 < sizes[1] / sizes[0] <= 0.7
    assert result.report.targets[0].reached
    with pytest.raises(BudgetError, match=r"the target is 10.0% of the original"):
        onnxprune.prune(source, target="size=0.1", **given)


@pytest.mark.parametrize("goal", [0.5, 0.3])
def test_the_size_is_that_of_both_files(goal, tmp_path):
    source, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    model = onnx.load(SHIPPED / "digits_mlp.onnx")
    onnx.save(model, source, save_as_external_data=True, size_threshold=100, location="a.onnx.data")
    result = onnxprune.prune(source, target=f"size={goal}", calibration=models.data(model, 80), round_to=1)
    result.save(out)
    sizes = [sum(path.stat().st_size for path in tmp_path.glob(f"{name}.onnx*")) for name in "ab"]
    assert 0.98 * goal < sizes[1] / sizes[0] <= goal
    assert result.report.targets[0].reached


def test_latency_is_measured_unless_it_is_not_wanted():
    report = prune(models.mlp(), measure_latency=True).report
    assert report.before.latency_ms > 0
    assert report.after.latency_ms > 0
    assert "latency" in report.seconds


def test_half_precision_stays_half_precision():
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=s).astype(np.float16) / 3 for k, s in
               {"w0": (16, 12), "b0": (16,), "w1": (4, 16), "b1": (4,)}.items()}  # fmt: skip
    text = "[a] h = Gemm<transB=1>(x, w0, b0)\nr = Relu(h)\n[b] y = Gemm<transB=1>(r, w1, b1)"
    model = models.build("float16[N,12] x", "float16[N,4] y", text, weights)
    result = prune(model)
    assert {t.data_type for t in result.model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    assert result.report.fidelity.relative_error < 0.3


# ---- Options


def test_layers_that_are_left_out_keep_their_channels():
    model = models.residual("projection")
    result = prune(model, exclude=["two_*"], target="macs=0.9")
    assert {g.name: g.kept == g.channels for g in result.report.groups} == {
        "stem": True, "one_a": False, "two_a": True, "two_b": True,
    }  # fmt: skip
    reasons = {one["layer"]: one["reason"] for one in result.report.left_alone}
    assert reasons["two_a"] == "left out by --exclude"
    result = prune(model, include=["two_a"], target="macs=0.9")
    assert set(result.plan.keep) == {"two_a"}


def test_widths_are_multiples_of_four_by_default():
    result = prune(models.mlp(), round_to=None, min_channels=5, target="macs=0.7")
    assert all(g.kept == g.channels or (g.kept % 4 == 0 and g.kept >= 5) for g in result.report.groups)
    assert any(g.kept < g.channels for g in result.report.groups)


def test_mirrored_neighbours_stay_together(monkeypatch):
    seen = {}
    prepare = pipeline.prepare

    def spy(*arguments, **options):
        seen["run"], seen["copies"] = prepare(*arguments, **options), options["copies"]
        return seen["run"]

    monkeypatch.setattr(pipeline, "prepare", spy)
    prune(models.convs(), 30, preprocessing=Preprocessing(mirror=True))
    assert seen["copies"] == 2
    assert seen["run"].samples.count == 60
    judge = seen["run"].division.judge
    assert sorted(judge ^ 1) == sorted(judge)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method": "best"}, UsageError, "no method 'best'"),
        ({"allocate": "best"}, UsageError, "no allocator 'best'; choose one of: uniform, pro, dp"),
        ({"reconstruct": "best"}, UsageError, "no way to reconstruct 'best'"),
        ({"target": "speed=2"}, UsageError, "isn't known"),
        ({"tempo": 3}, UsageError, "unknown option 'tempo'"),
        ({"calibration": {"z": np.ones((3, 12), np.float32)}}, DataError, "x"),
        ({"input_shapes": {"x": [1, 2, 3]}}, DataError, "doesn't fit input 'x'"),
    ],
)
def test_options_that_make_no_sense(options, error, said):
    with pytest.raises(error, match=said):
        prune(models.mlp(), **options)


def test_a_model_that_does_not_run_is_an_error_at_once():
    model = models.mlp()
    model.graph.node[0].op_type = "Nothing"
    with pytest.raises(ModelError, match="onnxruntime can't load the model"):
        prune(model, calibration=np.ones((3, 12), np.float32))


def test_inputs_of_any_size_are_pruned_at_the_size_of_the_samples():
    body = """
        [a] c = Conv<pads=[1,1,1,1]>(x, w0, b0)
        r = Relu(c)
        [b] d = Conv(r, w1, b1)
        p = GlobalAveragePool(d)
        y = Flatten(p)"""
    weights = {"w0": (8, 2, 3, 3), "b0": (8,), "w1": (3, 8, 1, 1), "b1": (3,)}
    model = models.build("float[N,2,H,W] x", "float[N,3] y", body, weights)
    x = np.random.default_rng(0).normal(size=(40, 2, 6, 5)).astype(np.float32)
    result = prune(model, calibration=x, input_shapes={"x": [1, 2, 6, 5]})
    assert result.report.before.macs == 30 * (8 * 2 * 9 + 3 * 8)
    assert result.model.graph.input == model.graph.input
    assert prune(model, calibration=x).report.before.macs == result.report.before.macs


# ---- Data


def test_labels_give_accuracies():
    model = models.mlp()
    x = models.data(model, 50, seed=3)
    y = models.values(model, {"x": x})["y"].argmax(1)
    result = prune(model, eval=(x, y))
    assert result.report.accuracy["before"] == 1.0
    assert result.report.accuracy["after"] == result.report.fidelity.top1_agreement
    assert result.report.fidelity.samples == 50
    result = prune(model, eval=lambda path: float(len(onnx.load(path).graph.node)))
    assert result.report.accuracy == {"before": 5.0, "after": 5.0}


def test_without_data_it_goes_on_and_says_so(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(models.mlp(), path)
    result = onnxprune.prune(path, target="macs=0.6", samples=40, measure_latency=False)
    assert result.report.fidelity.data == "synthetic"
    assert "synthetic" in result.report.warnings[0]
    np.savez(tmp_path / "net.calib.npz", x=models.data(models.mlp(), 40))
    result = onnxprune.prune(str(path), target="macs=0.6", measure_latency=False)
    assert (result.report.fidelity.data, result.report.warnings) == ("given", [])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_samples_is_enough_to_run(count):
    result = prune(models.convs(), count)
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    assert result.report.fidelity.samples == 1
    assert any("fewer than the input channels" in w for w in result.report.warnings)


def test_by_default_little_is_lost():
    model, _ = models.doubled(models.convs())
    result = prune(model, 200, target=())
    assert result.report.after.macs < 0.8 * result.report.before.macs
    assert [(t.kind, t.value) for t in result.report.targets] == [("drop", 0.01)]
    assert result.report.fidelity.loss <= 0.01


def test_a_trained_model_loses_little_by_default():
    result = onnxprune.prune(SHIPPED / "digits_mlp.onnx", measure_latency=False, samples=400, runtime=models.RUNTIME)
    assert result.report.after.macs < 0.9 * result.report.before.macs
    found = onnxprune.compare(
        SHIPPED / "digits_mlp.onnx", result.model, eval=SHIPPED / "digits_mlp.eval.npz", runtime=models.RUNTIME
    )
    assert found.accuracy["after"] > found.accuracy["before"] - 0.03


# ---- Out of reach


def test_out_of_reach_the_best_comes_with_the_error():
    model = models.mlp()
    with pytest.raises(BudgetError) as caught:
        prune(model, target="macs=0.01")
    result = caught.value.result
    assert caught.value.reachable == pytest.approx(result.report.after.macs / result.report.before.macs, abs=1e-3)
    assert total_macs(Graph(result.model)) < total_macs(Graph(model))
    assert not result.report.targets[0].reached
    assert result.report.surgery_check["ok"]


def test_no_result_where_nothing_was_pruned():
    model = models.tokens()
    with pytest.raises(BudgetError) as caught:
        prune(model, target="drop=0", round_to=7)
    assert caught.value.result is None
    with pytest.raises(BudgetError, match="nothing in this model can be pruned") as caught:
        prune(model, exclude=["*"])
    assert caught.value.result is None


def test_surgery_that_is_not_exact_is_an_error(monkeypatch):
    check = oracle.check

    def wrong(coupling, plan, pruned, feeds):
        assert check(coupling, plan, pruned, list(feeds)).ok
        return oracle.Verdict(0.5, False, "y")

    monkeypatch.setattr(oracle, "check", wrong)
    with pytest.raises(InternalError, match="differs from its full-size twin at 'y'"):
        prune(models.mlp())


# ---- Plans


@NAMES
def test_a_saved_plan_makes_the_same_model_again(results, name, tmp_path):
    model, _, result = results[name]
    result.plan.save(tmp_path / "plan.npz")
    plan = Plan.load(tmp_path / "plan.npz")
    made = onnxprune.apply(model, plan)
    del result.model.metadata_props[:]
    assert made.SerializeToString() == result.model.SerializeToString()


def test_a_plan_is_carried_out_with_checks_and_a_report():
    model = models.convs()
    first = prune(model)
    second = prune(model, plan=first.plan, target=())
    assert second.model.graph == first.model.graph
    assert (second.report.method, second.report.allocate, second.report.reconstruct) == ("plan", "plan", "plan")
    assert second.report.targets == []
    assert second.report.fidelity.relative_error == first.report.fidelity.relative_error
    assert second.report.surgery_check["ok"]
    assert {g.name: g.kept for g in second.report.groups} == {g.name: g.kept for g in first.report.groups}
    with pytest.raises(DataError, match="doesn't have"):
        onnxprune.apply(models.mlp(), first.plan)


def test_a_plan_applies_to_a_file(tmp_path):
    model = models.mlp()
    onnx.save(model, tmp_path / "net.onnx")
    plan = Plan({"fc0": np.arange(4)})
    assert onnxprune.apply(tmp_path / "net.onnx", plan) == onnxprune.apply(model, plan)
    assert onnxprune.apply(model, Plan()).SerializeToString() == model.SerializeToString()


# ---- Inspection and comparison


def test_an_inspection_tells_what_there_is(tmp_path):
    model = models.residual("projection")
    onnx.save(model, tmp_path / "net.onnx")
    found = onnxprune.inspect(tmp_path / "net.onnx")
    assert found.size.bytes == (tmp_path / "net.onnx").stat().st_size
    assert found.size.macs == total_macs(Graph(model))
    assert {g.name: (g.channels, g.kept) for g in found.groups} == {
        "stem": (6, 6), "one_a": (8, 8), "two_a": (12, 12), "two_b": (10, 10),
    }  # fmt: skip
    reasons = {one["layer"]: one["reason"] for one in found.left_alone}
    assert set(reasons) == {"stem", "one_b", "two_b", "short", "head"}
    assert found.inputs == {"x": ["N", 3, 8, 8]}
    assert found.outputs == {"y": ["N", 5]}
    assert onnxprune.inspect(model).size.bytes == model.ByteSize()
    json.dumps(found.json())


def test_sizes_that_are_not_named_are_question_marks():
    model = models.build("float[N,?] x", "float[N,?] y", "y = Relu(x)", {})
    assert onnxprune.inspect(model, input_shapes={"x": [1, 4]}).inputs == {"x": ["N", "?"]}


def test_a_comparison_puts_two_models_side_by_side(tmp_path):
    model = models.mlp()
    other = onnxprune.apply(model, Plan({"fc0": np.arange(12)}))
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(other, tmp_path / "b.onnx")
    x = models.data(model, 30)
    y = models.values(model, {"x": x})["y"].argmax(1)
    found = onnxprune.compare(tmp_path / "a.onnx", tmp_path / "b.onnx", x, runtime=models.RUNTIME)
    assert found.accuracy is None
    assert (found.before.macs, found.after.macs) == (392, 12 * 12 + 12 * 10 + 40)
    assert found.before.bytes == (tmp_path / "a.onnx").stat().st_size
    assert found.before.latency_ms > 0
    expected = models.values(other, {"x": x})["y"]
    before = models.values(model, {"x": x})["y"]
    assert found.fidelity.relative_error == pytest.approx(
        np.linalg.norm(expected - before) / np.linalg.norm(before), rel=1e-4
    )
    assert found.fidelity.top1_agreement == (expected.argmax(1) == y).mean()
    assert found.fidelity.samples == 30
    labelled = onnxprune.compare(model, other, eval=(x, y), runtime=models.RUNTIME)
    assert labelled.accuracy == {"before": 1.0, "after": found.fidelity.top1_agreement}
    assert labelled.fidelity.samples == 30
    both = onnxprune.compare(model, model, x[:5], eval=(x, y))
    assert (both.fidelity.samples, both.fidelity.relative_error) == (5, 0.0)
    assert onnxprune.compare(model, model, samples=9).fidelity.data == "synthetic"


def test_models_of_other_outputs_cannot_be_compared():
    model = models.mlp()
    with pytest.raises(DataError, match="don't have the same outputs"):
        onnxprune.compare(model, models.mlp((12, 8, 5)), models.data(model, 5))
