"""Targets reached in several steps, and the user's training in between."""

import json
import shlex
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper

import models
import onnxprune
from onnxprune import iteration
from onnxprune.cli import main
from onnxprune.cost import total_macs
from onnxprune.errors import BudgetError, DataError, UsageError
from onnxprune.graph import Graph
from onnxprune.report import Target

FAST = {"round_to": 1, "runtime": models.RUNTIME, "measure_latency": False}


def prune(model, method="apoz", target="macs=0.4", **options):
    return onnxprune.prune(model, method=method, target=target, calibration=models.data(model, 80), **(FAST | options))


def test_every_step_keeps_the_same_share():
    found = list(iteration.schedule([Target("macs", 0.5), Target("params", 0.9)], 4))
    values = np.array([[t.value for t in step] for step in found])
    np.testing.assert_allclose(values[1:] / values[:-1], [[0.5**0.25, 0.9**0.25]] * 3)
    assert found[-1] == (Target("macs", 0.5), Target("params", 0.9))


@pytest.mark.parametrize("name", ["mlp", "convs", "projection", "grouped", "dense"])
@pytest.mark.parametrize("method", ["apoz", "reap", "merge"])
def test_the_target_is_reached_step_by_step(name, method, monkeypatch):
    """Each step starts from the model before it; the report is about the first and the last."""
    seen = []
    verified = onnxprune.pipeline._verified

    def watch(search, found):
        seen.append((total_macs(search.run.coupling.graph), total_macs(Graph.of(found.model))))
        return verified(search, found)

    monkeypatch.setattr(onnxprune.pipeline, "_verified", watch)
    model = models.ALL[name]()
    result = prune(model, method, target="macs=0.5", iterations=3)
    full = total_macs(Graph(model))
    assert [a for a, _ in seen] == [full, *(b for _, b in seen[:-1])]
    for (_, macs), share in zip(seen, (0.5 ** (1 / 3), 0.5 ** (2 / 3), 0.5), strict=True):
        assert 0.5 * share < macs / full <= share + 1e-9
    report = result.report
    assert (report.before.macs, report.after.macs) == (full, total_macs(Graph(result.model)))
    assert report.targets[0].value == 0.5
    assert report.targets[0].reached
    feed = models.feeds(model, 50, 50, seed=3)[0]
    assert [v.shape for v in models.values(model, feed).values()] == [
        v.shape for v in models.values(result.model, feed).values()
    ]


def test_limits_are_shares_of_what_there_was_before_the_first_step():
    model = models.mlp()
    result = prune(model, "reap", target="macs=0.35", iterations=4, keep={"fc0": 0.5})
    kept = {g.name: g.kept for g in result.report.groups}
    assert kept["fc0"] == 8
    assert kept["fc1"] < 5


def test_the_report_follows_channels_and_answers_over_all_steps():
    model = models.convs()
    result = prune(model, iterations=3)
    after = Graph(result.model)
    for g in result.report.groups:
        kept = after.array({"conv1": "w1", "conv2": "w2"}[g.name]).shape[0] if g.name in ("conv1", "conv2") else g.kept
        assert g.kept == kept
        assert len(result.plan.keep[g.name]) == kept
    assert {g.name for g in result.report.groups} == {"conv1", "conv2"}
    x = models.data(model, 80)
    judge = onnxprune.data.divide(80, 0, judge=0.1).judge
    before, now = (models.values(m, {"x": x[judge]})["y"].astype(np.float64) for m in (model, result.model))
    error = np.sqrt(np.square(now - before).sum() / np.square(before).sum())
    assert result.report.fidelity.relative_error == pytest.approx(error, rel=1e-4)
    for name, tensor in (("conv1", "w1"), ("conv2", "w2")):
        rows = Graph(model).array(tensor)[result.plan.keep[name]]
        assert after.array(tensor).shape[0] == len(rows)


def test_one_step_without_training_is_a_plain_run():
    model = models.mlp()
    assert prune(model, iterations=1).model == prune(model).model


