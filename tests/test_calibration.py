import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from test_sources import I64, IMAGE, ROWS, SCALAR, feeds, floats, images, normal, npz, pixels

from onnxprune.calibration import Input, Preprocessing, load, load_labelled, sidecar, synthetic
from onnxprune.errors import DataError, UsageError


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "chw"},
        {"resize": 0},
        {"resize": (8, -1)},
        {"std": (0.0,)},
        {"std": (float("nan"),)},
        {"mean": (float("inf"),)},
    ],
)
def test_senseless_preprocessing(options):
    with pytest.raises(UsageError):
        Preprocessing(**options)


@pytest.mark.parametrize("samples", [0, -1])
def test_senseless_numbers_of_samples(samples):
    with pytest.raises(UsageError, match="at least 1"):
        load(normal(3, 4), [ROWS], samples=samples)
    with pytest.raises(UsageError, match="at least 1"):
        synthetic([ROWS], count=samples)


def test_batches_keep_the_order_and_the_remainder():
    x = normal(5, 4)
    feeds = list(load({"data": x}, [ROWS]).batches([4, 3, 2, 1, 0], 2))
    assert [len(feed["data"]) for feed in feeds] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([feed["data"] for feed in feeds]), x[::-1])


def test_limit_is_random_seeded_and_without_replacement():
    x = np.arange(100, dtype=np.float32)[:, None]
    taken = [load(x, [floats(("N", 1))], samples=20, seed=s).feed(range(20))["data"].ravel() for s in (1, 1, 2)]
    assert len(set(taken[0])) == 20
    np.testing.assert_array_equal(taken[0], taken[1])
    assert set(taken[0]) != set(taken[2])
    assert load(x, [floats(("N", 1))], samples=200).count == 100


def test_inputs_that_are_not_per_sample_pass_as_they_are():
    inputs = [ROWS, SCALAR, floats((2,), "scale")]
    samples = load({"data": normal(6, 4), "sr": np.int64(16000), "scale": np.float32([1, 2])}, inputs)
    feed = samples.feed([1, 2, 3])
    assert samples.batchable
    assert {name: value.shape for name, value in feed.items()} == {"data": (3, 4), "sr": (), "scale": (2,)}
    assert feed["sr"] == 16000
    assert isinstance(feed["sr"], np.ndarray)


def test_inputs_off_axis_0_can_be_given_per_sample():
    samples = load({"data": normal(6, 4), "sr": np.arange(6)}, [ROWS, SCALAR])
    assert (samples.count, samples.batchable) == (6, False)
    feed = samples.feed([4])
    assert feed["sr"] == 4
    assert feed["data"].shape == (1, 4)
    with pytest.raises(DataError, match="one at a time, not 2"):
        samples.feed([0, 1])
    assert len(list(samples.batches(range(6), 4))) == 6


def test_a_batch_elsewhere_than_on_axis_0_cannot_be_joined():
    state = floats((2, "N", 5), "state")
    assert not load({"data": normal(6, 4), "state": normal(2, 1, 5)}, [ROWS, state]).batchable


def test_a_fixed_batch_makes_each_feed_a_sample():
    samples = load(x := normal(7, 4), [floats((2, 4))])
    assert (samples.count, samples.batchable) == (3, False)
    np.testing.assert_array_equal(samples.feed([2])["data"], x[4:6])
    assert load(normal(7, 4), [floats((1, 4))]).count == 7


def test_models_without_a_batch_axis():
    samples = load(x := normal(5, 3, 8, 8), [floats((3, 8, 8))])
    assert (samples.count, samples.batchable) == (5, False)
    np.testing.assert_array_equal(samples.feed([3])["data"], x[3])
    assert load(normal(1, 3, 8, 8)[0], [IMAGE]).feed([0])["data"].shape == (1, 3, 8, 8)


def test_an_unknown_rank_takes_any_array():
    assert load(normal(5, 3, 2), [floats(None)]).feed([1, 2])["data"].shape == (2, 3, 2)
    assert load({"x": np.float32(3)}, [floats(None)]).feed([0])["data"].shape == ()


def test_a_model_without_inputs_takes_empty_feeds():
    assert synthetic([], count=2).feed([1]) == {}
    assert load({}, []).feed([0]) == {}


