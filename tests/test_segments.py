"""Errors of runs of blocks that become one, against what happens when they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from test_merging import BRANCHES, chain, outputs

import models
from onnxprune import segments as segments_module
from onnxprune.blocks import without
from onnxprune.calibration import load
from onnxprune.coupling import couple
from onnxprune.data import inputs_of
from onnxprune.graph import Graph
from onnxprune.merging import merged
from onnxprune.plan import Plan
from onnxprune.repair import narrow
from onnxprune.rewrite import pruned
from onnxprune.run import Options, prepare
from onnxprune.segments import _ahead, errors_without, removable, segments
from onnxprune.steps import Ranked, rank

ONE_GROUP = [kind for kind in BRANCHES if kind != "bottleneck"]


def measured(model, samples=192, longest=3, **options):
    """A run on a model, and its segments by their blocks."""
    graph = Graph(model)
    found = load(models.data(model, samples), inputs_of(graph))
    run = prepare(graph, found, Options(runtime=models.RUNTIME, round_to=1, **options))
    return run, {segment.blocks: segment for segment in segments(run, rank(run), longest)}


@pytest.mark.parametrize("longest", [0, 1, 3])
def test_all_runs_up_to_a_length(longest):
    model = chain("conv", 4)
    _, found = measured(model, 32, longest)
    names = outputs(Graph(model))
    runs = {tuple(names[i:j]) for i in range(4) for j in range(i + 1, 5) if j - i <= longest + 1}
    assert set(found) == runs
    for blocks, segment in found.items():
        assert segment.group == f"first{blocks[-1][1:]}"
        channels = sum(8 + int(name[1:]) for name in blocks)
        assert segment.curve.levels[0] == 1
        assert segment.curve.levels[-1] == min(channels, 2 * (8 + int(blocks[-1][1:])))
        assert (np.diff(segment.curve.levels) == 1).all()


@pytest.mark.parametrize("kind", ONE_GROUP)
def test_group_and_blocks_are_those_of_the_merged_graph(kind):
    model = chain(kind)
    _, found = measured(model, 32)
    names = tuple(outputs(Graph(model)))
    merged_group = couple(merged(Graph(model), [names])).by_name[found[names].group]
    assert merged_group.channels >= found[names].curve.levels[-1]


@pytest.mark.parametrize("kind", ONE_GROUP)
@pytest.mark.parametrize("count", [2, 3])
def test_the_error_is_about_that_of_the_network_with_the_merged_block(kind, count):
    """Its own layers refitted, nothing behind it."""
    model = chain(kind)
    run, found = measured(model, 512)
    segment = found[tuple(outputs(Graph(model))[:count])]
    group, width = segment.group, int(segment.curve.levels[len(segment.curve.levels) // 3])
    form = merged(Graph(model), [segment.blocks])
    run = replace(run, coupling=couple(form))
    keep, weights, _ = narrow(run, Ranked([], [], {}), {}, {group: width})
    own = {name: new for name, new in weights.items() if name.endswith(("_merged", "_product"))}
    plan = Plan(keep, own, merged=form.merged)
    feed = models.feeds(model, 256, 256, 7)[0]
    expected = models.values(model, feed)["y"]
    change = np.square(models.values(pruned(run.coupling, plan).proto, feed)["y"] - expected).sum()
    predicted = np.interp(width, segment.curve.levels, segment.curve.errors)
    assert 0.25 < change / np.square(expected).sum() / predicted < 4


def test_a_block_that_adds_nothing_costs_nothing():
    model = chain("conv", 2)
    for tensor in model.graph.initializer:
        if tensor.name == "d1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    _, found = measured(model, 256)
    alone, both = found[("x2",)].curve, found[("x1", "x2")].curve
    assert both.levels.max() > alone.levels.max() == 10
    np.testing.assert_allclose(both.errors[:9], alone.errors[:9], rtol=0.2, atol=0.03 * alone.errors[0])
    assert both.errors[9:].max() < 1e-3 * both.errors[0]


@pytest.mark.parametrize("kind", ONE_GROUP)
def test_errors_fall_with_width_and_rise_with_length(kind):
    _, found = measured(chain(kind), 256)
    curves = {len(blocks): segment.curve for blocks, segment in found.items() if blocks[-1] in ("x3", "z3")}
    at = [np.interp(4, curve.levels, curve.errors) for _, curve in sorted(curves.items())]
    assert at == sorted(at)
    assert all(curve.errors[0] > curve.errors[len(curve.errors) // 2] > 0 for curve in curves.values())


def test_blocks_of_two_hidden_groups_have_no_segment():
    assert not measured(chain("bottleneck"), 32)[1]


# ---- Blocks that go without a trace


def without_one(kind, count=3, samples=256, zero=""):
    """A model of which one matrix is zero, a run, its blocks that may go, and the errors of that."""
    model = chain(kind, count)
    for tensor in model.graph.initializer:
        if tensor.name == zero:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    graph = Graph(model)
    found = load(models.data(model, samples), inputs_of(graph))
    run = prepare(graph, found, Options(runtime=models.RUNTIME))
    blocks = removable(run, [])
    return model, run, blocks, errors_without(run, blocks)


@pytest.mark.parametrize("kind", ["bottleneck", "perceptron"])
def test_the_error_of_a_block_that_goes_is_about_that_of_the_repaired_network(kind):
    model, run, blocks, errors = without_one(kind, samples=512)
    assert [block.output for block in blocks] == outputs(Graph(model))
    feed = models.feeds(model, 256, 256, 7)[0]
    expected = models.values(model, feed)["y"]
    for block, error in zip(blocks, errors, strict=True):
        coupling = couple(without(run.coupling.graph, [block.output]))
        after, changes = replace(run, coupling=coupling), []
        every = narrow(after, Ranked([], [], {}), {}, {})[1]
        ahead = {name: every[name] for name in _ahead(coupling, block.output)}
        for weights in ({}, ahead, every):
            plan = Plan({}, weights, removed=(block.output,))
            answers = models.values(pruned(coupling, plan).proto, feed)["y"]
            changes.append(np.square(answers - expected).sum() / np.square(expected).sum())
        alone, repaired, best = changes
        assert 0.5 < error / repaired < 2
        assert best < 1.5 * error < alone


def test_a_block_that_adds_nothing_goes_for_nothing():
    *_, (nothing, something) = without_one("bottleneck", 2, zero="d1")
    assert nothing < 1e-3 * something


def test_blocks_that_have_something_in_common_with_others_or_are_named_stay():
    _, run, blocks, _ = without_one("bottleneck", samples=32)
    assert removable(run, blocks[:1]) == blocks[1:]
    named = replace(run, options=replace(run.options, exclude=("middle2",)))
    assert removable(named, []) == [blocks[0], blocks[2]]


def test_layers_behind_a_block_up_to_some_depth():
    graph = Graph(chain("bottleneck"))
    coupling = couple(graph)
    ahead = _ahead(coupling, outputs(graph)[0])
    assert {coupling.layer(coupling.layers[name].index) for name in ahead} == {"first2", "middle2", "last2"}


# ---- What has no segment


def test_blocks_that_must_stay_are_in_no_segment():
    _, found = measured(chain("conv"), 32, exclude=("first2",))
    assert set(found) == {("x1",), ("x3",)}


def test_wide_pools_are_left_out(monkeypatch):
    monkeypatch.setattr(segments_module, "WIDEST", (9 + 10) * 9)
    _, found = measured(chain("conv"), 32)
    assert set(found) == {("x1",), ("x2",), ("x3",), ("x1", "x2")}


def test_memory_changes_nothing():
    model = chain("conv")
    names = tuple(outputs(Graph(model)))
    one, other = (measured(model, 32, max_memory=memory)[1][names].curve for memory in (2e9, 1e7))
    np.testing.assert_allclose(one.errors, other.errors, rtol=1e-6)