def test_labels_judge_the_first_and_the_last():
    model = models.mlp()
    x = models.data(model, 60, seed=4)
    labels = models.values(model, {"x": x})["y"].argmax(1)
    result = prune(model, iterations=2, eval=(x, labels))
    now = models.values(result.model, {"x": x})["y"].argmax(1)
    assert result.report.accuracy == {"before": 1.0, "after": pytest.approx((now == labels).mean())}


@pytest.mark.parametrize(
    "options",
    [{"target": "drop=0.1"}, {"target": ()}, {"target": ["macs=0.5", "drop=0.1"]}, {"plan": onnxprune.Plan()}],
)
def test_several_steps_need_a_cost(options):
    with pytest.raises(UsageError, match="give a target such as macs="):
        prune(models.mlp(), iterations=2, **options)


def test_no_steps_are_an_error():
    with pytest.raises(UsageError, match="0 iterations can't be done: give at least 1"):
        prune(models.mlp(), iterations=0)


def test_a_target_out_of_reach_says_in_which_step():
    model = models.mlp()
    with pytest.raises(BudgetError, match="in step 2 of 2, counted from its start: the target is") as caught:
        prune(model, target="macs=0.2", iterations=2, min_channels=5)
    result = caught.value.result
    share = total_macs(Graph(result.model)) / total_macs(Graph(model))
    assert 0.2 < share < 0.45
    assert caught.value.reachable == pytest.approx(share, abs=0.01)
    assert not result.report.targets[0].reached


# ---- Training in between


def halved(model):
    """A model whose biases training has halved."""
    for t in model.graph.initializer:
        if t.name.startswith("b"):
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) / 2, t.name))
    return model


def test_a_function_trains_after_every_step():
    model, seen = models.mlp(), []

    def train(given):
        seen.append(total_macs(Graph(given)))
        return halved(given)

    result = prune(model, "l1", iterations=3, retrain=train)
    assert len(seen) == 3
    assert seen == sorted(seen, reverse=True)
    first = next(t for t in model.graph.initializer if t.name == "b0")
    last = next(t for t in result.model.graph.initializer if t.name == "b0")
    kept = numpy_helper.to_array(first)[result.plan.keep["fc0"]]
    np.testing.assert_allclose(numpy_helper.to_array(last), kept / 8)
    assert result.report.seconds["retrain"] >= 0


def test_training_may_rename_nodes_and_values():
    def rename(given):
        for node in given.graph.node:
            node.name = f"torch/{node.name or node.output[0]}"
        for i, name in enumerate(n for node in given.graph.node[:-1] for n in node.output):
            for node in given.graph.node:
                node.input[:] = [f"/t{i}" if n == name else n for n in node.input]
                node.output[:] = [f"/t{i}" if n == name else n for n in node.output]
        return given

    result = prune(models.mlp(), iterations=2, retrain=rename)
    graph = Graph(result.model)
    for g, weight in zip(result.report.groups, ("w0", "w1"), strict=True):
        assert g.kept == graph.array(weight).shape[0] == len(result.plan.keep[g.name])


def test_what_training_loses_of_the_metadata_is_kept():
    model = models.mlp()
    model.metadata_props.add(key="classes", value="a,b")

    def forget(given):
        del given.metadata_props[:]
        return given

    assert "classes" in {p.key for p in prune(model, retrain=forget).model.metadata_props}


def script(tmp_path, body):
    """A training command with this body, in which `model` is what was given, and its result is written."""
    file = tmp_path / "my train.py"
    file.write_text(f"import sys, onnx\nmodel = onnx.load(sys.argv[1])\n{body}\nonnx.save(model, sys.argv[2])\n")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(file))} {{in}} {{out}}"


def test_a_command_trains(tmp_path):
    command = script(tmp_path, "print('epoch 1')\nmodel.doc_string += 'trained'")
    assert prune(models.mlp(), iterations=2, retrain=command).model.doc_string == "trainedtrained"


def wider(given):
    return models.mlp((12, 16, 10, 4))


def with_dims(model, change):
    change(model)
    return model


def renamed_input(given):
    given.graph.input[0].name = given.graph.node[0].input[0] = "images"
    return given