def test_time_major_inputs_are_one_sample():
    samples = load(normal(7, 1, 4), [floats(("seq", "batch", 4))])
    assert (samples.count, samples.batchable) == (1, False)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (np.float64, np.float16),
        (np.float16, np.float32),
        (np.uint8, np.float32),
        (np.int64, np.float32),
        (bool, np.float32),
        (np.int64, np.int32),
        (bool, np.int64),
        (np.int64, bool),
        (">f4", np.float32),
        (np.float32, ml_dtypes.bfloat16),
        (ml_dtypes.bfloat16, np.float32),
    ],
)
def test_casts_that_lose_no_meaning(have, want):
    x = np.array([[0, 1], [1, 1]]).astype(have)
    feed = load(x, [floats(("N", 2), dtype=want)]).feed([0, 1])["data"]
    assert feed.dtype == want
    np.testing.assert_array_equal(feed.astype(float), [[0, 1], [1, 1]])


def test_strings_feed_strings_only():
    words = Input("data", np.dtype(object), ("N",))
    assert load(np.array(["a", "bc"]), [words]).feed([1])["data"].tolist() == ["bc"]
    with pytest.raises(DataError, match="convert it to object"):
        load(np.array([1.0, 2.0]), [words])


@pytest.mark.parametrize(
    ("array", "item", "message"),
    [
        (
            normal(5, 3),
            ROWS,
            r"array 'arr_0' \(float32 \(5, 3\)\) doesn't fit input 'data' \(float32 \(N, 4\)\)",
        ),
        (normal(5), ROWS, "doesn't fit"),
        (normal(5, 4, 1, 1), ROWS, "doesn't fit"),
        (normal(5, 2, 4), ROWS, "doesn't fit"),
        (normal(1, 4), floats((8, 4)), "doesn't fit"),
        (normal(5, 4), floats(("N", 4), dtype=np.int64), "convert it to int64"),
        (normal(5, 4), floats(("N", 4), dtype=bool), "convert it to bool"),
        (normal(5, 4).astype(np.complex64), ROWS, "complex64 .* can't be fed"),
        (np.array([["a"] * 4]), ROWS, "can't be fed"),
        (np.full((2, 4), 2**40), floats(("N", 4), dtype=np.int32), "outside the range"),
        (np.full((2, 4), 2), floats(("N", 4), dtype=bool), "outside the range"),
        (normal(0, 4), ROWS, "no samples"),
        (np.full((2, 4), np.nan), ROWS, "NaN or infinite"),
        (np.array([[0.0] * 4, [0, 0, 0, np.inf]]), ROWS, "NaN or infinite"),
        (np.full((2, 4), 1e6), floats(("N", 4), dtype=np.float16), "NaN or infinite"),
    ],
)
def test_arrays_that_do_not_fit(array, item, message):
    with pytest.raises(DataError, match=message):
        load(array, [item])


def test_nan_in_an_npy_is_found_when_it_is_fed(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[0.0] * 4, [np.nan] * 4]))
    samples = load(tmp_path / "d.npy", [ROWS])
    samples.feed([0])
    with pytest.raises(DataError, match=r"d\.npy: array 'arr_0' .* NaN"):
        samples.feed([1])


def test_images_are_scaled_and_transposed(tmp_path):
    given = images(tmp_path / "i")
    samples = load(tmp_path / "i", [IMAGE])
    assert (samples.count, samples.batchable) == (3, True)
    feed = samples.feed([0, 1, 2])["data"]
    assert feed.dtype == np.float32
    np.testing.assert_allclose(feed, given.transpose(0, 3, 1, 2) / 255, rtol=1e-6)


