"""Orders, error curves and probes, against refits and runs of the cut model."""

from unittest.mock import patch

import numpy as np
import pytest
from onnx import numpy_helper

import models
from onnxprune import fitting, selection
from onnxprune.elimination import Problem, eliminate
from onnxprune.fitting import DEFAULT_DAMPING, fitted
from onnxprune.methods import find
from onnxprune.oracle import comparable
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite
from onnxprune.selection import Ranking, dense, flags_without, probe, producer_weights, rank, readers, rows_of, widths
from onnxprune.statistics import collect

REAP = find("reap")


class Ranked:
    """A model with the moments of its readers on two parts, and all its groups ranked."""

    def __init__(self, model, method=REAP, count=200, tuned=100, step=1, streams=True):
        self.model, self.coupling = model, models.coupled(model)
        self.parts = [models.feeds(model, count, 50, seed=1)]
        self.parts += [models.feeds(model, tuned, 50, seed=2)] if tuned else []
        self.groups = [g for g in self.coupling.groups if streams or not g.stream]
        linears = {linear.key: linear for g in self.groups for linear in readers(self.coupling, g)}
        with patch("onnxprune.statistics.POSITIONS", 1000):  # all of them
            self.moments = collect(self.coupling.graph, list(linears.values()), self.parts, 1, models.RUNTIME)
        rng = np.random.default_rng(0)
        self.rankings = [rank(self.coupling, g, self.moments, method, widths(g, step, 1), rng) for g in self.groups]

    def rows(self, linear, part):
        """What a layer reads on a part of the samples, every position of it."""
        found = []
        for feed in self.parts[part]:
            x = (
                feed[linear.input]
                if linear.input in feed
                else models.values(self.model, feed, [linear.input])[linear.input]
            )
            shape = linear.output_shape(x.shape)
            found.append(linear.sample(x, shape, np.arange(linear.count(x.shape, shape))))
        return np.concatenate(found).astype(np.float64)


@pytest.fixture(scope="module")
def ranked():
    return {name: Ranked(made()) for name, made in models.ALL.items()}


NAMES = pytest.mark.parametrize("name", models.ALL)


# ---- Orders and curves


@NAMES
def test_curves_end_at_zero_and_start_high(ranked, name):
    for r in ranked[name].rankings:
        assert r.errors[-1] == 0
        assert (r.errors[:-1] >= 0).all()
        assert r.errors[0] > 0
        assert r.levels[-1] == r.group.channels
        assert (np.diff(r.levels) > 0).all()


@NAMES
def test_what_is_kept_is_nested_and_of_the_asked_width(ranked, name):
    for r in ranked[name].rankings:
        cells = len(set(r.group.cells.tolist()))
        previous = set()
        for width in r.levels:
            kept = r.kept(int(width))
            assert len(kept) == width
            assert (np.diff(kept) > 0).all()
            assert set(kept.tolist()) >= previous
            assert len(set(np.bincount(r.group.cells[kept], minlength=cells).tolist())) == 1
            previous = set(kept.tolist())


