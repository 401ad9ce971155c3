"""Whole runs of methods: what is taken over, what is measured, and what needs no data."""

import numpy as np
import pytest
from cases import CASES
from onnx import numpy_helper

import models
import onnxprune
from onnxprune import repair, statistics, steps
from onnxprune.calibration import PLAIN
from onnxprune.data import samples_of
from onnxprune.errors import BudgetError
from onnxprune.graph import Graph
from onnxprune.methods import METHODS
from onnxprune.plan import Plan
from onnxprune.reconstruct import MODES
from onnxprune.refinement import _Reader
from onnxprune.rewrite import rewrite
from onnxprune.run import Options, prepare
from onnxprune.search import Search, parse_targets
from onnxprune.walk import Walk

FAST = {"round_to": 1, "runtime": models.RUNTIME, "measure_latency": False, "allocate": "uniform"}


def prune(model, method, *, data=True, target="macs=0.6", **options):
    calibration = models.data(model, 60) if data is True else data
    return onnxprune.prune(model, method=method, target=target, calibration=calibration, **(FAST | options))


def same(one, other):
    return {k: v.tolist() for k, v in one.plan.keep.items()} == {k: v.tolist() for k, v in other.plan.keep.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reconstruct", MODES)
def test_every_method_goes_with_every_repair(method, reconstruct):
    model = models.convs()
    result = prune(model, method, reconstruct=reconstruct)
    assert result.report.targets[0].reached
    assert result.report.surgery_check["ok"]
    assert result.report.reconstruct == reconstruct
    assert bool(result.plan.weights) == (reconstruct != "none")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["identity", "grouped", "depthwise", "dense", "lstm", "heads"])
def test_every_method_prunes_every_kind_of_network(method, name):
    result = prune(models.ALL[name](), method, target="macs=0.97" if name == "lstm" else "macs=0.7")
    assert result.report.surgery_check["ok"]
    assert result.report.targets[0].reached


# ---- Unification


def scaled_copies(model, scaled, factor=0.5):
    """The model with the second half of the channels of every group `factor` times the first: in the tensors named."""
    model, keep = models.doubled(model)
    coupling = models.coupled(model)
    tensors = {t.name: t for t in model.graph.initializer}
    for name, kept in keep.items():
        group = coupling.by_name[name]
        gone = np.setdiff1d(np.arange(group.channels), kept)
        for member in group.members:
            if member.tensor in scaled and member.role != "reader":
                value = np.moveaxis(numpy_helper.to_array(tensors[member.tensor]).copy(), member.axis, 0)
                value[member.index[gone]] *= factor
                array = np.ascontiguousarray(np.moveaxis(value, 0, member.axis))
                tensors[member.tensor].CopyFrom(numpy_helper.from_array(array, member.tensor))
    return model, keep


@pytest.mark.parametrize("method", ["nu", "nu-linear", "merge", "l1"])
@pytest.mark.parametrize(
    ("made", "scaled"),
    [(models.mlp, {"w0", "b0", "w1", "b1"}), (models.convs, {"n1s", "n1b", "n2s", "n2b"})],
)
def test_scaled_copies_are_taken_over_without_loss(method, made, scaled):
    """Where each channel has one that is half of it the network answers as before; nu finds the pairs itself."""
    model, keep = scaled_copies(made(), scaled)
    found = steps_of(model, method, reconstruct="unify")
    if method.startswith("nu"):
        keep = {r.group.name: r.kept(len(keep[r.group.name])) for r in found.ranked.rankings}
    feed = models.feeds(model, 30, 30, seed=5)[0]
    before, after = models.values(model, feed)["y"], models.values(found.candidate(keep).model.proto, feed)["y"]
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


def with_folded_norms(model):
    """The same network with BatchNormalization nodes folded into the convolutions before them."""
    graph, other = Graph(model), models._copy(model)
    tensors = {t.name: t for t in other.graph.initializer}
    for node in list(other.graph.node):
        if node.op_type != "BatchNormalization":
            continue
        conv = next(n for n in other.graph.node if n.output[0] == node.input[0])
        scale, shift, mean, var = (graph.array(n).astype(np.float64) for n in node.input[1:])
        scale = scale / np.sqrt(var + 1e-5)
        weight = graph.array(conv.input[1]) * scale.reshape(-1, 1, 1, 1)
        bias = (graph.array(conv.input[2]) if len(conv.input) > 2 else 0) * scale + shift - mean * scale
        tensors[conv.input[1]].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), conv.input[1]))
        other.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), f"{conv.name}_bias"))
        del conv.input[2:]
        conv.input.append(f"{conv.name}_bias")
        conv.output[0] = node.output[0]
        other.graph.node.remove(node)
    return other


