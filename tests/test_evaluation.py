"""What is said of how a model answers."""

import numpy as np
import pytest

import models
from onnxprune import calibration, evaluation, prune
from onnxprune.data import inputs_of
from onnxprune.errors import DataError
from onnxprune.evaluation import (
    Labelled,
    affordable,
    answers,
    fidelity,
    looks_like_scores,
    loss,
    needed,
    scores,
    size,
)
from onnxprune.graph import Graph
from onnxprune.runtime import Session


def samples(model, x):
    return calibration.load(x, inputs_of(Graph(model)))


@pytest.fixture
def model():
    return models.mlp()


# ---- Fidelity


def test_the_relative_error_is_a_ratio_of_norms():
    before, after = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [0.5, 0.0]])
    found = fidelity([before], [after], 2, "given")
    assert found.relative_error == pytest.approx(0.5 / 5)
    assert (found.samples, found.data) == (2, "given")


def test_agreement_is_the_share_of_equal_answers():
    before = np.array([[1.0, 2, 3], [3, 1, 2], [2, 3, 1], [1, 2, 3]])
    after = np.array([[1.0, 2, 2.5], [1, 3, 2], [2, 3, 1], [3, 2, 1]])
    found = fidelity([before], [after], 4, "given")
    assert found.top1_agreement == 0.5
    assert found.loss == 0.5
    assert fidelity([before], [after], 2, "given") == found  # two runs of a model that takes two samples at once


def test_without_scores_the_loss_is_the_relative_error():
    before, after = np.ones((2, 3, 4)), np.full((2, 3, 4), 1.1)
    found = fidelity([before], [after], 2, "synthetic")
    assert found.top1_agreement is None
    assert found.loss == found.relative_error == pytest.approx(0.1)


def test_all_outputs_count_for_the_error_and_the_first_for_agreement():
    before, after = [np.eye(2), np.full((2, 3), 2.0)], [np.eye(2), np.full((2, 3), 1.0)]
    found = fidelity(before, after, 2, "given")
    assert found.relative_error == pytest.approx(np.sqrt(6 / (2 + 24)))
    assert found.top1_agreement == 1.0


def test_answers_to_noise_count_by_what_they_vary():
    before = np.array([[5.0, 0], [5.1, 0], [4.9, 0]])
    after = before + np.array([[0.01, 0], [0, 0], [0, 0]])
    found = fidelity([before], [after], 3, "synthetic")
    assert found.top1_agreement == 1.0
    assert found.unexplained == pytest.approx(0.0001 / 0.02)
    assert (loss(found).of, loss(found).value) == ("variance", found.unexplained)
    given = fidelity([before], [after], 3, "given")
    assert (given.unexplained, loss(given).of, loss(given).value) == (None, "agreement", 0.0)
    assert fidelity([before[:1]], [before[:1]], 1, "synthetic").unexplained == 1.0  # what doesn't vary tells nothing
    assert loss(fidelity([before], [before[:, ::-1]], 3, "synthetic")).value > 1


@pytest.mark.parametrize(("before", "count"), [([], 5), ([np.ones((0, 2))], 0), ([np.zeros((3, 1, 1))], 3)])
def test_nothing_to_compare_is_no_error(before, count):
    found = fidelity(before, before, count, "given")
    assert (found.top1_agreement, found.relative_error) == (None, 0.0)


@pytest.mark.parametrize(("shape", "expected"), [((5, 2), True), ((5, 1), False), ((5,), False), ((5, 2, 1, 1), False)])
def test_scores_are_one_row_per_sample(shape, expected):
    assert looks_like_scores(np.zeros(shape)) == expected


# ---- Losses


def test_what_is_lost_lies_in_an_interval():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(400, 3))
    after = before + 0.1 * rng.normal(size=before.shape)
    agreed = loss(fidelity([before], [after], 400, "given"))
    changed = float((before.argmax(1) != after.argmax(1)).mean())
    assert (agreed.of, agreed.samples) == ("agreement", 400)
    assert 0 < agreed.low < agreed.value < agreed.high < 0.2
    assert agreed.value == pytest.approx(changed)
    moved = loss(fidelity([before[:, :1]], [after[:, :1]], 400, "given"))
    assert moved.of == "outputs"
    assert 0.08 < moved.low < moved.value < moved.high < 0.12
    fell = loss(fidelity([before], [after], 400, "given"), np.ones(400), (np.arange(400) >= 20).astype(float))
    assert (fell.of, fell.value) == ("accuracy", 0.05)
    assert 0.02 < fell.low < 0.05 < fell.high < 0.08


def test_nothing_is_said_where_nothing_is_known():
    """Of one score, and of outputs whose rows aren't samples."""
    boxes = fidelity([np.ones((5, 4, 1))], [np.ones((5, 4, 1))], 2, "given")
    assert (boxes.low, boxes.high) == (None, None)
    found = loss(boxes, np.array([0.9]), np.array([0.7]))
    assert (found.of, found.value, found.low, found.high) == ("accuracy", 0.2, None, None)
    assert needed(found, 0.5) is None


