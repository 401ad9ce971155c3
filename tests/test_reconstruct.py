"""New weights against plain least squares, and whole networks against what they should still compute."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from onnxprune import fitting, reconstruct
from onnxprune.fitting import (
    DAMPINGS,
    DEFAULT_DAMPING,
    FAINT,
    choose_damping,
    error_on,
    fitted,
    kept_rows,
    masked,
    refit,
    with_mean,
)
from onnxprune.graph import Graph
from onnxprune.ops.linear import describe
from onnxprune.plan import Plan, Weights
from onnxprune.reconstruct import front_to_back, refit_ahead
from onnxprune.rewrite import rewrite, twin
from onnxprune.statistics import Moments, collect
from onnxprune.walk import Walk, layers_in_order

TINY = 1e-11


def layer(name, key):
    coupling = models.coupled(models.ALL[name]())
    return next(linear for linear in layers_in_order(coupling) if linear.key == key)


LAYERS = [("mlp", "h1"), ("convs", "c2"), ("grouped", "c1"), ("tokens", "d"), ("transposed", "c1")]


def sampled(linear, seed, count=400, targets=False, noise=1.0):
    """Rows of a layer, correlated and off centre, and targets that aren't quite its output."""
    rng = np.random.default_rng(seed)
    size = linear.channels * linear.taps
    basis = np.random.default_rng(99).normal(size=(size, size)) / np.sqrt(size)
    x = (rng.normal(size=(count, size)) @ (basis + 0.5 * np.eye(size)) + 0.5).astype(np.float32)
    y = linear.apply(x)
    if targets:
        y += noise * (0.3 * np.tanh(x[:, :1]) + 0.2 * rng.normal(size=y.shape) + 0.1).astype(np.float32)
    moments = Moments.starting_with(x, y if targets else None)
    moments.add(x, y if targets else None)
    return x.astype(np.float64), y.astype(np.float64), moments