def test_images_for_nhwc_grey_rgba_and_uint8_models(tmp_path):
    given = images(tmp_path / "i")
    nhwc = load(tmp_path / "i", [floats(("N", 8, 8, 3))]).feed([1])["data"]
    np.testing.assert_allclose(nhwc[0], given[1] / 255, rtol=1e-6)
    raw = load(tmp_path / "i", [floats(("N", 8, 8, 3), dtype=np.uint8)], preprocessing=Preprocessing(mean=(9,)))
    np.testing.assert_array_equal(raw.feed([1])["data"][0], given[1])
    assert load(tmp_path / "i", [floats((1, 1, 8, 8))]).feed([0])["data"].shape == (1, 1, 8, 8)
    assert load(tmp_path / "i", [floats((1, 4, 8, 8))]).feed([0])["data"].shape == (1, 4, 8, 8)
    assert load(tmp_path / "i", [floats((3, 8, 8))]).feed([0])["data"].shape == (3, 8, 8)
    assert load(tmp_path / "i", [floats((None,) * 4)]).feed([0, 1])["data"].shape == (2, 3, 8, 8)
    nhwc = load(tmp_path / "i", [floats((None,) * 4)], preprocessing=Preprocessing(layout="nhwc"))
    assert nhwc.feed([0])["data"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((0.5,), (0.25,), lambda x: (x / 255 - 0.5) / 0.25),
        ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), lambda x: (x / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]),
        ((120, 110, 100), None, lambda x: x - [120, 110, 100]),
        ((127.5,), (128,), lambda x: (x - 127.5) / 128),
        ((0,), (255,), lambda x: x / 255),
        (None, (1,), lambda x: x / 255),
    ],
)
def test_mean_and_std(tmp_path, mean, std, expected):
    given = images(tmp_path / "i")
    plan = Preprocessing(mean=mean, std=std)
    wanted = expected(given.astype(float)).transpose(0, 3, 1, 2)
    for source in (tmp_path / "i", given, given.transpose(0, 3, 1, 2)):
        feed = load(source, [IMAGE], preprocessing=plan).feed([0, 1, 2])["data"]
        np.testing.assert_allclose(feed, wanted, atol=1e-4)


def test_uint8_arrays_are_just_cast_without_preprocessing():
    x = pixels(2, 3, 8, 8)
    np.testing.assert_array_equal(load(x, [IMAGE]).feed([0, 1])["data"], x)
    turned = load(x.transpose(0, 2, 3, 1), [IMAGE], preprocessing=Preprocessing(layout="nchw"))
    np.testing.assert_array_equal(turned.feed([0, 1])["data"], x)
    with pytest.raises(DataError, match="doesn't fit"):
        load(x.transpose(0, 2, 3, 1), [IMAGE])
    with pytest.raises(DataError, match="doesn't fit"):
        load(pixels(2, 8, 8), [IMAGE], preprocessing=Preprocessing(mean=(0.5,)))


def test_uint8_arrays_are_resized_when_asked():
    plan = Preprocessing(resize=(8, 8), std=(1,))
    assert load(pixels(2, 20, 16, 3), [IMAGE], preprocessing=plan).feed([0, 1])["data"].shape == (2, 3, 8, 8)
    assert load(pixels(20, 16, 3), [floats((3, 8, 8))], preprocessing=plan).feed([0])["data"].shape == (
        3,
        8,
        8,
    )
    fixed = load(pixels(5, 20, 16, 3), [floats((2, 3, 8, 8))], preprocessing=plan)
    assert fixed.count == 2
    assert fixed.feed([1])["data"].shape == (2, 3, 8, 8)


def test_resizing(tmp_path):
    given = images(tmp_path / "i", count=1, size=(16, 8))[0]
    assert load(tmp_path / "i", [IMAGE]).feed([0])["data"].shape == (1, 3, 8, 8)
    free = floats(("N", 3, "h", "w"))
    assert load(tmp_path / "i", [free]).feed([0])["data"].shape == (1, 3, 8, 16)
    assert load(tmp_path / "i", [free], shapes={"data": (1, 3, 4, 6)}).feed([0])["data"].shape == (1, 3, 4, 6)
    assert load(tmp_path / "i", [free], preprocessing=Preprocessing(resize=(5, 6))).feed([0])["data"].shape[2:] == (
        5,
        6,
    )
    crop = load(tmp_path / "i", [free], preprocessing=Preprocessing(resize=8)).feed([0])["data"]
    np.testing.assert_allclose(crop[0].transpose(1, 2, 0), given[:, 4:12] / 255, rtol=1e-6)
    assert load(tmp_path / "i", [IMAGE], preprocessing=Preprocessing(resize=10)).feed([0])["data"].shape[2:] == (8, 8)
    grey = load(tmp_path / "i", [floats((1, 1, 4, 4))]).feed([0])["data"]
    assert grey.shape == (1, 1, 4, 4)
    with pytest.raises(DataError, match=r"resized to 6 are smaller than the model's \(8, 8\)"):
        load(tmp_path / "i", [IMAGE], preprocessing=Preprocessing(resize=6))
    with pytest.raises(DataError, match="doesn't fit"):
        load(tmp_path / "i", [IMAGE], preprocessing=Preprocessing(resize=(6, 6)))


