"""Whole blocks: what they add, which go, and what users see of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_blocks import feed, transformer
from test_cli import done, run
from test_merging import chain

import models
import onnxprune
from onnxprune.blocks import find, without
from onnxprune.coupling import couple
from onnxprune.diagnosis import diagnose
from onnxprune.errors import BudgetError, DataError, UsageError
from onnxprune.graph import Graph
from onnxprune.methods import BLOCK_METHODS, NEEDS, Features
from onnxprune.methods import find as find_method
from onnxprune.methods.shallow import DAMPINGS, FOLDS, probed
from onnxprune.plan import Plan
from onnxprune.reconstruct import MODES, front_to_back
from onnxprune.rewrite import pruned

RESNET = Path(__file__).parent.parent / "models" / "digits_resnet.onnx"


# ---- Methods for blocks


@pytest.mark.parametrize("method", BLOCK_METHODS.values(), ids=BLOCK_METHODS)
def test_a_method_says_what_it_is(method):
    assert find_method(method.name) is method
    assert method.reconstruct in MODES
    assert method.needs in NEEDS
    assert method.paper
    assert method.summary[0].islower()
    assert not method.summary.endswith(".")
    assert method.gains.__doc__


def random_features(seed=0, blocks=4, samples=60, width=5, labelled=False):
    rng = np.random.default_rng(seed)
    before = [rng.normal(size=(samples, width)) for _ in range(blocks)]
    after = [b + rng.normal(size=(samples, width)) for b in before]
    targets = sum(after) @ rng.normal(size=(width, 3)) + rng.normal(size=(samples, 3))
    if labelled:
        targets = np.eye(3)[targets.argmax(1)]
    return Features(before, after, targets, labelled)


@pytest.mark.parametrize("labelled", [False, True])
def test_gains_are_finite_reproducible_and_independent_of_numbering(labelled):
    method = find_method("shallow")
    one = random_features(labelled=labelled)
    copies = [x.copy() for x in (*one.before, *one.after, one.targets)]
    gains = method.gains(one)
    assert gains.shape == (4,)
    assert np.isfinite(gains).all()
    np.testing.assert_array_equal(gains, method.gains(one))
    for x, y in zip((*one.before, *one.after, one.targets), copies, strict=True):
        np.testing.assert_array_equal(x, y)
    turned = Features([b[:, ::-1] for b in one.before], [a[:, ::-1] for a in one.after], one.targets, labelled)
    np.testing.assert_allclose(method.gains(turned), gains, atol=1e-9)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("samples", [17, 64])
def test_a_probe_is_ridge_regression_cross_validated(labelled, samples):
    one = random_features(3, blocks=1, samples=samples, labelled=labelled)
    x, y = one.after[0], one.targets
    fold = np.array([(i // 2) % FOLDS for i in range(samples)])
    scores = []
    for damping in DAMPINGS:
        right, error, power = 0, 0.0, 0.0
        for number in range(FOLDS):
            fit, held = fold != number, fold == number
            mean, goal = x[fit].mean(0), y[fit].mean(0)
            rows = x[fit] - mean
            ridge = damping * np.square(rows).sum() / rows.shape[1]
            stacked = np.vstack([rows, np.sqrt(ridge) * np.eye(rows.shape[1])])
            weights = np.linalg.lstsq(stacked, np.vstack([y[fit] - goal, np.zeros((rows.shape[1], 3))]), rcond=None)[0]
            told = (x[held] - mean) @ weights + goal
            right += (told.argmax(1) == y[held].argmax(1)).sum()
            error += np.square(told - y[held]).sum()
            power += np.square(goal - y[held]).sum()
        scores.append(right / samples if labelled else 1 - error / power)
    assert probed(x, y, labelled=labelled) == pytest.approx(max(scores), abs=1e-9)


def test_features_that_say_nothing_or_all():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    assert probed(x, x[:, :2], labelled=False) > 0.999
    assert probed(np.zeros((80, 4)), x, labelled=False) == pytest.approx(0.0)
    assert probed(np.ones((80, 1)), np.eye(2)[np.arange(80) // 40], labelled=True) <= 0.5


# ---- What they see


@pytest.mark.parametrize(
    ("model", "axes"), [(models.residual(), (2, 3)), (transformer(), (1,)), (models.mlp((12, 10, 10, 4)), ())]
)
@pytest.mark.parametrize("labels", [None, np.arange(24) % 3])
def test_features_are_means_over_places(model, axes, labels):
    coupling = models.coupled(model)
    blocks = find(coupling.graph)
    inputs = feed(model, 24)
    parts = [{n: v[:16] for n, v in inputs.items()}, {n: v[16:] for n, v in inputs.items()}]
    found = diagnose(coupling, blocks, parts, models.RUNTIME, labels)
    names = [n for b in blocks for n in (b.shortcut, b.output)]
    values = models.values(model, inputs, [n for n in dict.fromkeys(names) if n not in inputs])
    for block, before, after in zip(blocks, found.before, found.after, strict=True):
        np.testing.assert_allclose(before, values[block.shortcut].mean(axes), atol=1e-5)
        np.testing.assert_allclose(after, values[block.output].mean(axes), atol=1e-5)
    assert found.labelled == (labels is not None)
    expected = models.values(model, inputs)["y"] if labels is None else np.eye(3)[labels]
    np.testing.assert_allclose(found.targets, expected, atol=1e-5)


def test_too_few_samples_for_probes():
    model = models.residual()
    with pytest.raises(DataError, match="8 samples are too few"):
        onnxprune.prune(model, method="shallow", target="macs=0.9", calibration=models.data(model, 9))


# ---- A run


def shallowed(model, count=120, **options):
    calibration = feed(model, count) if len(model.graph.input) > 1 else models.data(model, count)
    return onnxprune.prune(model, method="shallow", calibration=calibration, measure_latency=False, **options)


def zeroed(model, *names):
    """The model with some weights set to zero."""
    for t in model.graph.initializer:
        if t.name in names:
            t.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(t)), t.name))
    return model


@pytest.mark.parametrize(
    ("model", "useless"),
    [
        (zeroed(models.residual(), "w4", "b4"), "r2"),
        (zeroed(transformer(), "wo"), "h"),
        (zeroed(transformer(), "wd", "bd"), "h2"),
    ],
)
def test_a_block_that_does_nothing_goes_first_and_is_not_missed(model, useless):
    found = shallowed(model, target="drop=0.0", seed=3)
    gone = {b.name: b for b in found.report.blocks if b.removed}
    assert useless in found.plan.removed
    assert gone
    first = shallowed(model, target="macs=0.999")
    assert first.plan.removed == (useless,)
    assert first.report.fidelity.relative_error < 1e-5


def test_blocks_go_in_the_order_of_their_gains_until_the_target_is_met():
    model = models.residual()
    gains = {b.name: b.gain for b in shallowed(model, target="macs=0.9").report.blocks}
    least = min(gains, key=gains.get)
    some, all_ = shallowed(model, target="macs=0.9"), shallowed(model, target="params=0.45")
    assert [b.name for b in some.report.blocks if b.removed] == [least]
    assert all(b.removed for b in all_.report.blocks)
    for found, kind, limit in ((some, "macs", 0.9), (all_, "params", 0.45)):
        before, after = getattr(found.report.before, kind), getattr(found.report.after, kind)
        assert after / before <= limit
        assert found.report.targets[0].reached
    freed = sum(b.macs for b in all_.report.blocks)
    assert all_.report.after.macs == all_.report.before.macs - freed


def test_a_threshold_alone_removes_all_below_it():
    model = models.residual()
    gains = sorted(b.gain for b in shallowed(model, target="macs=0.9").report.blocks)
    assert not shallowed(model, threshold=gains[0]).plan.removed
    assert len(shallowed(model, threshold=sum(gains) / 2).plan.removed) == 1
    assert len(shallowed(model, threshold=1.0).plan.removed) == 2


def test_a_threshold_limits_what_a_target_may_take():
    model = models.residual()
    gains = sorted(b.gain for b in shallowed(model, target="macs=0.9").report.blocks)
    with pytest.raises(BudgetError, match=r"macs=0\.3 can't be reached") as caught:
        shallowed(model, target="macs=0.3", threshold=sum(gains) / 2)
    assert len(caught.value.result.plan.removed) == 1
    left = caught.value.result.report
    assert caught.value.reachable == pytest.approx(left.after.macs / left.before.macs)


def test_a_loss_allowed_decides_how_many_go():
    model = models.residual()
    assert len(shallowed(model, target="drop=0.9").plan.removed) == 2
    with pytest.raises(BudgetError, match="no block can go"):
        shallowed(models.mlp((12, 12, 4)), target="drop=0")
    with pytest.raises(BudgetError, match="loses more than"):
        shallowed(models.mlp((12, 12, 4)), target=["macs=0.9", "drop=0"])


def test_the_same_seed_gives_the_same_model():
    one, other = (shallowed(models.residual(), target="macs=0.7", seed=5) for _ in range(2))
    assert one.model == other.model
    assert one.report.blocks == other.report.blocks


def test_repair_beats_none():
    errors = [
        shallowed(models.residual(), target="macs=0.7", reconstruct=mode).report.fidelity.relative_error
        for mode in ("none", "ls")
    ]
    assert errors[1] < 0.7 * errors[0]


def test_labels_choose_where_there_are_any():
    model = models.residual()
    x = models.data(model, 60)
    y = models.values(model, {"x": x})["y"].argmax(1)
    found = shallowed(model, target="macs=0.7", eval=(x, y))
    assert found.report.accuracy is not None
    assert any("labels" in w for w in found.report.warnings)
    plain = {b.name: b.gain for b in shallowed(model, target="macs=0.7").report.blocks}
    assert {b.name: b.gain for b in found.report.blocks} != plain


def test_include_and_exclude():
    model = models.residual()
    kept = shallowed(model, target="drop=0.9", exclude=("two_a",))
    assert [b.name for b in kept.report.blocks] == ["r"]
    assert shallowed(model, target="drop=0.9", include=("two_*",)).plan.removed == ("r2",)
    assert [b.name for b in shallowed(model, target="drop=0.9", keep={"two_a": 0.5}).report.blocks] == ["r"]


@pytest.mark.parametrize("model", [models.residual(), transformer(), models.mlp((12, 10, 10, 4))])
def test_a_plan_is_carried_out_again(model, tmp_path):
    found = shallowed(model, threshold=1.0)
    assert found.plan.removed
    found.plan.save(tmp_path / "p.npz")
    plan = Plan.load(tmp_path / "p.npz")
    assert plan.removed == found.plan.removed
    again = onnxprune.apply(model, plan)
    assert again.graph == found.model.graph
    run_again = shallowed(model, plan=plan)
    assert run_again.model.graph == found.model.graph
    gone = [[b.name for b in one.report.blocks if b.removed] for one in (run_again, found)]
    assert gone[0] == gone[1]


def test_blocks_that_go_are_merged_with_the_next_one_where_it_is_built_alike():
    """As many multiplications and layers are left as without them, and the answers come closer."""
    model = chain("conv", 4)
    found = shallowed(model, 400, target="macs=0.6", seed=1)
    assert found.plan.merged
    gone = {block.name for block in found.report.blocks if block.removed}
    merged = {name for run in found.plan.merged for name in run[:-1]}
    assert len(gone) == len(found.plan.removed) + len(merged)
    assert found.report.surgery_check["ok"]
    freed = sum(block.macs for block in found.report.blocks if block.removed)
    assert found.report.after.macs == found.report.before.macs - freed
    plain = without(Graph(model), (*found.plan.removed, *merged))
    parts, feeds = [models.feeds(model, 320, 64)], models.feeds(model, 200, 200, 9)[0]
    refits = front_to_back(couple(plain), {}, parts, 320, models.RUNTIME)
    plan = Plan(weights={name: one.weights for name, one in refits.items()}, removed=tuple(plain.removed))
    expected, errors = models.values(model, feeds)["y"], []
    for one in (found.model, pruned(couple(plain), plan).proto):
        errors.append(np.square(models.values(one, feeds)["y"] - expected).sum())
    assert errors[0] < errors[1]


def test_a_plan_for_another_model():
    found = shallowed(models.residual(), threshold=1.0)
    with pytest.raises(DataError, match="was the plan made for this model"):
        onnxprune.apply(models.mlp(), found.plan)


def test_nothing_to_remove():
    with pytest.raises(BudgetError, match="no block can be removed"):
        shallowed(models.mlp(), target="macs=0.9")


@pytest.mark.parametrize("options", [{"reconstruct": "local"}, {"refine": True}, {"method": "reap", "threshold": 0.1}])
def test_options_that_do_not_go_together(options):
    with pytest.raises(UsageError, match="whole blocks"):
        onnxprune.prune(models.residual(), **{"method": "shallow", **options})


# ---- The command line


def test_a_run(tmp_path):
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.npz"
    options = ("--method", "shallow", "--threshold", "1", "--samples", "100")
    shown = done(RESNET, out, *options, "--save-plan", plan, "-v").stdout
    assert "removed" in shown
    assert "gain" in shown
    found = json.loads(done(RESNET, out, "--plan", plan, "--samples", "100", "--force", "--json").stdout)
    assert found["method"] == "plan"
    gone = [b for b in found["blocks"] if b["removed"]]
    assert gone
    assert found["after"]["macs"] == found["before"]["macs"] - sum(b["macs"] for b in gone)
    onnx.checker.check_model(onnx.load(out))


def test_a_threshold_needs_a_method_for_blocks(tmp_path):
    result = run(RESNET, tmp_path / "out.onnx", "--threshold", "0.1")
    assert result.exit_code == 2
    assert "whole blocks" in result.stderr