def random_flags(linear, seed):
    """Half of the channels of every convolution group, at random."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.arange(n) < max(1, n // 2)) for n in
                           [linear.channels // linear.conv_group] * linear.conv_group])  # fmt: skip


def by_lstsq(linear, flags, x, y):
    """Least squares with an intercept, per convolution group."""
    groups, n, o = linear.matrix.shape
    matrices, offsets = np.zeros_like(linear.matrix), np.zeros(groups * o)
    for g, rows in enumerate(kept_rows(linear, flags)):
        columns = slice(g * o, (g + 1) * o)
        design = np.column_stack([x[:, g * n + rows], np.ones(len(x))])
        found = np.linalg.lstsq(design, y[:, columns], rcond=None)[0]
        matrices[g][rows], offsets[columns] = found[:-1], found[-1]
    return Weights(matrices, offsets)


def residual_of(linear, weights, x, y):
    return np.square(y - linear.apply(x, weights.matrix, weights.offset)).sum()


# ---- One layer


@pytest.mark.parametrize(("name", "key"), LAYERS)
@pytest.mark.parametrize("targets", [False, True])
def test_a_fit_is_least_squares_with_an_intercept(name, key, targets):
    linear = layer(name, key)
    x, y, moments = sampled(linear, 1, targets=targets)
    flags = random_flags(linear, 2)
    assert 0 < flags.sum() < len(flags)
    found, expected = fitted(linear, flags, moments, TINY), by_lstsq(linear, flags, x, y)
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=2e-4)
    np.testing.assert_allclose(found.offset, expected.offset, atol=2e-4)
    gone = ~np.repeat(flags, linear.taps).reshape(linear.conv_group, -1)
    assert not found.matrix[gone].any()


@pytest.mark.parametrize(("name", "key"), LAYERS)
@pytest.mark.parametrize("damping", DAMPINGS)
def test_with_all_channels_the_weights_come_back(name, key, damping):
    linear = layer(name, key)
    _, _, moments = sampled(linear, 3)
    found = fitted(linear, np.ones(linear.channels, bool), moments, damping)
    np.testing.assert_allclose(found.matrix, linear.matrix, atol=1e-9)
    np.testing.assert_allclose(found.offset, linear.offset, atol=1e-9)
    assert error_on(linear, found, moments) < 1e-12


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize(("name", "key"), LAYERS)
def test_the_error_is_that_of_the_rows_relative_to_the_targets_variance(name, key, targets):
    linear = layer(name, key)
    x, y, moments = sampled(linear, 4, targets=targets)
    weights = fitted(linear, random_flags(linear, 5), sampled(linear, 6, targets=targets)[2], 0.1)
    expected = residual_of(linear, weights, x, y) / np.square(y - y.mean(0)).sum()
    assert error_on(linear, weights, moments) == pytest.approx(expected, rel=1e-4)


def test_a_target_that_never_varies_has_no_error():
    linear = layer("mlp", "h1")
    rows = np.ones((5, linear.channels), np.float32)
    moments = Moments.starting_with(rows)
    moments.add(rows)
    assert error_on(linear, masked(linear, np.ones(linear.channels, bool)), moments) == 0.0


@settings(max_examples=20)
@given(st.sampled_from(LAYERS), st.integers(0, 1000))
def test_masked_weights_are_the_old_ones_of_kept_channels(which, seed):
    linear = layer(*which)
    flags = random_flags(linear, seed)
    x, _, _ = sampled(linear, seed, 7)
    weights = masked(linear, flags)
    silenced = x * np.repeat(flags, linear.taps)
    np.testing.assert_allclose(linear.apply(x, weights.matrix, weights.offset), linear.apply(silenced), atol=1e-9)


@settings(max_examples=20)
@given(st.sampled_from(LAYERS), st.integers(0, 1000))
def test_a_bias_makes_up_for_the_mean_of_what_is_gone(which, seed):
    linear = layer(*which)
    flags = random_flags(linear, seed)
    x, y, moments = sampled(linear, seed, 50)
    weights = with_mean(linear, flags, moments.mean)
    np.testing.assert_array_equal(weights.matrix, masked(linear, flags).matrix)
    found = linear.apply(x, weights.matrix, weights.offset)
    np.testing.assert_allclose(found.mean(0), y.mean(0), atol=1e-5)
    assert np.abs(linear.apply(x, weights.matrix).mean(0) - y.mean(0)).max() > 1e-3


# ---- Damping


def test_the_damping_is_the_best_on_samples_that_were_not_fitted():
    linear = layer("convs", "c2")
    flags = random_flags(linear, 1)
    fit, tune = sampled(linear, 7, 60)[2], sampled(linear, 8, 60)[2]
    errors = [error_on(linear, fitted(linear, flags, fit, damping), tune) for damping in DAMPINGS]
    damping, error = choose_damping(linear, flags, fit, tune)
    assert error == min(errors)
    assert damping == DAMPINGS[int(np.argmin(errors))]


def test_few_samples_want_more_damping():
    linear = layer("convs", "c2")
    flags = random_flags(linear, 1)
    tune = sampled(linear, 9, 2000, targets=True, noise=3)[2]
    chosen = [
        choose_damping(linear, flags, sampled(linear, 10, count, targets=True, noise=3)[2], tune)[0]
        for count in (20000, 200, 50)
    ]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]


@pytest.mark.parametrize("faint", [1e-4, 1e-6])
def test_what_hardly_varies_in_the_samples_gets_no_large_weights(faint):
    """As behind a gate that is shut on these few samples: on others it opens."""
    linear = layer("mlp", "h1")
    x, y, _ = sampled(linear, 1, 12, targets=True)
    flags = random_flags(linear, 1)
    shut, *_ = np.flatnonzero(flags)
    x[:, shut] *= faint
    moments = Moments.starting_with(x.astype(np.float32), y.astype(np.float32))
    moments.add(x.astype(np.float32), y.astype(np.float32))
    for damping in DAMPINGS:
        found = np.abs(fitted(linear, flags, moments, damping).matrix[0])
        assert found[shut].max() < np.delete(found, shut, 0).max() / (2 * np.sqrt(damping * FAINT))


@pytest.mark.parametrize("tune", [None, "empty"])
def test_without_samples_to_choose_by_the_damping_is_the_default(tune):
    linear = layer("mlp", "h1")
    flags = random_flags(linear, 1)
    x, y, fit = sampled(linear, 1)
    tune = Moments(fit.shift, fit.target_shift) if tune else None
    found = refit(linear, flags, fit, tune)
    assert found.damping == DEFAULT_DAMPING
    expected = fitted(linear, flags, fit, DEFAULT_DAMPING)
    np.testing.assert_allclose(found.weights.matrix, expected.matrix)
    assert found.error == pytest.approx(residual_of(linear, expected, x, y) / np.square(y - y.mean(0)).sum(), rel=1e-4)


def test_the_last_fit_uses_all_samples():
    linear = layer("mlp", "h1")
    flags = random_flags(linear, 1)
    x, y, fit = sampled(linear, 1)
    tune = Moments(fit.shift, fit.target_shift)
    other, _, _ = sampled(linear, 2)
    tune.add(other.astype(np.float32))
    found = refit(linear, flags, fit, tune)
    both = np.concatenate([x, other])
    whole = Moments.starting_with(both.astype(np.float32))
    whole.add(both.astype(np.float32))
    np.testing.assert_allclose(found.weights.matrix, fitted(linear, flags, whole, found.damping).matrix, atol=1e-5)
    assert found.error == error_on(linear, fitted(linear, flags, fit, found.damping), tune)
    assert len(y) == 400


# ---- Whole networks


def front(model, keep, count=160, tuned=40, **options):
    coupling = models.coupled(model)
    parts = [models.feeds(model, count, 20, seed=1), models.feeds(model, tuned, 20, seed=2) if tuned else []]
    ahead = refit_ahead(coupling, keep, parts, count + tuned, models.RUNTIME)
    return coupling, front_to_back(coupling, keep, parts, count + tuned, models.RUNTIME, ahead=ahead, **options)


def error_at(coupling, keep, weights, name, seed=3):
    """Relative squared error of a value of the pruned network, on samples of its own."""
    feed = models.feeds(coupling.graph.model, 100, 100, seed)[0]
    a = models.values(coupling.graph.model, feed, [name])[name].astype(np.float64)
    b = models.values(twin(coupling, Plan(keep, weights)), feed, [name])[name].astype(np.float64)
    return np.square(a - b).sum() / np.square(a - a.mean(0)).sum()


def halved(coupling, streams=False):
    """Keep what comes first in every cell."""
    return {g.name: np.sort(models.halves(g)[0]) for g in coupling.groups if streams or not g.stream}


def locally(model, keep, mode="local", count=160):
    """Every reader by itself, on the original's inputs."""
    coupling = models.coupled(model)
    mask, weights = coupling.mask(keep), {}
    linears = layers_in_order(coupling)
    moments = collect(coupling.graph, linears, [models.feeds(model, count, 20, seed=1)], count, models.RUNTIME)
    for linear in linears:
        flags = mask.of(coupling.notes.readers[linear.index])
        if not flags.all():
            fit = moments[linear.key][0]
            local = refit(linear, flags, fit, None).weights
            weights[linear.key] = local if mode == "local" else with_mean(linear, flags, fit.mean)
    return weights


