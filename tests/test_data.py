"""Which samples fit, choose and judge, and where they come from."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from onnxprune.calibration import PLAIN, Preprocessing
from onnxprune.data import SYNTHETIC_SAMPLES, bearable, divide, inputs_of, labelled_of, samples_of, shapes_of
from onnxprune.errors import DataError
from onnxprune.graph import Graph
from onnxprune.run import Options, prepare


@given(st.integers(1, 5000), st.integers(0, 99), st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([1, 2]))
def test_the_parts_are_disjoint_and_complete_and_neighbours_stay_together(units, seed, judge, copies):
    count = units * copies
    division = divide(count, seed, judge=judge, copies=copies)
    parts = [division.fit, division.tune, division.judge]
    if len(division.fit) == count and judge:  # too few to divide
        assert units == 1
        assert division.judge.tolist() == division.fit.tolist()
        assert not len(division.tune)
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert len(division.fit) > 0
    assert (len(division.judge) > 0) == (judge > 0)
    for part in parts:
        assert (part.reshape(-1, copies) // copies == part.reshape(-1, copies)[:, :1] // copies).all()
    assert len(division.judge) <= 512 * copies
    assert len(division.tune) <= 512 * copies
    if 20 <= units <= 1000:
        assert len(division.judge) == pytest.approx(count * judge, abs=copies)
        assert len(division.tune) == pytest.approx(0.15 * (count - len(division.judge)), abs=copies)


def test_a_division_follows_the_seed():
    first, again, other = (divide(100, seed, judge=0.2) for seed in (1, 1, 2))
    assert first.fit.tolist() == again.fit.tolist()
    assert first.fit.tolist() != other.fit.tolist()


@pytest.mark.parametrize(
    ("count", "judge", "copies", "sizes"),
    [
        (1, 0.2, 1, (1, 0, 1)),
        (2, 0.2, 1, (1, 0, 1)),
        (4, 0.1, 1, (3, 0, 1)),
        (5, 0.1, 1, (3, 1, 1)),
        (2, 0.2, 2, (2, 0, 2)),
        (4, 0.2, 2, (2, 0, 2)),
        (1, 0.0, 1, (1, 0, 0)),
        (10000, 0.2, 1, (8976, 512, 512)),
    ],
)
def test_sizes_of_the_parts(count, judge, copies, sizes):
    division = divide(count, 0, judge=judge, copies=copies)
    assert tuple(len(part) for part in (division.fit, division.tune, division.judge)) == sizes


# ---- Where samples come from


def test_inputs_are_told_with_their_symbols():
    body = "y = Add(a, a)\nz = Identity(b)"
    model = models.build("float16[N,3,?,8] a, int64 b", "float16[N,3,?,8] y, int64 z", body, {})
    inputs = inputs_of(Graph(model))
    assert [(i.name, i.dtype, i.shape) for i in inputs] == [
        ("a", np.float16, ("N", 3, None, 8)),
        ("b", np.int64, inputs[1].shape),
    ]
    assert inputs[1].shape in (None, ())


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(models.mlp(), path)
    return path


def found(path, source=None, **options):
    given = {"samples": None, "seed": 0, "shapes": None} | options
    return samples_of(Graph(models.mlp()), path, source, PLAIN, **given)


def test_what_is_given_comes_before_the_sidecar_and_that_before_synthetic_data(path):
    given, beside = models.data(models.mlp(), 7), models.data(models.mlp(), 9, seed=1)
    assert (found(path).origin, found(path).count) == ("synthetic", SYNTHETIC_SAMPLES)
    np.savez(path.with_suffix(".calib.npz"), x=beside)
    assert (found(path).origin, found(path).count) == ("given", 9)
    np.testing.assert_array_equal(found(path).feed([2])["x"][0], beside[2])
    assert found(path, given).count == 7
    np.testing.assert_array_equal(found(path, given).feed([2])["x"][0], given[2])
    assert found(None).origin == "synthetic"


def test_the_number_of_samples_is_as_asked_for(path):
    assert found(path, samples=12).count == 12
    assert found(path, models.data(models.mlp(), 30), samples=12).count == 12


def test_synthetic_samples_have_the_shapes_that_are_given():
    model = models.build("float[N,2,H,W] x", "float[N,2,H,W] y", "y = Relu(x)", {})
    samples = samples_of(Graph(model), None, None, PLAIN, 3, 0, {"x": [1, 2, 5, 6]})
    assert shapes_of(samples) == {"x": (1, 2, 5, 6)}


def test_mirrored_samples_are_neighbours():
    model = models.build("float[N,3,4,4] x", "float[N,3,4,4] y", "y = Relu(x)", {})
    x = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    samples = samples_of(Graph(model), None, x, Preprocessing(mirror=True), None, 0, None)
    assert samples.count == 10
    np.testing.assert_array_equal(samples.feed([4])["x"][..., ::-1], samples.feed([5])["x"])


# ---- Labels


def test_labels_come_from_a_file_a_pair_or_a_function(tmp_path):
    graph, x, y = Graph(models.mlp()), models.data(models.mlp(), 6), np.arange(6) % 4
    np.savez(tmp_path / "eval.npz", x=x, y=y)
    for source in (tmp_path / "eval.npz", str(tmp_path / "eval.npz"), (x, y.tolist())):
        labelled = labelled_of(source, graph, PLAIN)
        assert labelled.labels.tolist() == y.tolist()
        np.testing.assert_array_equal(labelled.samples.feed([0, 1])["x"], x[:2])
    script = tmp_path / "score.py"
    script.write_text("def score(path):\n    return 0.25\n")
    for source in (len, f"{script}:score"):
        labelled = labelled_of(source, graph, PLAIN)
        assert labelled.samples is None
        assert labelled.function is len or labelled.function("") == 0.25
    with pytest.raises(DataError):
        labelled_of(f"{script}:other", graph, PLAIN)


@pytest.mark.parametrize("mirror", [False, True])
def test_samples_on_which_the_model_fails_are_left_out(mirror):
    """What a detector finds is known when it has run, and it may fail where it finds nothing."""
    weights = {"edge": np.float32([5]), "zero": [0], "minus": [-1], "w": (4, 2)}
    text = f"c = Greater(x, edge) {models.FOUND} y = MatMul(f, w)"
    model = models.build("float[1,1,2,3] x", "float[K,2] y", text, weights)
    x = np.zeros((20, 1, 2, 3), np.float32)
    x[::3, 0, 1, 2] = 9
    graph = Graph(model)
    source = {"x": (x * 25).astype(np.uint8)} if mirror else {"x": x}
    plan = Preprocessing(mirror=True, mean=(0.0,), std=(1 / 255,)) if mirror else PLAIN
    samples = samples_of(graph, None, source, plan, None, 0, None)
    session, seen = models.RUNTIME.session(model), []
    found = bearable(samples, session, lambda done, total: seen.append((done, total)))
    assert found.count == 7 * (1 + mirror)
    assert seen[-1] == (samples.count, samples.count)
    assert all(session.run(found.feed([n])) for n in range(found.count))
    with pytest.raises(DataError, match="fails on this input"):
        bearable(samples_of(graph, None, {"x": 0 * x[:2]}, PLAIN, None, 0, None), session)
    warnings = prepare(graph, samples, Options()).warnings
    assert any(f"fails on {13 * (1 + mirror)} of the {20 * (1 + mirror)} samples" in text for text in warnings)