def test_images_of_several_sizes(tmp_path):
    images(tmp_path / "i", size=(8, 8))
    Image.fromarray(pixels(9, 9, 3)).save(tmp_path / "i" / "z.png")
    free = floats(("N", 3, "h", "w"))
    with pytest.raises(DataError, match="choose one with --resize"):
        load(tmp_path / "i", [free])
    assert load(tmp_path / "i", [IMAGE]).feed(range(4))["data"].shape == (4, 3, 8, 8)
    assert load(tmp_path / "i", [free], preprocessing=Preprocessing(resize=5)).feed(range(4))["data"].shape[2:] == (
        5,
        5,
    )


def test_mirrored_copies_follow_their_originals(tmp_path):
    images(tmp_path / "i")
    plan = Preprocessing(mirror=True)
    for item, axis in ((IMAGE, 3), (floats((None, 8, 8, 3)), 2)):
        samples = load(tmp_path / "i", [item], preprocessing=plan, samples=2)
        feed = samples.feed(range(4))["data"]
        assert samples.count == 4
        np.testing.assert_array_equal(feed[1::2], np.flip(feed[::2], axis))
    x = normal(2, 3, 8, 8)
    np.testing.assert_array_equal(load(x, [IMAGE], preprocessing=plan).feed([1])["data"], x[:1, :, :, ::-1])
    both = load({"data": x, "sr": 3}, [IMAGE, SCALAR], preprocessing=plan).feed([0, 1])
    assert both["sr"] == 3
    with pytest.raises(DataError, match="only images can be mirrored"):
        load(normal(2, 4), [ROWS], preprocessing=plan)


@pytest.mark.parametrize(
    ("item", "plan", "message"),
    [
        (ROWS, {}, r"holds images, but the model takes input 'data' \(float32 \(N, 4\)\)"),
        (floats(("N", 12, 8, 8)), {}, "holds images, but"),
        (floats(("N", 8, 8)), {}, "holds images, but"),
        (IMAGE, {"layout": "nhwc"}, "holds images, but"),
        (IMAGE, {"mean": (0.1, 0.2)}, "need 3 values"),
        (floats((8, 3, 8, 8)), {}, "doesn't fit"),
        (floats(("N", 3, 8, 8), dtype=np.int8), {}, "outside the range"),
        (floats(("N", 3, 9, "w")), {}, "doesn't fit"),
    ],
)
def test_images_for_models_that_do_not_take_them(tmp_path, item, plan, message):
    images(tmp_path / "i")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "i", [item], preprocessing=Preprocessing(**plan))


def test_images_do_not_feed_two_inputs(tmp_path):
    images(tmp_path / "i")
    with pytest.raises(DataError, match="holds images, but"):
        load(tmp_path / "i", [IMAGE, SCALAR])


def test_mean_and_std_are_for_pixels_only():
    with pytest.raises(DataError, match="isn't uint8 pixels"):
        load(normal(2, 3, 8, 8), [IMAGE], preprocessing=Preprocessing(mean=(0.5,)))


def test_files_that_differ_in_length_are_fed_one_at_a_time(tmp_path):
    for length in (3, 5):
        np.save(tmp_path / f"{length}.npy", normal(1, length))
    samples = load(tmp_path, [floats(("N", "time"))])
    assert (samples.count, samples.batchable) == (2, False)
    assert samples.feed([1])["data"].shape == (1, 5)


