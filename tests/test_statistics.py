"""Moments against NumPy, and rows gathered in the graph against patches cut out by hand."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from onnxprune.graph import Graph
from onnxprune.ops.linear import describe
from onnxprune.statistics import Moments, collect, draw, gathering, moments_bytes, positions_wanted, sized
from onnxprune.walk import layers_in_order

NAMES = ("total", "square", "target_total", "cross", "power")


def rows(seed, count=50, n=6, o=3, offset=0.0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(count, n)) @ rng.normal(size=(n, n)) + offset).astype(np.float32)
    return x, (np.tanh(x[:, :o]) + rng.normal(size=(count, o)) + offset).astype(np.float32)


def summed(x, y, parts):
    moments = None
    for part in np.array_split(np.arange(len(x)), parts):
        moments = moments or Moments.starting_with(x[part], None if y is None else y[part])
        moments.add(x[part], None if y is None else y[part])
    return moments


def close(found, expected, tolerance=1e-5):
    scale = np.abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=0)


# ---- Sums


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 7), st.sampled_from([0.0, 5.0]))
def test_moments_are_those_of_the_joined_rows_about_any_mean(seed, parts, offset):
    x, y = rows(seed, offset=offset)
    moments = summed(x, y, parts)
    x, y = x.astype(np.float64), y.astype(np.float64)
    assert moments.count == len(x)
    close(moments.mean, x.mean(0))
    close(moments.target_mean, y.mean(0))
    rng = np.random.default_rng(seed + 1)
    for m, t in ((x.mean(0), y.mean(0)), (rng.normal(size=6), rng.normal(size=3)), (np.zeros(6), np.zeros(3))):
        gram, cross, power = moments.about(m, t)
        close(gram, (x - m).T @ (x - m) / len(x))
        close(cross, (x - m).T @ (y - t) / len(x))
        close(power, np.square(y - t).mean(0))
    for found, again in zip(moments.centred(), moments.about(moments.mean, moments.target_mean), strict=True):
        np.testing.assert_array_equal(found, again)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 8))
def test_few_rows_are_kept_and_all_is_as_with_sums(seed, first, second):
    """Up to as many rows as columns; sums of parts, some columns, and what weights make of them."""
    x, _ = rows(seed, first + second)
    one, other = summed(x[:first], None, 1), Moments.starting_with(x[:first])
    other.add(x[first:])
    both = one + other
    for moments, count in ((one, first), (other, second), (both, first + second)):
        assert (moments.products.rows is not None) == (count <= 6)
    upper = np.triu_indices(3)
    weights, part = np.random.default_rng(seed).normal(size=(3, 2)), slice(2, 5)
    exact = x.astype(np.float64) - both.mean
    gram = exact.T @ exact / len(x)
    close(both.gram_about(both.mean), gram)
    close(both.upper_about(both.mean, np.array([0, 3, 4]))[upper], gram[np.ix_([0, 3, 4], [0, 3, 4])][upper])
    assert both.upper_about(both.mean, np.zeros(0, int)).shape == (0, 0)
    close(both.variances, np.diagonal(gram))
    close(both.own_cross(weights, part), gram[part, part] @ weights)
    close(both.variance(weights, part), np.square(exact[:, part] @ weights).mean(0))


def test_a_gram_matrix_is_symmetric():
    gram, _, _ = summed(*rows(3), 4).centred()
    np.testing.assert_array_equal(gram, gram.T)


def test_sums_about_different_shifts_add_up():
    x, y = rows(1), rows(2, offset=3.0)
    one, other, both = (Moments.starting_with(z[0]) for z in (x, y, x))
    one.add(x[0])
    other.add(y[0])
    both.add(x[0])
    both.add(y[0])
    merged = one + other
    assert merged.count == 100
    np.testing.assert_allclose(merged.mean, both.mean, atol=1e-5)
    np.testing.assert_allclose(merged.gram_about(merged.mean), both.gram_about(both.mean), rtol=1e-4, atol=1e-4)


def test_without_targets_there_are_no_sums_of_targets():
    x, _ = rows(1)
    moments = summed(x, None, 3)
    gram, cross, power = moments.centred()
    close(gram, np.cov(x.astype(np.float64).T, bias=True))
    assert cross.shape == (6, 0)
    assert power.shape == moments.target_mean.shape == (0,)


def test_nothing_added_is_no_division_by_zero():
    moments = Moments(np.ones(2, np.float32), np.zeros(1, np.float32))
    np.testing.assert_array_equal(moments.mean, [1, 1])
    np.testing.assert_array_equal(moments.centred()[0], np.zeros((2, 2)))


@given(st.integers(0, 1000), st.integers(1, 49))
@settings(max_examples=20)
def test_the_sum_of_two_parts_is_exactly_what_one_pass_over_both_gives(seed, cut):
    x, y = rows(seed)
    first, both = (Moments.starting_with(x, y) for _ in range(2))
    second = Moments(first.shift, first.target_shift)
    first.add(x[:cut], y[:cut])
    second.add(x[cut:], y[cut:])
    both.add(x[:cut], y[:cut])
    both.add(x[cut:], y[cut:])
    merged = first + second
    assert merged.count == 50
    for name in NAMES:
        np.testing.assert_array_equal(getattr(merged, name), getattr(both, name))


def test_memory_does_not_depend_on_the_number_of_rows():
    def size(count):
        return sum(getattr(summed(*rows(0, count), 1), name).nbytes for name in NAMES)

    assert size(10) == size(5000)


@pytest.mark.parametrize("offset", [10.0, 1000.0])
def test_a_large_mean_does_not_spoil_the_covariance(offset):
    x, y = rows(5, 400)
    near, far = (summed((x + c).astype(np.float32), (y + c).astype(np.float32), 4) for c in (0, offset))
    for found, expected in zip(far.centred(), near.centred(), strict=True):
        close(found, expected, 1e-3)
    uncentred = ((x + offset).T @ (x + offset)) / len(x) - np.outer((x + offset).mean(0), (x + offset).mean(0))
    if offset == 1000:
        assert np.abs(uncentred - near.centred()[0]).max() > 0.05  # what float32 without a shift would give


def test_retargeted_keeps_the_rows_and_makes_the_targets_anew():
    x, y = rows(2)
    other = np.sin(y)
    moments = summed(x, y, 2).retargeted((x[part], other[part]) for part in (slice(20), slice(20, 50)))
    expected = Moments(moments.shift, moments.target_shift)
    expected.add(x, other)
    assert moments.count == 50
    for name in NAMES:
        close(getattr(moments, name), getattr(expected, name))


# ---- Positions


def test_positions_are_different_and_ascending_and_all_where_there_are_few():
    rng = np.random.default_rng(0)
    assert draw(rng, 5, 9).tolist() == [0, 1, 2, 3, 4]
    drawn = draw(rng, 50, 9)
    assert len(set(drawn.tolist())) == 9
    assert (np.diff(drawn) > 0).all()


def test_positions_give_eight_rows_per_column():
    linear = layers_in_order(models.coupled(models.convs()))[1]
    assert linear.channels * linear.taps == 72
    assert positions_wanted(linear, 10, 5, 5) == 58
    assert positions_wanted(linear, 10**6, 5, 5) == 10
    assert positions_wanted(linear, 0, 5, 5) == 8 * 72
    assert positions_wanted(linear, 10, 5, 100) == 3  # 20 boxes in each sample
    assert positions_wanted(linear, 10, 5, 0) == 290
    linear = layers_in_order(models.coupled(models.tokens()))[1]
    assert positions_wanted(linear, 10, 5, 7) == 12 * 5
    assert positions_wanted(linear, 10**6, 5, 7) == 50


# ---- Rows gathered in the graph


def patches(x, kernel, strides, dilations, pads, groups=1):
    """Rows of a two-dimensional convolution, [N * positions, C * taps], cut out one by one."""
    (kh, kw), (sh, sw), (dh, dw), (t, left, b, r) = kernel, strides, dilations, pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (t, b), (left, r)))
    height = (x.shape[2] - (kh - 1) * dh - 1) // sh + 1
    width = (x.shape[3] - (kw - 1) * dw - 1) // sw + 1
    found = [
        x[:, :, i * sh : i * sh + (kh - 1) * dh + 1 : dh, j * sw : j * sw + (kw - 1) * dw + 1 : dw].reshape(len(x), -1)
        for i in range(height)
        for j in range(width)
    ]
    return np.stack(found, 1).reshape(len(x) * len(found), -1)


def conv(attributes, groups=1, kernel=(3, 3), ir=8):
    return models.build(
        "float[N,4,7,6] x", "float[N,6,H,W] y", f"y = Conv<{attributes}, group={groups}>(x, w)",
        {"w": (6, 4 // groups, *kernel)}, ir=ir,
    )  # fmt: skip


GEOMETRIES = [
    ("pads=[1,1,1,1]", (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    ("strides=[2,3], pads=[0,1,2,1]", (3, 3), (2, 3), (1, 1), (0, 1, 2, 1), 1),
    ("dilations=[2,1], pads=[2,0,2,0]", (3, 2), (1, 1), (2, 1), (2, 0, 2, 0), 1),
    ("strides=[2,2]", (1, 1), (2, 2), (1, 1), (0, 0, 0, 0), 1),
    ("pads=[1,1,1,1]", (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2),
    ('auto_pad="SAME_UPPER", strides=[2,2]', (3, 3), (2, 2), (1, 1), (1, 0, 1, 1), 1),
    ('auto_pad="SAME_LOWER", strides=[2,2]', (2, 3), (2, 2), (1, 1), (1, 1, 0, 0), 1),
    ('auto_pad="VALID"', (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
]


def collected(model, parts, samples, linears=None, seed=0, **options):
    graph = models.coupled(model).graph
    linears = linears or [linear for i in range(len(graph.nodes)) if (linear := describe(graph, i)) is not None]
    return collect(graph, linears, parts, samples, models.RUNTIME, seed, **options)


@pytest.mark.parametrize(("attributes", "kernel", "strides", "dilations", "pads", "groups"), GEOMETRIES)
def test_convolutions_read_their_patches(attributes, kernel, strides, dilations, pads, groups):
    model = conv(attributes, groups, kernel)
    feeds = models.feeds(model, 7, batch=3)
    (moments,) = collected(model, [feeds], 1)["y"]
    if "SAME_UPPER" in attributes:
        pads = (1, 0, 1, 1)  # 7 rows need 2 more, 6 columns 1
    elif "SAME_LOWER" in attributes:
        pads = (1, 1, 0, 0)
    expected = np.concatenate([patches(f["x"], kernel, strides, dilations, pads) for f in feeds])
    assert moments.count == len(expected)
    close(moments.mean, expected.mean(0))
    close(moments.about(np.zeros(len(moments.shift)), np.zeros(0))[0], expected.T @ expected / len(expected))


def test_the_rows_times_the_matrix_are_the_layers_output():
    for attributes, kernel, *_, groups in GEOMETRIES:
        model = conv(attributes, groups, kernel)
        (linear,) = layers_in_order(models.coupled(model)) or [describe(Graph(model), 0)]
        feed = models.feeds(model, 2)[0]
        y = models.values(model, feed)["y"]
        places = np.arange(y.shape[2] * y.shape[3])
        found = linear.apply(linear.sample(feed["x"], y.shape, places))
        np.testing.assert_allclose(found, linear.outputs(y, places), atol=1e-5)


def test_transposed_convolutions_read_their_patches():
    model = models.transposed()
    linear = next(i for i in layers_in_order(models.coupled(model)) if i.key == "c1")
    feed = models.feeds(model, 2)[0]
    y, x = (models.values(model, feed, [name])[name] for name in ("c1", "r0"))
    found = linear.apply(linear.sample(x, y.shape, np.arange(100)))
    np.testing.assert_allclose(found, linear.outputs(y, np.arange(100)), atol=1e-5)
    (moments,) = collected(model, [[feed]], 1, [linear])["c1"]
    close(moments.mean, linear.sample(x, y.shape, np.arange(100)).mean(0))


def test_matrix_products_read_the_last_axis():
    model = models.tokens()
    feeds = models.feeds(model, 5, batch=2)
    found = collected(model, [feeds], 1)
    for key, name in (("u", "x"), ("d", "r")):
        x = np.concatenate([models.values(model, f, [name])[name] if name != "x" else f["x"] for f in feeds])
        x = x.reshape(-1, x.shape[-1]).astype(np.float64)
        (moments,) = found[key]
        assert moments.count == 35
        close(moments.centred()[0], np.cov(x.T, bias=True))


def test_gemms_read_one_row_per_sample():
    model = models.mlp()
    feeds = models.feeds(model, 11, batch=4)
    found = collected(model, [feeds], 11)
    x = np.concatenate([models.values(model, f, ["r1"])["r1"] for f in feeds]).astype(np.float64)
    (moments,) = found["y"]
    assert moments.count == 11
    close(moments.mean, x.mean(0))
    close(moments.centred()[0], np.cov(x.T, bias=True))


def test_float16_models_are_summed_in_float32():
    model = models.build(
        "float16[N,6] x", "float16[N,3] y", "h = Gemm<transB=1>(x, w)\nr = Relu(h)\ny = Gemm<transB=1>(r, v)",
        {"w": np.float16(np.random.default_rng(0).normal(size=(9, 6))), "v": np.full((3, 9), 0.1, np.float16)},
    )  # fmt: skip
    feeds = models.feeds(model, 9, batch=4)
    assert feeds[0]["x"].dtype == np.float16
    (moments,) = collected(model, [feeds], 9)["y"]
    r = np.concatenate([models.values(model, f, ["r"])["r"] for f in feeds]).astype(np.float64)
    close(moments.mean, r.mean(0), 1e-3)
    close(moments.centred()[0], np.cov(r.T, bias=True), 1e-3)


def test_files_before_ir_version_4_list_every_constant_as_an_input():
    model = models.convs(ir=3)
    found = collected(model, [models.feeds(model, 4)], 4)
    again = collected(models.convs(), [models.feeds(model, 4)], 4)
    for key in again:
        np.testing.assert_array_equal(found[key][0].square, again[key][0].square)


# ---- Parts, places, progress


def test_parts_are_kept_apart_and_join_to_the_whole():
    model = models.mlp()
    feeds = models.feeds(model, 12, batch=4)
    seen = []
    parts = collected(model, [feeds[:2], feeds[2:]], 12, progress=seen.append)["y"]
    (whole,) = collected(model, [feeds], 12)["y"]
    assert [p.count for p in parts] == [8, 4]
    assert seen == [4, 4, 4]
    joined = parts[0] + parts[1]
    np.testing.assert_allclose(joined.square, whole.square)
    np.testing.assert_allclose(joined.total, whole.total)


def recorded(monkeypatch):
    taken = []

    def spy(rng, available, wanted):
        taken.append(draw(rng, available, wanted))
        return taken[-1]

    monkeypatch.setattr("onnxprune.statistics.draw", spy)
    return taken


def test_places_are_drawn_anew_for_every_batch_and_follow_the_seed(monkeypatch):
    model = conv("pads=[1,1,1,1]")
    taken = recorded(monkeypatch)
    feeds = models.feeds(model, 6, batch=2)
    first = collected(model, [feeds], 10**6)["y"][0]
    assert [len(t) for t in taken] == [10, 10, 10]
    assert first.count == 60
    assert taken[0].tolist() != taken[1].tolist()
    again = collected(model, [feeds], 10**6)["y"][0]
    np.testing.assert_array_equal(first.square, again.square)
    other = collected(model, [feeds], 10**6, seed=1)["y"][0]
    assert not np.array_equal(first.square, other.square)
    every = [patches(f["x"], (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)).reshape(2, 42, -1) for f in feeds]
    expected = [rows[:, places].reshape(20, -1) for rows, places in zip(every, taken, strict=False)]
    close(first.mean, np.concatenate(expected).mean(0))


def test_inputs_of_varying_size_have_places_of_their_own():
    text = "c = Conv<pads=[1,1,1,1]>(x, w)\ny = GlobalAveragePool(c)"
    model = models.build("float[N,2,H,W] x", "float[N,3,1,1] y", text, {"w": (3, 2, 3, 3)})
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(2, 2, h, w)).astype(np.float32)} for h, w in ((3, 4), (5, 2), (3, 4))]
    (moments,) = collected(model, [feeds], 1)["c"]
    expected = np.concatenate([patches(f["x"], (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)) for f in feeds])
    assert moments.count == len(expected) == 2 * (12 + 10 + 12)
    close(moments.mean, expected.mean(0))
    graph, known = Graph(model), {}
    assert sized(graph, feeds[0], known) is sized(graph, feeds[2], known)
    assert len(known) == 1


def test_one_graph_is_not_taken_for_another_of_the_same_address():
    """Graphs come and go, and an address is used again."""
    feed = {"x": np.zeros((1, 2, 5, 5), np.float32)}
    for name in ("a", "b", "c", "d", "e", "f"):
        model = models.build("float[N,2,H,W] x", "float[N,3,H,W] y", f"{name} = Relu(x)\ny = Conv({name}, w)",
                             {"w": (3, 2, 1, 1)})  # fmt: skip
        graph = Graph(model)
        assert name in sized(graph, feed, {})
        del graph, model
        gc.collect()


def test_the_gathering_model_leaves_the_original_alone():
    model = models.mlp()
    before = model.SerializeToString()
    coupling = models.coupled(model)
    made = gathering(coupling.graph, layers_in_order(coupling))
    assert [o.name for o in made.graph.output] == ["h0/rows", "h1/rows", "y/rows"]
    assert model.SerializeToString() == before
    assert models.RUNTIME.session(made).inputs == ["x", "h0/index", "h1/index", "y/index"]


@pytest.mark.parametrize("parts", [(1, 1), (2, 5), (20, 50)])
def test_what_moments_take_is_known_before(parts):
    model = models.convs()
    coupling = models.coupled(model)
    graph, linears = coupling.graph, layers_in_order(coupling)
    feeds = [models.feeds(model, n, 50) for n in parts]
    found = collect(graph, linears, feeds, sum(parts), models.RUNTIME)
    for linear in linears:
        held = [m.products.upper if m.products.rows is None else m.products.rows for m in found[linear.key]]
        assert moments_bytes(graph, linear, parts) == sum(array.nbytes for array in held)