@pytest.mark.parametrize("of", ["agreement", "accuracy", "outputs"])
def test_so_many_samples_would_show_it(of):
    """With as many of the same kind, the interval ends where it should; the same loss or more can't be shown."""
    rng = np.random.default_rng(1)
    before = rng.normal(size=(300, 1 if of == "outputs" else 4))
    after = before + 0.05 * rng.normal(size=before.shape) * rng.gamma(0.1, 10, size=before.shape)
    first = fidelity([before], [after], 300, "given")
    right, still = np.ones(300), np.where(np.arange(300) < 15, 0.0, 1.0)
    found = loss(first, right, still) if of == "accuracy" else loss(first)
    allowed = found.value * 1.2
    times = needed(found, allowed) / 300
    assert times > 1
    many = [np.tile(values, (round(times), 1)) for values in (before, after)]
    again = fidelity([many[0]], [many[1]], len(many[0]), "given")
    if of == "accuracy":
        found = loss(again, np.tile(right, round(times)), np.tile(still, round(times)))
    else:
        found = loss(again)
    assert found.high == pytest.approx(allowed, rel=0.03)
    assert needed(found, found.value) is None
    assert needed(found, found.value / 2) is None


# ---- Answers


def test_answers_are_joined_in_order_whatever_the_batch(model):
    x = models.data(model, 10)
    expected = models.values(model, {"x": x[[7, 2, 5, 1, 0]]})["y"]
    for batch in (1, 2, 5, 64):
        (found,) = answers(model, samples(model, x), [7, 2, 5, 1, 0], models.RUNTIME, batch)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_answers_are_floats_only_and_those_that_are_asked_for():
    text = "h = Gemm(x, w)\nk = ArgMax<axis=1>(h)\nr = Relu(h)"
    model = models.build("float[N,4] x", "int64[N,1] k, float[N,3] h, float[N,3] r", text, {"w": (4, 3)})
    x = models.data(model, 6)
    assert [a.shape for a in answers(model, samples(model, x), range(6), models.RUNTIME, 4)] == [(6, 3), (6, 3)]
    (only,) = answers(model, samples(model, x), range(6), models.RUNTIME, 4, ["r"])
    assert (only >= 0).all()


def test_answers_of_varying_size_are_flattened():
    model = models.build("float[N,M] x", "float[N,M] y", "y = Relu(x)", {})
    rows = [{"x": np.ones((1, n), np.float32)} for n in (2, 3)]
    (found,) = answers(model, samples(model, rows), [0, 1], models.RUNTIME, 1)
    assert found.tolist() == [1] * 5


def test_answers_without_an_axis_have_one():
    model = models.build("float[N,3] x", "float y", "y = ReduceSum<keepdims=0>(x)", {})
    (found,) = answers(model, samples(model, np.ones((4, 3), np.float32)), range(4), models.RUNTIME, 2)
    assert found.tolist() == [6, 6]


def test_dense_answers_are_kept_for_as_many_samples_as_there_is_room():
    graph = Graph(models.depthwise())
    assert affordable(graph, ["y"], most=10 * 8 * 144) == 10
    assert affordable(graph, ["y"], most=1) == 1
    assert affordable(graph, ["unknown"], most=24) == 3
    assert affordable(graph, [], most=24) == 24


# ---- Accuracy


def test_accuracy_is_the_share_of_right_answers(model):
    x = models.data(model, 20)
    right = models.values(model, {"x": x})["y"].argmax(1)
    for labels, expected in (
        (right, 1.0),
        ((right + 1) % 4, 0.0),
        (np.where(np.arange(20) < 5, (right + 1) % 4, right), 0.75),
    ):
        found = scores(model, None, Labelled(samples(model, x), labels[:, None]), models.RUNTIME, 8)
        assert (found.shape, found.mean()) == ((20,), expected)


def test_a_function_gets_the_path(model):
    assert scores(model, "a.onnx", Labelled(function=lambda path: len(path)), models.RUNTIME, 8).tolist() == [6.0]


def test_what_goes_wrong_in_a_function_is_told_in_one_sentence(model):
    def fails(path):
        raise KeyError("missing")

    with pytest.raises(DataError, match=r"--eval failed: KeyError: 'missing'"):
        scores(model, "a.onnx", Labelled(function=fails), models.RUNTIME, 8)


def test_accuracy_needs_labels_scores_and_classes(model):
    with pytest.raises(DataError, match="needs labelled samples"):
        scores(model, None, Labelled(), models.RUNTIME, 8)
    dense = models.depthwise()
    data = Labelled(samples(dense, models.data(dense, 3)), np.zeros(3, int))
    with pytest.raises(DataError, match="needs class scores"):
        scores(dense, None, data, models.RUNTIME, 8)
    with pytest.raises(DataError, match="label 4 is larger than the model's 4 classes"):
        scores(model, None, Labelled(samples(model, models.data(model, 3)), np.array([0, 4, 1])), models.RUNTIME, 8)