def test_the_first_samples_of_an_endless_iterable():
    def endless():
        value = 0
        while True:
            yield {"data": [[float(value)] * 4, [value + 1.0] * 4]}
            value += 2

    samples = load(endless, [ROWS], samples=5)
    assert samples.feed(range(5))["data"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_feeds_of_a_fixed_batch():
    samples = load(feeds([1, 1]), [floats((1, 4))])
    assert (samples.count, samples.batchable) == (2, False)


def test_feeds_that_cannot_be_split_are_samples():
    boxes = floats(("boxes", 2), "boxes")
    given = [{"data": normal(1, 4), "boxes": normal(n, 2)} for n in (3, 5)]
    samples = load(given, [ROWS, boxes])
    assert (samples.count, samples.batchable) == (2, False)
    assert samples.feed([1])["boxes"].shape == (5, 2)
    assert load(given, [ROWS, boxes], samples=1).count == 1


def test_feeds_that_disagree_on_what_is_not_per_sample():
    same = load(feeds([2], sr=1) + feeds([2], sr=1), [ROWS, SCALAR])
    other = load(feeds([2], sr=1) + feeds([2], sr=2), [ROWS, SCALAR])
    assert (same.batchable, other.batchable) == (True, False)
    assert [int(feed["sr"]) for feed in other.batches(range(4), 4)] == [1, 1, 2, 2]


def test_samples_travel_between_processes(tmp_path):
    images(tmp_path / "i")
    for samples in (load(tmp_path / "i", [IMAGE]), load(normal(3, 4), [ROWS]), synthetic([ROWS], count=3)):
        copy = pickle.loads(pickle.dumps(samples))
        for name, value in samples.feed([0, 2]).items():
            np.testing.assert_array_equal(copy.feed([0, 2])[name], value)


def test_synthetic_samples_are_random_access_and_seeded():
    samples = synthetic([IMAGE, SCALAR], count=100, seed=3)
    assert (samples.count, samples.origin, samples.batchable) == (100, "synthetic", True)
    feed = samples.feed(range(100))
    assert feed["data"].shape == (100, 3, 8, 8)
    assert feed["data"].dtype == np.float32
    assert abs(feed["data"].std() - 1) < 0.05
    assert feed["sr"].shape == ()
    np.testing.assert_array_equal(samples.feed([7])["data"][0], feed["data"][7])
    assert not np.array_equal(synthetic([IMAGE], count=1, seed=4).feed([0])["data"], feed["data"][:1])


def test_synthetic_kinds():
    mask = Input("attention_mask", I64, ("N", "seq"))
    ids, flags = Input("ids", np.dtype(np.int32), ("N", "seq")), Input("flags", np.dtype(bool), ("N", 50))
    raw = Input("raw", np.dtype(np.uint8), ("N", 8, 8, 3))
    half = floats(("N", 2), "half", ml_dtypes.bfloat16)
    feed = synthetic([mask, ids, flags, raw, half], count=4).feed(range(4))
    assert feed["attention_mask"].shape == (4, 16)
    assert feed["attention_mask"].all()
    assert set(feed["ids"].ravel()) == {0, 1}
    assert feed["flags"].dtype == bool
    assert 0 < feed["flags"].mean() < 1
    assert feed["raw"].max() > 1
    assert feed["half"].dtype == ml_dtypes.bfloat16
    with pytest.raises(DataError, match="can't be made up"):
        synthetic([Input("s", np.dtype(object), ("N",))], count=1)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        (("N", 3, "h", "w"), (1, 3, 224, 224)),
        (("N", "h", "w", 1), (1, 224, 224, 1)),
        ((None, None, None, None), (1, 3, 224, 224)),
        (("N", "time", 80), (1, 16, 80)),
        (("N", 8, "past", 64), (1, 8, 16, 64)),
        ((2, "batch", 64), (2, 1, 64)),
        ((), ()),
    ],
)
def test_synthetic_sizes(shape, drawn):
    assert synthetic([floats(shape)], count=1).feed([0])["data"].shape == drawn


def test_synthetic_models_of_a_fixed_batch():
    samples = synthetic([floats((2, 4))], count=3)
    assert not samples.batchable
    assert not np.array_equal(samples.feed([0])["data"], samples.feed([1])["data"])


def test_synthetic_batches_off_axis_0():
    inputs = [floats(("B", 4)), floats((2, "B", 4), "state")]
    samples = synthetic(inputs, count=3)
    assert not samples.batchable
    assert samples.feed([1])["state"].shape == (2, 1, 4)
    assert synthetic(inputs, count=3, shapes={"data": (8, 4)}).feed([1])["state"].shape == (2, 1, 4)