@NAMES
def test_the_errors_are_those_of_fits_on_samples_that_were_not_fitted(ranked, name):
    """Fitted on the rows of the first part by themselves, judged on the rows of the second, over all readers."""
    one = ranked[name]
    for r in one.rankings:
        dampings = []
        for linear in readers(one.coupling, r.group):
            gram = selection.separated(linear, one.moments[linear.key][0].centred()[0])
            dampings.append(selection._damping(linear, r.group, gram, *one.moments[linear.key]))
        damping = float(np.median(dampings))
        for place in (0, len(r.levels) // 2):
            removed = r.order[: r.group.channels - int(r.levels[place])]
            total = 0.0
            for linear in readers(one.coupling, r.group):
                flags = flags_without(linear, r.group, removed)
                fit = one.moments[linear.key][0]
                weights = fitted(linear, flags, fit, damping)
                x = one.rows(linear, 1)
                error = linear.apply(x) - linear.apply(x, weights.matrix, weights.offset)
                centre = linear.apply(fit.mean[None])
                total += np.square(error).sum() / np.square(linear.apply(x) - centre).sum()
            assert r.errors[place] == pytest.approx(total, rel=0.02)


def test_fitted_samples_alone_would_flatter():
    few = Ranked(models.mlp((12, 16, 10, 4)), count=12, tuned=400)
    flattered = Ranked(models.mlp((12, 16, 10, 4)), count=12, tuned=0)
    assert few.rankings[0].errors[8] > flattered.rankings[0].errors[8]


def test_all_readers_count(ranked):
    one = ranked["heads"]
    r = one.rankings[0]
    linears = readers(one.coupling, r.group)
    assert [linear.key for linear in linears] == ["first", "h1"]
    problems = []
    for linear in linears:
        gram = one.moments[linear.key][0].centred()[0]
        power = np.sum(linear.matrix[0] * (gram @ linear.matrix[0]))
        problems.append(Problem(gram, linear.matrix[0], rows_of(linear, r.group), 1 / power))
    dampings = [
        selection._damping(x, r.group, p.gram, *one.moments[x.key]) for x, p in zip(linears, problems, strict=True)
    ]
    expected = eliminate(problems, damping=float(np.median(dampings))).order
    np.testing.assert_array_equal(r.order, expected)
    alone = [eliminate([problem], damping=float(np.median(dampings))).order.tolist() for problem in problems]
    assert r.order.tolist() not in alone


def test_a_reader_of_a_concat_keeps_its_other_rows(ranked):
    one = ranked["dense"]
    group = one.coupling.by_name["a"]
    linear = next(x for x in readers(one.coupling, group) if x.key == "c2")
    assert rows_of(linear, group).ravel().tolist() == [3, 4, 5, 6, 7, 8]
    flags = flags_without(linear, group, np.array([0, 5]))
    assert np.flatnonzero(~flags).tolist() == [3, 8]
    other = one.coupling.by_name["b"]
    assert rows_of(linear, other).ravel().tolist() == list(range(9, 17))


def test_cells_lose_equally_many(ranked):
    r = next(r for r in ranked["grouped"].rankings if r.group.name == "a")
    assert r.levels.tolist() == [2, 4, 6, 8, 10, 12]
    rounds = r.group.cells[r.order].reshape(-1, 2)
    assert (np.sort(rounds, 1) == [0, 1]).all()


def test_a_grouped_convolution_is_one_block_diagonal_matrix():
    coupling = models.coupled(models.grouped())
    linear = coupling.linear(coupling.graph.producer["c1"])
    x = np.random.default_rng(0).normal(size=(7, 12 * 9))
    np.testing.assert_allclose(x @ dense(linear) + linear.offset, linear.apply(x))
    gram = selection.separated(linear, x.T @ x)
    assert not gram[:54, 54:].any()
    np.testing.assert_allclose(gram[54:, 54:], x[:, 54:].T @ x[:, 54:])


def test_between_levels_the_error_is_interpolated(monkeypatch):
    every = Ranked(models.mlp())
    monkeypatch.setattr(selection, "LEVELS", 5)
    some = Ranked(models.mlp())
    for a, b in zip(every.rankings, some.rankings, strict=True):
        np.testing.assert_array_equal(a.order, b.order)
        same = np.isclose(a.errors, b.errors, rtol=1e-9)
        assert same[0]
        assert same[-2:].all() or same[-1]
        assert 5 <= same.sum() < len(same)
        places = np.unique(np.linspace(0, len(a.levels) - 1, 5).round().astype(int))
        np.testing.assert_allclose(b.errors[places[:-1]], a.errors[places[:-1]])


@pytest.mark.parametrize(("rows", "expected"), [(0, 33), (1024, 33), (2304, 14), (4608, 9), (6000, 9)])
def test_wide_readers_are_judged_at_fewer_levels(rows, expected):
    levels = selection._thinned(np.arange(4, 513, 4), rows)
    assert len(levels) == expected
    assert (levels[0], levels[-1]) == (4, 512)
    assert selection._thinned(levels[:9], rows).tolist() == levels[:9].tolist()


def test_a_few_readers_tell_the_damping_of_many(ranked, monkeypatch):
    one, asked = ranked["heads"], []
    group = one.rankings[0].group
    linears = readers(one.coupling, group)
    problems = [selection.problem_of(linear, group, one.moments[linear.key]) for linear in linears]

    def damping(linear, *_):
        asked.append(linear.key)
        return float(len(asked))

    monkeypatch.setattr(selection, "_damping", damping)
    assert selection.dampings_of(linears, group, problems, one.moments) == [1, 2]
    found = selection.dampings_of(linears * 5, group, problems * 5, one.moments)
    assert found == [4] * 10
    assert asked[2:] == [linears[0].key, linears[0].key, linears[1].key]


def test_without_samples_to_choose_by_the_damping_is_the_default():
    one = Ranked(models.mlp(), tuned=0)
    linear = readers(one.coupling, one.groups[0])[0]
    assert selection._damping(linear, one.groups[0], one.moments["h1"][0].centred()[0], one.moments["h1"][0], None) == (
        DEFAULT_DAMPING
    )
    assert one.rankings[0].errors[-1] == 0


def test_doubled_channels_cost_next_to_nothing(monkeypatch):
    monkeypatch.setattr(fitting, "DAMPINGS", (1e-9,) * 6)
    model, keep = models.doubled(models.convs())
    one = Ranked(model)
    for r in one.rankings:
        half = len(keep[r.group.name])
        assert r.errors[half - 1] < 1e-6
        assert r.errors[0] > 0.01


# ---- What belongs to a group


@pytest.mark.parametrize(
    ("channels", "cells", "step", "smallest", "expected"),
    [
        (8, 1, 1, 1, [1, 2, 3, 4, 5, 6, 7, 8]),
        (8, 1, 4, 1, [4, 8]),
        (10, 1, 4, 1, [4, 8, 10]),
        (10, 1, 4, 5, [8, 10]),
        (10, 1, 4, 11, [10]),
        (3, 1, 4, 1, [3]),
        (12, 2, 1, 1, [2, 4, 6, 8, 10, 12]),
        (24, 6, 4, 1, [12, 24]),
        (12, 3, 2, 7, [12]),
    ],
)
def test_widths(channels, cells, step, smallest, expected):
    group = models.coupled(models.mlp((12, channels, 4))).groups[0]
    object.__setattr__(group, "cells", np.arange(channels) % cells)
    assert widths(group, step, smallest).tolist() == expected


def test_producer_weights_are_the_weights_and_biases_that_make_a_channel():
    coupling = models.coupled(models.residual("projection"))
    graph = coupling.graph
    stem, inner = coupling.by_name["stem"], coupling.by_name["one_a"]
    scale = graph.array("n2s") / np.sqrt(graph.array("n2v") + 1e-5)
    parts = [graph.array("w0").reshape(6, -1), graph.array("b0")[:, None], graph.array("w2").reshape(6, -1)]
    parts[2] = parts[2] * scale[:, None]
    shift = graph.array("n2b") - graph.array("n2m") * scale
    expected = np.concatenate([*parts, shift[:, None]], axis=1)
    np.testing.assert_allclose(producer_weights(coupling, stem), expected, rtol=1e-5)
    expected = np.column_stack([graph.array("w1").reshape(8, -1), graph.array("b1")])
    np.testing.assert_allclose(producer_weights(coupling, inner), expected)
    tokens = models.coupled(models.tokens())
    expected = np.column_stack([tokens.graph.array("w0").T, tokens.graph.array("b0")])
    np.testing.assert_allclose(producer_weights(tokens, tokens.groups[0]), expected)


def test_producer_weights_of_convolution_groups_and_recurrent_layers():
    grouped = models.coupled(models.grouped())
    expected = np.column_stack([grouped.graph.array("w1").reshape(8, -1), grouped.graph.array("b1")])
    np.testing.assert_allclose(producer_weights(grouped, grouped.by_name["b"]), expected)
    lstm = models.coupled(models.lstm())
    units = next(g for g in lstm.groups if g.channels == 5)
    expected = lstm.graph.array("w")[0].reshape(4, 5, 6).swapaxes(0, 1).reshape(5, -1)
    np.testing.assert_allclose(producer_weights(lstm, units), expected)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ("r = Relu(h)", True),
        ("r = LeakyRelu(h)", True),
        ("q = Abs(h)\nr = Identity(q)", True),
        ("r = Clip(h, zero, six)", True),
        ("r = Clip(h, one, six)", False),
        ("r = Sigmoid(h)", False),
        ("q = Relu(h)\nr = Add(q, shift)", False),
        ("q = Neg(h)\nr = Add(q, h)", True),
        ("q = Relu(h)\nr = Mul(q, h)", False),
        ("r = PRelu(h, shift)", False),
    ],
)
def test_what_passes_a_factor_on(between, expected):
    """What PRelu does to a factor depends on the channel, so one channel can't stand in for another."""
    weights = {"w0": (6, 6), "b": (6,), "w1": (6, 3), "shift": (6,), "zero": np.float32(0), "one": np.float32(1)}
    body = f"h = Gemm(x, w0, b)\n{between}\ny = Gemm(r, w1)"
    model = models.build("float[N,6] x", "float[N,3] y", body, weights | {"six": np.float32(1e6)})
    coupling = models.coupled(model)
    assert selection.passes_scale(coupling, coupling.groups[0]) == expected
    doubled = models.build("float[N,6] x", "float[N,3] y", body, weights | {"six": np.float32(1e6)})
    for t in doubled.graph.initializer:
        if t.name in ("w0", "b"):
            t.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(t), t.name))
    feed = models.feeds(model, 20, 20)[0]
    one, two = (models.values(m, feed, ["r"])["r"] for m in (model, doubled))
    assert np.allclose(two, 2 * one, atol=1e-5) == (expected or "PRelu" in between)