@pytest.mark.parametrize("name", models.ALL)
def test_keeping_everything_changes_nothing(name):
    model = models.ALL[name]()
    seen = []
    keep = {g.name: np.arange(g.channels) for g in models.coupled(model).groups}
    coupling, refits = front(model, keep, 8, 4, progress=lambda done, total: seen.append((done, total)))
    assert refits == {}
    total = len(layers_in_order(coupling))
    assert seen == [(i + 1, total) for i in range(total)]


@pytest.mark.parametrize("name", models.ALL)
def test_doubled_channels_go_without_a_loss(name, monkeypatch):
    """What is left takes over for its copies, whatever the layer that reads it."""
    monkeypatch.setattr(fitting, "DAMPINGS", tuple(TINY * np.ones(6)))
    model, keep = models.doubled(models.ALL[name]())
    assert keep
    coupling, refits = front(model, keep)
    read = {coupling.linear(i).key for name in keep for i in coupling.by_name[name].reads}
    assert read <= set(refits)
    pruned = rewrite(coupling, Plan(keep, {k: r.weights for k, r in refits.items()}))
    feed = models.feeds(model, 20, 20, seed=5)[0]
    for output, expected in models.values(model, feed).items():
        error = np.abs(models.values(pruned, feed)[output] - expected).max()
        assert error <= 1e-4 * np.sqrt(np.square(expected).mean()), output
    plain = models.values(rewrite(coupling, Plan(keep)), feed)
    assert any(np.abs(plain[o] - v).max() > 0.01 * v.std() for o, v in models.values(model, feed).items())