def test_class_numbers_are_compared_as_they_are():
    model = models.build("float[N,4] x", "int64[N,1] k", "k = ArgMax<axis=1>(x)", {})
    x = np.eye(4, dtype=np.float32)
    labelled = Labelled(samples(model, x), np.array([0, 1, 3, 3]))
    assert scores(model, None, labelled, models.RUNTIME, 8).tolist() == [1, 1, 0, 1]
    before = answers(model, samples(model, x), range(4), models.RUNTIME, 8)
    after = answers(model, samples(model, x[[0, 2, 3, 1]]), range(4), models.RUNTIME, 8)
    found = fidelity(before, after, 4, "given")
    assert (found.top1_agreement, loss(found).of, loss(found).value) == (0.25, "agreement", 0.75)


def test_masks_count_by_the_share_that_changed():
    before = np.zeros((2, 5, 4), np.int64)
    after = before.copy()
    after[1, 0] = 2
    found = fidelity([before], [after], 2, "given")
    assert found.top1_agreement == 0.9
    assert found.low < 0.1 < found.high


def test_functions_are_found_in_files(tmp_path):
    file = tmp_path / "score.py"
    file.write_text("NUMBER = 3\ndef score(path):\n    return 0.5\n")
    assert evaluation.load_function(f"{file}:score")("x") == 0.5
    with pytest.raises(DataError, match="has no function 'NUMBER'"):
        evaluation.load_function(f"{file}:NUMBER")
    with pytest.raises(DataError, match="has no function 'other'"):
        evaluation.load_function(f"{file}:other")
    with pytest.raises(DataError, match="no such file"):
        evaluation.load_function(f"{tmp_path / 'none.py'}:score")
    file.write_text("raise ValueError('bad')")
    with pytest.raises(DataError, match="fails to run: ValueError: bad"):
        evaluation.load_function(f"{file}:score")


# ---- Size and time


def test_size(model):
    graph = Graph(model)
    found = size(graph)
    assert (found.params, found.macs, found.bytes, found.latency_ms) == (422, 392, model.ByteSize(), None)
    assert (size(graph, 7, 0.5).bytes, size(graph, 7, 0.5).latency_ms) == (7, 0.5)


def test_another_number_of_boxes_is_a_whole_change():
    boxes, scores = np.ones((5, 4)), np.full((2, 3), 2.0)
    found = fidelity([scores, boxes], [scores + 0.5, np.ones((3, 4))], 2, "given")
    assert found.relative_error == pytest.approx(np.sqrt((6 * 0.25 + 20) / (6 * 4 + 20)))
    assert found.top1_agreement == 1.0
    assert fidelity([boxes], [np.ones((3, 4))], 2, "given").top1_agreement is None
    nothing = np.zeros((0, 4))
    assert fidelity([nothing], [nothing], 2, "given").top1_agreement is None


# ---- Memory


def test_as_many_samples_are_run_at_once_as_memory_is_granted_for():
    """Of a chain of three values of 8 * 4 KB two are held at once, and the input of one value."""
    text = "a = Conv(x, w1)\nb = Relu(a)\nc = Conv(b, w2)\ny = ReduceMean<axes=[1,2,3]>(c)"
    graph = Graph(
        models.build("float[N,1,32,32] x", "float[N,1,1,1] y", text, {"w1": (8, 1, 1, 1), "w2": (8, 8, 1, 1)})
    )
    each = 2 * 8 * 4096  # onnxruntime is taken to need as much again
    assert evaluation.at_once(graph, 2 * each * 10) == 10
    assert evaluation.at_once(graph, 2 * each * 9.5) == 9
    assert evaluation.at_once(graph, 1) == 1
    assert evaluation.at_once(graph) == evaluation.BATCH


def test_large_activations_are_run_in_small_batches(monkeypatch):
    model = models.build("float[N,1,32,32] x", "float[N,2,32,32] y", "a = Conv(x, w1)\nr = Relu(a)\ny = Conv(r, w2)",
                         {"w1": (8, 1, 1, 1), "w2": (2, 8, 1, 1)})  # fmt: skip
    sizes, run = set(), Session.run

    def spied(self, feeds, outputs=None):
        sizes.add(max(len(value) for value in feeds.values() if value.ndim == 4))
        return run(self, feeds, outputs)

    monkeypatch.setattr(Session, "run", spied)
    data = np.random.default_rng(0).normal(size=(40, 1, 32, 32)).astype(np.float32)
    prune(
        model, target="macs=0.7", calibration=data, max_memory=10 * 2 * 2 * 8 * 4096, measure_latency=False, round_to=1
    )
    assert max(sizes) == 10