@pytest.mark.parametrize("method", ["merge", "merge-l2", "merge-gm", "l1", "l2", "gm", "nu", "apoz"])
def test_batch_normalization_may_be_folded_or_not(method):
    model = models.convs()
    for t in model.graph.initializer:  # a negative scale turns a channel around
        if t.name == "n1s":
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t) * np.float32([1, -1] * 4), t.name))
    folded = with_folded_norms(model)
    feed = models.feeds(model, 30, 30, seed=5)[0]
    np.testing.assert_allclose(models.values(model, feed)["y"], models.values(folded, feed)["y"], atol=1e-5)
    keep = {"conv1": np.array([0, 2, 3, 5]), "conv2": np.arange(0, 12, 2)}
    results = []
    for one in (model, folded):
        found = steps_of(one, method, reconstruct="none" if method == "apoz" else "auto")
        orders = [r.order.tolist() for r in found.ranked.rankings]
        pruned = found.candidate(keep).model.proto
        results.append((orders, models.values(pruned, feed)["y"]))
    assert results[0][0] == results[1][0]
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def steps_of(model, method, data=True, **options):
    """A search on the model, not yet begun."""
    graph = Graph(model)
    chosen = Options(targets=parse_targets(["macs=0.6"]), method=method, **(FAST | options))
    found = samples_of(graph, None, models.data(model, 60) if data else None, PLAIN, None, 0, None)
    return Search(prepare(graph, found, chosen))


# ---- What is measured, and what needs no data


def test_merging_needs_no_data(monkeypatch):
    """Nothing is calibrated, and the channels and weights are those of a run with data."""
    model = models.convs()
    given = prune(model, "merge")

    def refuse(*_, **__):
        raise AssertionError("data was looked at")

    monkeypatch.setattr(steps, "collect", refuse)
    monkeypatch.setattr(steps.selection, "probe", refuse)
    blind = prune(model, "merge", data=None)
    assert same(blind, given)
    for name, weights in blind.plan.weights.items():
        np.testing.assert_array_equal(weights.matrix, given.plan.weights[name].matrix)
    assert blind.report.surgery_check["ok"]
    assert any("none was needed" in w for w in blind.report.warnings)
    assert prune(model, "merge", data=None, allocate="dp").report.targets[0].reached


@pytest.mark.parametrize(
    ("method", "reconstruct"), [("merge", "ls"), ("l1", "unify"), ("nu", "auto"), ("reap", "none")]
)
def test_what_needs_data_is_calibrated_on_made_up_inputs(method, reconstruct, monkeypatch):
    calls = []
    monkeypatch.setattr(steps, "collect", lambda *a, **k: calls.append(1) or statistics.collect(*a, **k))
    result = prune(models.mlp(), method, data=None, reconstruct=reconstruct)
    assert calls
    assert any("so the result is a guess" in w for w in result.report.warnings)


def test_noise_is_what_a_noise_method_calibrates_on():
    """The data given only judge: with other data the plan stays the same, while that of `reap` changes."""
    model = models.mlp()
    one, other = models.data(model, 60, seed=1), 5 * models.data(model, 60, seed=2) ** 2
    plans = {m: [prune(model, m, data=data, reconstruct="local") for data in (one, other)] for m in ("obspa", "reap")}
    first, second = plans["obspa"]
    assert same(first, second)
    for name, weights in first.plan.weights.items():
        np.testing.assert_array_equal(weights.matrix, second.plan.weights[name].matrix)
    assert not same(*plans["reap"])
    assert first.report.fidelity.data == "given"


@pytest.mark.parametrize(("method", "passes"), [("apoz", 1), ("reap", 0), ("merge", 0)])
def test_activity_is_measured_for_those_who_ask(method, passes, monkeypatch):
    calls, collect = [], steps.collect_activity
    monkeypatch.setattr(steps, "collect_activity", lambda *a, **k: calls.append(1) or collect(*a, **k))
    prune(models.convs(), method)
    assert len(calls) == passes


def test_apoz_removes_what_is_off_most_often():
    model = models.mlp()
    found = steps_of(model, "apoz")
    feeds = [found.run.samples.batches(np.concatenate([found.run.division.fit, found.run.division.tune]).tolist(), 64)]
    value = np.concatenate([models.values(model, feed, ["r0"])["r0"] for feed in feeds[0]])
    off = (value == 0).mean(0)
    order = found.ranked.rankings[0].order
    assert (np.diff(off[order]) <= 0).all()


# ---- Readers that can't be refitted