def frozen_batch(given):
    given.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return given


def other_output(given):
    del given.graph.output[:]
    given.graph.output.append(onnx.helper.make_tensor_value_info("h0", 1, ["N", None]))
    return given


def diverged(given):
    given.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full_like(numpy_helper.to_array(given.graph.initializer[0]), np.nan), "w0")
    )
    return given


def broken(given):
    given.graph.node[0].op_type = "Gem"
    return given


def failing(given):
    raise ZeroDivisionError("no epochs")


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (wider, "more than the .* of the one given to training: train that one"),
        (renamed_input, r"other inputs than the one given to training: images\[\?,12\], not x\[\?,12\]"),
        (frozen_batch, r"other inputs .*: x\[1,12\], not x\[\?,12\]"),
        (other_output, r"other outputs than the one given to training: h0"),
        (diverged, "output 'y' of the retrained model isn't finite: did training diverge"),
        (broken, "the retrained model can't be used: onnxruntime can't load"),
        (failing, "the function given as retrain failed: ZeroDivisionError: no epochs"),
        (lambda given: None, "must return a ModelProto, not a NoneType"),
    ],
)
def test_what_comes_back_from_training_is_looked_at(train, said):
    with pytest.raises(DataError, match=said):
        prune(models.mlp(), retrain=train)


def test_training_may_not_arrange_channels_anew_between_steps():
    def deeper(given):
        del given.graph.node[1]  # the first activation
        given.graph.node[1].input[0] = "h0"
        given.graph.node[0].name = given.graph.node[1].name = ""
        w0, w1 = (next(t for t in given.graph.initializer if t.name == n) for n in ("w0", "w1"))
        a, b = (numpy_helper.to_array(t) for t in (w0, w1))
        w0.CopyFrom(numpy_helper.from_array(a[:-1], "w0"))
        w1.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(b[:, :-1]), "w1"))
        bias = next(t for t in given.graph.initializer if t.name == "b0")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[:-1], "b0"))
        return given

    with pytest.raises(DataError, match="the retrained model has other groups of channels"):
        prune(models.mlp(), iterations=2, retrain=deeper)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit(3)", "failed with exit code 3: .*my train.py"),
        ("sys.exit(0)", "wrote no model to {out}: .*my train.py"),
        ("open(sys.argv[2], 'w').write('no'); sys.exit(0)", "wrote to {out} can't be read: .*retrained.onnx"),
    ],
)
def test_a_command_that_fails(tmp_path, body, said):
    with pytest.raises(DataError, match=said):
        prune(models.mlp(), retrain=script(tmp_path, body))


def test_a_command_that_is_not_there():
    with pytest.raises(DataError, match="can't be run: no-such-trainer: No such file"):
        prune(models.mlp(), retrain="no-such-trainer {in} {out}")
    with pytest.raises(UsageError, match=r"must say \{in\} and \{out\}"):
        prune(models.mlp(), retrain="train.py {in}")


def test_from_the_command_line(tmp_path):
    source, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(models.mlp(), source)
    np.savez(tmp_path / "a.calib.npz", x=models.data(models.mlp(), 60))
    options = ["--target", "macs=0.5", "--round-to", "1", "--iterations", "2", "--method", "apoz", "--json"]
    given = [*options, "--retrain", script(tmp_path, "print('epoch')")]
    done = CliRunner().invoke(main, [str(source), str(out), *given])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["targets"] == [{"kind": "macs", "value": 0.5, "reached": True}]
    assert total_macs(Graph(onnx.load(out))) <= 0.5 * total_macs(Graph(onnx.load(source)))
    done = CliRunner().invoke(main, [str(source), str(out), *options, "--force", "--save-plan", str(tmp_path / "p")])
    assert done.exit_code == 2
    assert "a plan holds one step" in done.stderr


def test_the_callers_model_stays_as_it_was():
    model = models.mlp()
    before = model.SerializeToString()
    prune(model, iterations=2, retrain=halved)
    assert model.SerializeToString() == before
    assert isinstance(model, ModelProto)