def test_a_batch_of_one_input_that_is_another_axis_of_the_next():
    """Samples can't be joined along axis 0 of both."""
    samples = synthetic([floats(("T", "B", 6)), floats(("B", 4), "state")], count=3)
    assert not samples.batchable
    assert samples.feed([0])["data"].shape[1] == len(samples.feed([0])["state"])


def test_one_symbolic_size_has_one_default():
    """Though one of the inputs would be an image, the other not."""
    feed = synthetic([floats(("S", "N", 5)), floats((1, "N", 6), "state")], count=2).feed([0])
    assert feed["data"].shape[1] == feed["state"].shape[1] == 16


def test_shapes_choose_symbolic_sizes_wherever_their_names_recur():
    ids, mask = Input("ids", I64, ("N", "seq")), Input("mask", I64, ("N", "seq"))
    feed = synthetic([ids, mask], count=3, shapes={"ids": (8, 5)}).feed(range(3))
    assert (feed["ids"].shape, feed["mask"].shape) == ((3, 5), (3, 5))
    assert synthetic([floats(None)], count=2, shapes={"data": (1, 6)}).feed([0, 1])["data"].shape == (2, 6)
    with pytest.raises(DataError, match="a shape is given for x, but the model takes input 'ids'"):
        synthetic([ids], count=1, shapes={"x": (1, 2)})
    for shape in ((1, 3, 8, 9), (1, 3, 8)):
        with pytest.raises(DataError, match="only symbolic sizes can be chosen"):
            synthetic([IMAGE], count=1, shapes={"data": shape})
    with pytest.raises(DataError, match="declares no shape"):
        synthetic([floats(None)], count=1)


@pytest.mark.parametrize("labels", [np.arange(5), np.arange(5.0), np.arange(5)[:, None], np.arange(5, dtype=np.uint8)])
def test_labelled_samples(tmp_path, labels):
    x = normal(5, 4)
    samples, y = load_labelled(str(npz(tmp_path / "d.npz", x=x, y=labels)), [ROWS])
    assert (samples.count, y.dtype, y.tolist()) == (5, np.int64, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(samples.feed(range(5))["data"], x)


def test_labels_of_a_fixed_batch_and_no_mirroring(tmp_path):
    path = npz(tmp_path / "d.npz", data=normal(5, 4), labels=np.arange(5))
    samples, y = load_labelled(path, [floats((2, 4))])
    assert (samples.count, y.tolist()) == (2, [[0, 1], [2, 3]])
    path = npz(tmp_path / "d.npz", data=normal(2, 3, 8, 8), labels=np.arange(2))
    assert load_labelled(path, [IMAGE], preprocessing=Preprocessing(mirror=True))[0].count == 2


def test_an_input_called_y_is_no_label(tmp_path):
    item = floats(("N", 4), "y")
    samples, y = load_labelled(npz(tmp_path / "d.npz", y=normal(2, 4), labels=[1, 0]), [item])
    assert (samples.count, y.tolist()) == (2, [1, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no labels"),
        ({"y": np.arange(4)}, "one label for each of the 5 samples"),
        ({"y": np.zeros((5, 10))}, "one label for each"),
        ({"y": np.full(5, 0.5)}, "class numbers"),
        ({"y": np.full(5, np.nan)}, "class numbers"),
        ({"y": np.array(["a"] * 5)}, "class numbers"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_labelled(npz(tmp_path / "d.npz", x=normal(5, 4), **arrays), [ROWS])


def test_sidecar(tmp_path):
    model = tmp_path / "net.v1.onnx"
    assert sidecar(model) is None
    beside = npz(tmp_path / "net.v1.calib.npz", x=normal(1, 4))
    assert sidecar(str(model)) == beside == Path(beside)


def test_made_up_sizes_may_be_sums_of_others():
    inputs = [floats(("N", "past + now"), "mask"), floats(("N", "past"), "past"), floats(("N", "now"), "x")]
    for given, lengths in (
        ({}, (32, 16, 16)),
        ({"past": (1, 4)}, (20, 4, 16)),
        ({"past": (1, 4), "x": (1, 3)}, (7, 4, 3)),
    ):
        samples = synthetic(inputs, count=2, shapes=given)
        assert [samples.feed([0, 1])[name].shape for name in ("mask", "past", "x")] == [(2, n) for n in lengths]