@pytest.mark.parametrize("name", models.ALL)
def test_every_mode_is_better_than_the_one_before(name):
    model = models.ALL[name]()
    coupling = models.coupled(model)
    keep = halved(coupling)
    output = coupling.graph.outputs[-1]
    _, refits = front(model, keep)
    ls = error_at(coupling, keep, {k: r.weights for k, r in refits.items()}, output)
    mean = error_at(coupling, keep, locally(model, keep, "mean"), output)
    none = error_at(coupling, keep, {}, output)
    assert ls < mean < none
    assert ls < 0.6 * none


def test_layers_whose_input_has_drifted_are_refitted_and_no_others():
    model = models.residual()
    keep = {"one_a": np.arange(4)}
    _, refits = front(model, keep)
    assert set(refits) == {"a2", "a3", "a4", "y"}
    coupling = models.coupled(model)
    some = {k: r.weights for k, r in refits.items() if k == "a2"}
    assert error_at(coupling, keep, {k: r.weights for k, r in refits.items()}, "y") < error_at(
        coupling, keep, some, "y"
    )


def test_without_samples_to_choose_by_it_still_works():
    model = models.convs()
    coupling, refits = front(model, {"conv1": np.arange(4)}, tuned=0)
    assert {r.damping for r in refits.values()} == {DEFAULT_DAMPING}
    weights = {k: r.weights for k, r in refits.items()}
    assert error_at(coupling, {"conv1": np.arange(4)}, weights, "y") < 0.5


def test_the_error_told_is_that_on_samples_that_were_not_fitted():
    model = models.tokens()
    keep = {"up": np.arange(7)}
    coupling, refits = front(model, keep, 160, 400)
    weights = {k: r.weights for k, r in refits.items()}
    assert refits["d"].error == pytest.approx(error_at(coupling, keep, weights, "y"), rel=0.15)


def test_layers_that_are_too_wide_are_left_as_they_are(monkeypatch):
    model = models.mlp()
    _, refits = front(model, {"fc0": np.arange(8)})
    assert set(refits) == {"h1", "y"}
    monkeypatch.setattr("onnxprune.ops.linear.WIDEST", 15)
    _, refits = front(model, {"fc0": np.arange(8), "fc1": np.arange(5)})
    assert set(refits) == {"y"}


def test_rows_that_do_not_fit_into_memory_are_gathered_again(monkeypatch):
    model = models.convs()
    keep = halved(models.coupled(model))
    _, expected = front(model, keep)
    monkeypatch.setattr(reconstruct, "ROWS_HELD", 0.0)
    _, found = front(model, keep, max_memory=1e4)
    for key, one in expected.items():
        np.testing.assert_array_equal(found[key].weights.matrix, one.weights.matrix)