IMAGES = {"x": np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("data", [IMAGES, None])
@pytest.mark.parametrize("allocate", ["dp", "uniform"])
def test_what_cant_be_refitted_goes_where_nothing_is(data, allocate):
    """Deformable convolutions read two of the groups: by weights alone their channels go, the smallest first."""
    model = CASES["deformed"].model()
    result = prune(model, "l1", target="params=0.8", allocate=allocate, data=data, batch=1)
    assert result.report.surgery_check["ok"]
    assert result.report.targets[0].reached
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    sums = np.abs(weights["w1"]).sum((1, 2, 3))
    kept = result.plan.keep["a"]
    assert len(kept) < 6
    assert set(kept.tolist()) == set(np.argsort(sums)[-len(kept) :].tolist())


@pytest.mark.parametrize("reconstruct", ["ls", "local", "mean", "none"])
@pytest.mark.parametrize("allocate", ["dp", "uniform"])
def test_what_cant_be_refitted_goes_by_what_it_adds(reconstruct, allocate):
    """Where other layers are, or data decide: the channels first of which the readers get least."""
    model = CASES["deformed"].model()
    options = {"target": "params=0.8", "allocate": allocate, "reconstruct": reconstruct, "data": IMAGES, "batch": 1}
    result = prune(model, "reap", **options)
    assert result.report.surgery_check["ok"]
    assert result.report.targets[0].reached
    kept = result.plan.keep["a"]
    assert len(kept) < 6
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    value = np.concatenate([models.values(model, {"x": x[None]}, ["a"])["a"] for x in IMAGES["x"]])
    added = np.square(value).mean((0, 2, 3)) * np.square(weights["wd"]).sum((0, 2, 3))
    assert set(kept.tolist()) == set(np.argsort(added)[-len(kept) :].tolist())
    with pytest.raises(BudgetError, match="none can take over"):
        prune(model, "reap", **options | {"reconstruct": "unify", "target": "params=0.3"})


def test_what_goes_without_repair_is_gone_for_the_layers_behind():
    """They are fitted to what the pruned network makes: exactly what it then makes."""
    model = CASES["deformed"].model()
    settings = {"method": "reap", "round_to": 1, "runtime": models.RUNTIME, "batch": 1}
    run = prepare(Graph(model), samples_of(Graph(model), None, IMAGES, PLAIN, None, 0, None), Options(**settings))
    keep = {"a": np.asarray([0, 2, 5]), "d": np.asarray([1, 3, 4, 6])}
    with Walk(run.coupling, run.feeds(run.division.fit), models.RUNTIME, mask=run.coupling.mask(keep)) as walk:
        walk.keep(["y"])
        walk.advance()
        found = np.concatenate([walk.value(i, "y") for i in range(len(walk.original))])
    pruned = rewrite(run.coupling, Plan(keep))
    expected = np.concatenate([models.values(pruned, one)["y"] for one in run.feeds(run.division.fit)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cant_be_refitted_isnt_free_without_data():
    graph = Graph(CASES["deformed"].model())
    options = Options(method="l1", round_to=1, runtime=models.RUNTIME, batch=1, targets=parse_targets(["params=0.8"]))
    run = prepare(graph, samples_of(graph, None, None, PLAIN, None, 0, None), options)
    assert run.blind
    assert all((np.diff(curve.errors) < 0).all() for curve in Search(run).ranked.curves)


def test_the_error_of_what_cant_be_refitted_is_that_of_the_answers():
    """What is probed answers as the pruned model does."""
    model = CASES["deformed"].model()
    found = Search(prepare(Graph(model), samples_of(Graph(model), None, IMAGES, PLAIN, None, 0, None),
                           Options(method="l1", round_to=1, runtime=models.RUNTIME, batch=1,
                                   targets=parse_targets(["params=0.8"]))))  # fmt: skip
    run = found.run
    place = next(i for i, r in enumerate(found.ranked.rankings) if r.group.name == "a")
    ranking, curve = found.ranked.rankings[place], found.ranked.curves[place]
    kept = ranking.kept(int(ranking.levels[ranking.middle]))
    pruned = rewrite(run.coupling, Plan({"a": kept}))
    total, power = 0.0, 0.0
    for one in run.feeds(run.division.tune):
        before, after = (models.values(m, one)["y"] for m in (model, pruned))
        total, power = total + np.square(before - after).sum(), power + np.square(before).sum()
    assert curve.errors[ranking.middle] == pytest.approx(total / power, rel=1e-3)


# ---- Swaps


@pytest.mark.parametrize("name", ["mlp", "convs", "grouped", "dense"])
@pytest.mark.parametrize("reconstruct", ["local", "ls"])
def test_refined_choices_have_the_same_widths_and_fit_better(name, reconstruct):
    """Whether moments are held (local) or collected once more (ls), the predicted error at the readers falls."""
    found = steps_of(models.ALL[name](), "l1", reconstruct=reconstruct, refine=True)
    half = {r.group.name: r.kept(int(r.levels[len(r.levels) // 2])) for r in found.ranked.rankings}
    keep = repair.refine(found.run, found.ranked, half)
    assert {n: len(k) for n, k in keep.items()} == {n: len(k) for n, k in half.items()}
    moments = found.other(reconstruct="local").ranked.moments
    errors = []
    for one in (half, keep):
        total = 0.0
        for r in found.ranked.rankings:
            evidence, _ = steps.selection.gathered(found.run.coupling, r.group, moments, np.random.default_rng(0))
            total += sum(
                _Reader(p, one[r.group.name], evidence.damping).error(one[r.group.name]) for p in evidence.problems
            )
        errors.append(total)
    assert errors[1] < errors[0]
    assert (
        np.concatenate(list(found.candidate(half).plan.keep.values())).tolist()
        == np.concatenate(list(keep.values())).tolist()
    )


def test_a_refined_run_meets_its_target():
    result = prune(models.convs(), "reap", refine=True)
    assert result.report.targets[0].reached
    assert result.report.surgery_check["ok"]
    assert "refine" in result.report.seconds