def test_depthwise_filters_pass_no_factor_on():
    coupling = models.coupled(models.depthwise())
    assert not selection.passes_scale(coupling, coupling.groups[0])


@NAMES
def test_without_data_the_errors_are_those_of_white_inputs(ranked, name):
    one = ranked[name]
    for r in one.rankings:
        rng = np.random.default_rng(0)
        blind = rank(one.coupling, r.group, None, find("l1"), widths(r.group, 1, 1), rng)
        assert blind.errors[-1] == 0
        assert not blind.trial
        for place in (0, len(blind.levels) // 2):
            removed = np.setdiff1d(np.arange(r.group.channels), blind.kept(int(blind.levels[place])))
            expected = 0.0
            for linear in readers(one.coupling, r.group):
                lost = dense(linear)[rows_of(linear, r.group)[removed].ravel()]
                expected += np.square(lost).sum() / np.square(linear.matrix).sum()
            assert blind.errors[place] == pytest.approx(expected)


def test_a_group_whose_reader_cannot_be_refitted_has_no_readers(monkeypatch):
    coupling = models.coupled(models.heads())
    group = coupling.by_name["a"]
    assert len(readers(coupling, group)) == 2
    monkeypatch.setattr("onnxprune.ops.linear.WIDEST", 11)
    assert readers(coupling, group) == []
    monkeypatch.undo()
    coupling._linears[group.writers[0] + 2] = None
    assert readers(coupling, group) == []


@pytest.mark.parametrize(
    ("levels", "errors", "place"),
    [
        ([5], [0], 0),
        ([1, 5, 10], [0.3, 0.1, 0], 1),
        ([1, 10], [0.3, 0], 0),
        ([8, 10], [0.3, 0], 0),
        ([2, 4, 6, 8, 10], [0.3, 0.2, 0.1, 0.1, 0], 1),
        ([1, 3, 5, 10], [0.3, 0.1, 1e-9, 0], 1),
        ([1, 3, 5, 10], [0, 0, 1e-9, 0], 2),
    ],
)
def test_the_middle_is_closest_to_half_of_what_costs_anything(levels, errors, place):
    group = models.coupled(models.mlp((4, levels[-1], 3))).groups[0]
    assert Ranking(group, np.arange(9), np.array(levels), np.array(errors), {}).middle == place


# ---- Probes


def probed(one, rankings=None, **options):
    signals = list(comparable(one.coupling.graph))
    rankings = one.rankings if rankings is None else rankings
    return probe(one.coupling, rankings, one.parts[1], signals, models.RUNTIME, **options), signals


def measured(one, ranking):
    """Relative squared change of the outputs when one group is really cut and its readers are refitted."""
    keep = {ranking.group.name: ranking.kept(int(ranking.levels[ranking.middle]))}
    removed = np.setdiff1d(np.arange(ranking.group.channels), keep[ranking.group.name])
    weights = {}
    for linear in readers(one.coupling, ranking.group):
        flags = flags_without(linear, ranking.group, removed)
        fit, tune = one.moments[linear.key]
        damping = selection._damping(linear, ranking.group, (fit + tune).centred()[0], fit, tune)
        weights[linear.key] = fitted(linear, flags, fit, damping)
    pruned = rewrite(one.coupling, Plan(keep, weights))
    change, power = {}, {}
    for feed in one.parts[1]:
        before, after = models.values(one.model, feed), models.values(pruned, feed)
        for name in before:
            change[name] = change.get(name, 0) + np.square(before[name] - after[name]).sum()
            power[name] = power.get(name, 0) + np.square(before[name]).sum()
    return sum(change[name] / power[name] for name in change)


@NAMES
def test_a_probed_curve_tells_the_change_of_the_models_answer(ranked, name):
    one, seen = ranked[name], []
    curves, signals = probed(one, progress=lambda done, total: seen.append((done, total)))
    assert set(signals) == set(one.coupling.graph.outputs)
    for r, curve in zip(one.rankings, curves, strict=True):
        np.testing.assert_array_equal(curve.levels, r.levels)
        assert curve.errors[r.middle] == pytest.approx(measured(one, r), rel=1e-3)
        np.testing.assert_allclose(curve.errors * r.errors[r.middle], r.errors * curve.errors[r.middle], atol=1e-12)
        assert curve.errors[-1] == 0
    assert seen == [(i + 1, len(curves)) for i in range(len(curves))]


def test_the_order_of_the_rankings_and_the_memory_do_not_matter(ranked):
    one = ranked["convs"]
    curves, _ = probed(one)
    turned, _ = probed(one, one.rankings[::-1], max_memory=0)
    for a, b in zip(curves, turned[::-1], strict=True):
        np.testing.assert_array_equal(a.errors, b.errors)


def silenced(model, first):
    """The model with all channels of its first layer dead from number `first` on."""
    for t in model.graph.initializer:
        if t.name in ("w0", "b0"):
            array = np.frombuffer(t.raw_data, np.float32).copy().reshape(16, -1)
            array[first:] = 0
            t.raw_data = array.tobytes()
    return model


def test_the_scale_is_not_taken_where_only_dead_channels_are_gone():
    one = Ranked(silenced(models.mlp(), 6))
    r = one.rankings[0]
    assert r.errors[7] < 1e-20
    assert r.levels[r.middle] == 5
    curves, _ = probed(one)
    assert curves[0].errors[r.middle] == pytest.approx(measured(one, r), rel=1e-3)
    assert curves[0].errors.max() < 10


def test_what_costs_nothing_needs_no_scale():
    one = Ranked(silenced(models.mlp(), 1))
    r = one.rankings[0]
    assert r.errors.max() < 1e-20
    assert r.levels[r.middle] == 8
    curves, _ = probed(one)
    np.testing.assert_array_equal(curves[0].errors, r.errors)
    assert (curves[1].errors != one.rankings[1].errors).any()


def test_an_answer_that_is_always_zero_has_no_change():
    model = models.mlp()
    for t in model.graph.initializer:
        if t.name in ("w2", "b2"):
            t.raw_data = bytes(len(t.raw_data))
    curves, _ = probed(Ranked(model))
    assert not curves[0].errors.any()