def test_a_seed_makes_it_reproducible():
    model = models.convs()
    keep = halved(models.coupled(model))
    first, again, other = (front(model, keep, 2000, 100, seed=seed)[1]["c2"].weights.matrix for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# ---- Shortcuts


@pytest.mark.parametrize("shortcut", ["identity", "projection", "option_a"])
def test_a_branch_absorbs_what_its_shortcut_has_drifted(shortcut, monkeypatch):
    model = models.residual(shortcut)
    coupling = models.coupled(model)
    keep = halved(coupling)

    def error(weights):
        return error_at(coupling, keep, weights, "sum")

    absorbed = error({k: r.weights for k, r in front(model, keep)[1].items()})
    local = error(locally(model, keep))
    monkeypatch.setattr(reconstruct, "_shortcut", lambda walk, linear: "")
    ignored = error({k: r.weights for k, r in front(model, keep)[1].items()})
    assert absorbed < 0.97 * ignored
    assert absorbed < 0.9 * local


def two_branches():
    """A sum of two branches of equal depth."""
    body = """
        [a] h = Gemm(x, w0)
        r = Relu(h)
        [b] k = Gemm(x, w1)
        q = Relu(k)
        [one] s = Gemm(r, w2)
        [two] g = Gemm(q, w3)
        sum = Add(g, s)
        y = Gemm(sum, w4)"""
    weights = {"w0": (6, 12), "w1": (6, 12), "w2": (12, 8), "w3": (12, 8), "w4": (8, 4)}
    return models.build("float[N,6] x", "float[N,4] y", body, weights)


def test_a_branch_of_which_nothing_is_gone_makes_up_for_the_other_if_that_helps(monkeypatch):
    model, keep = two_branches(), {"a": np.arange(4)}
    coupling, refits = front(model, keep)
    assert set(refits) == {"s", "g", "y"}
    weights = {key: found.weights for key, found in refits.items() if key != "y"}
    alone = {"s": weights["s"]}
    assert error_at(coupling, keep, weights, "sum") < 0.9 * error_at(coupling, keep, alone, "sum")
    monkeypatch.setattr(reconstruct, "error_as_it_is", lambda linear, moments: 0.0)
    plain = front(model, keep)[1]
    assert set(plain) == {"s", "g", "y"}  # what is written doesn't depend on it but for numbers
    for name in ("g", "y"):
        np.testing.assert_array_equal(plain[name].weights.matrix, coupling.layers[name].matrix)
        np.testing.assert_array_equal(plain[name].weights.offset, coupling.layers[name].offset)


def test_at_channel_level_a_layer_of_which_nothing_is_gone_is_refitted_if_that_helps():
    coupling = replace(models.coupled(models.residual()), granularity="channel")
    group = next(g for g in coupling.groups if not g.stream)
    keep = {group.name: np.arange(5)}
    parts = [models.feeds(coupling.graph.model, n, 20, seed=n) for n in (160, 40)]
    weights = {k: r.weights for k, r in front_to_back(coupling, keep, parts, 200, models.RUNTIME).items()}
    needed = {one.key: weights[one.key] for one in layers_in_order(coupling) if one.index in group.reads}
    assert set(weights) > set(needed)
    assert error_at(coupling, keep, weights, "y") < error_at(coupling, keep, needed, "y")


def looked_up(model, key, names, renew=None):
    """What `_shortcut` and `_activation` say of a layer, with a change in the first layer."""
    coupling = models.coupled(model)
    layers = layers_in_order(coupling)
    linear = next(one for one in layers if one.key == key)
    with Walk(coupling, models.feeds(model, 4), models.RUNTIME) as walk:
        first = layers[0]
        walk.renew(first, Weights(first.matrix * 1.1, first.offset))
        walk.advance(linear.index)
        return reconstruct._shortcut(walk, linear), reconstruct._activation(walk, linear)


def sums(text, **weights):
    body = "[a] h = Gemm(x, w0)\nr = Relu(h)\n" + text
    return models.build("float[N,6] x", "float[N,K] y", body, {"w0": (6, 6), "w1": (6, 6)} | weights)


@pytest.mark.parametrize(
    ("text", "shortcut", "bounds"),
    [
        ("g = Gemm(r, w1)\nz = Add(g, r)\ny = Relu(z)", "r", None),
        ("g = Gemm(r, w1)\nz = Add(r, g)\ny = Relu(z)", "r", None),
        ("g = Gemm(r, w1)\nz = Add(g, x)\ny = Relu(z)", "", None),  # it hasn't drifted
        ("g = Gemm(r, w1)\nz = Add(g, g)\ny = Relu(z)", "", None),
        ("g = Gemm(r, w1)\ny = Add(g, one)\n", "", None),  # a tail
        ("g = Gemm(r, w1)\nz = Sub(g, r)\ny = Relu(z)", "", None),
        ("g = Gemm(r, w1)\nq = ReduceMax<axes=[1]>(r)\nz = Add(g, q)\ny = Relu(z)", "", None),  # repeated over channels
        ("g = Gemm(r, w1)\nz = Add(g, r)\nu = Neg(g)\ny = Add(z, u)", "", None),  # read twice
        ("g = Gemm(r, w1)\ny = Relu(g)", "", (0.0, np.inf)),
        ("g = Gemm(r, w1)\na = Relu(g)\nb = Relu(g)\ny = Mul(a, b)", "", (0.0, np.inf)),
        ("g = Gemm(r, w1)\na = Relu(g)\nb = Clip(g, zero, six)\ny = Mul(a, b)", "", None),
        ("g = Gemm(r, w1)\ny = Clip(g, zero, six)", "", (0.0, 6.0)),
        ("g = Gemm(r, w1)\ny = Sigmoid(g)", "", None),
    ],
)
def test_what_comes_behind_a_layer(text, shortcut, bounds):
    model = sums(text, one=np.ones(6), zero=np.float32(0), six=np.float32(6))
    key = "y" if "one)" in text else "g"
    if key == "y":
        coupling = models.coupled(model)
        assert coupling.linear(2).output == "y"
        return
    assert looked_up(model, "g", []) == (shortcut, bounds)


def test_an_output_of_the_model_is_fitted_as_it_is():
    model = models.build("float[N,6] x", "float[N,6] g, float[N,6] y", "h = Gemm(x, w0)\nr = Relu(h)\n"
                         "g = Gemm(r, w1)\nz = Relu(g)\ny = Add(z, r)", {"w0": (6, 6), "w1": (6, 6)})  # fmt: skip
    assert looked_up(model, "g", []) == ("", None)
    model = models.build("float[N,6] x", "float[N,6] g, float[N,6] y", "h = Gemm(x, w0)\nr = Relu(h)\n"
                         "g = Gemm(r, w1)\ny = Add(g, r)", {"w0": (6, 6), "w1": (6, 6)})  # fmt: skip
    assert looked_up(model, "g", []) == ("", None)


# ---- Steps behind an activation


@pytest.mark.parametrize("made", [models.convs, lambda: models.convs(clip=True), models.mlp])
@pytest.mark.parametrize("tuned", [40, 0])
def test_the_step_that_is_taken_is_the_best_on_held_out_samples(made, tuned, monkeypatch):
    """All samples are fitted at last, with the targets that did best on the held-out ones, so all steps are seen."""
    model, errors = made(), []
    error = reconstruct._Layer._error_behind
    monkeypatch.setattr(
        reconstruct._Layer, "_error_behind", lambda self, weights: errors.append(error(self, weights)) or errors[-1]
    )
    coupling, taken = front(model, halved(models.coupled(model)), tuned=tuned)
    key = layers_in_order(coupling)[1].key
    assert len(errors) % 4 == 0
    monkeypatch.setattr(reconstruct, "POEM_STEPS", 0)
    _, plain = front(model, halved(models.coupled(model)), tuned=tuned)
    better = min(errors[:4]) < errors[0]
    assert better == (not np.array_equal(taken[key].weights.matrix, plain[key].weights.matrix))
    assert better or made is not models.convs


def test_without_a_better_step_plain_least_squares_stays(monkeypatch):
    monkeypatch.setattr(reconstruct._Layer, "_error_behind", lambda self, weights: 1.0)
    model = models.convs()
    _, found = front(model, {"conv1": np.arange(4)})
    monkeypatch.setattr(reconstruct, "POEM_STEPS", 0)
    _, plain = front(model, {"conv1": np.arange(4)})
    np.testing.assert_array_equal(found["c2"].weights.matrix, plain["c2"].weights.matrix)


def test_the_steps_are_worth_it_on_samples_of_their_own(monkeypatch):
    for seed in range(3):
        found = []
        for steps in (0, 3):
            monkeypatch.setattr(reconstruct, "POEM_STEPS", steps)
            model = models.convs(seed=seed)
            keep = {"conv1": np.arange(4)}
            coupling, refits = front(model, keep, 400, 100)
            found.append(error_at(coupling, keep, {k: r.weights for k, r in refits.items()}, "r2"))
        assert found[1] < found[0]


def test_targets_beyond_the_cut_are_what_the_layer_gives_there():
    """Below the cut anything below it is right, above it anything above."""
    layer = object.__new__(reconstruct._Layer)
    y = np.array([[-1.0, -1.0, 0.5, 3.0, 3.0]], np.float32)
    predicted = np.array([[-7.0, 4.0, 9.0, 1.0, 8.0]], np.float32)
    layer.rows, layer._predicted = (lambda batch: (None, y)), (lambda x, weights: predicted)
    layer.bounds = 0.0, 2.0
    np.testing.assert_array_equal(layer._relaxed(0, None)[1], [[-7.0, 0.0, 0.5, 2.0, 8.0]])
    layer.bounds = 0.0, np.inf
    np.testing.assert_array_equal(layer._relaxed(0, None)[1], [[-7.0, 0.0, 0.5, 3.0, 3.0]])


def test_depthwise_layers_are_no_readers():
    coupling = models.coupled(models.depthwise())
    assert describe(Graph(coupling.graph.model), 3) is not None
    assert [linear.key for linear in layers_in_order(coupling)] == ["c0", "c2"]


# ---- Survivors that take over


@pytest.mark.parametrize("name", ["mlp", "convs", "grouped", "tokens"])
def test_what_is_taken_over_is_the_layer_on_inputs_that_stand_in(name):
    """The new weights on the survivors' rows give what the old ones give on x_gone = factor * x_survivor."""
    coupling = models.coupled(models.ALL[name]())
    group = next(g for g in coupling.groups if not g.stream)
    linear = coupling.linear(next(iter(group.reads)))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, linear.channels * linear.taps)) + 1
    index = group.reads[linear.index][:, 0]
    cells = [np.flatnonzero(group.cells == c) for c in range(group.cells.max() + 1)]
    gone, to = np.concatenate([c[:2] for c in cells]), np.concatenate([c[[-1, -1]] for c in cells])
    factor = rng.normal(size=len(gone))
    rows = (index[:, None] * linear.taps + np.arange(linear.taps)).astype(np.int64)
    flags = np.ones(linear.channels, bool)
    flags[index[gone]] = False
    stand_in = x.copy()
    for i, j, a in zip(gone, to, factor, strict=True):
        stand_in[:, rows[i]] = a * x[:, rows[j]]
    found = fitting.taken_over(linear, flags, [(rows[gone], rows[to], factor)], None)
    kept = x * np.repeat(flags, linear.taps)
    np.testing.assert_allclose(linear.apply(kept, found.matrix, found.offset), linear.apply(stand_in), atol=1e-9)
    level = fitting.taken_over(linear, flags, [(rows[gone], rows[to], factor)], x.mean(0))
    np.testing.assert_allclose(level.matrix, found.matrix)
    np.testing.assert_allclose(linear.apply(kept, level.matrix, level.offset).mean(0), linear.apply(x).mean(0))


def test_nothing_moves_between_convolution_groups():
    coupling = models.coupled(models.grouped())
    linear = coupling.linear(coupling.graph.producer["c1"])
    rows = np.arange(12 * 9).reshape(12, 9)
    flags = np.ones(12, bool)
    flags[0] = False
    found = fitting.taken_over(linear, flags, [(rows[[0]], rows[[11]], np.array([2.0]))], None)
    np.testing.assert_array_equal(found.matrix, fitting.masked(linear, flags).matrix)


def test_a_sum_of_branches_of_equal_depth_is_fitted_to():
    """The first one ends in a bias behind its layer, which the last layer of the second finds renewed and drifted."""
    body = """
        v = MatMul(x, w1)
        m = MatMul(v, w2)
        a = Add(m, b2)
        h = MatMul(x, w3)
        r = Relu(h)
        c = MatMul(r, w4)
        s = Add(a, c)
        y = MatMul(s, w5)"""
    weights = {"w1": (6, 8), "w2": (8, 5), "b2": (5,), "w3": (6, 8), "w4": (8, 5), "w5": (5, 3)}
    model = models.build("float[N,6] x", "float[N,3] y", body, weights)
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    coupling = models.coupled(model)
    keep = {name: np.arange(6) for name in ("v", "h")}
    found = front_to_back(coupling, keep, [[{"x": x}]], 60, models.RUNTIME)
    assert {"m", "c"} <= found.keys()
    pruned = rewrite(coupling, Plan(keep, {name: one.weights for name, one in found.items()}))
    error = [models.values(m, {"x": x})["y"] for m in (model, pruned)]
    assert np.square(error[0] - error[1]).sum() < 0.3 * np.square(error[0]).sum()
